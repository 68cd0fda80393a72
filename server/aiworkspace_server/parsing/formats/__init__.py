"""One parser for each kind of file. Each module has `parse`; `child` imports only the module that it needs."""
