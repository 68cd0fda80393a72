"""Names of documents as names of files, on every system and inside one folder."""

import re

_MOST_BYTES = 200  # file systems take 255
_MOST_SUFFIX = 20
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # by Windows


def safe_name(name: str) -> str:
    """Return a name that leads out of no folder. Its suffix stays if the name has to be cut."""
    safe = _UNSAFE.sub("_", name).strip(" .")
    if not safe:
        return "document"
    if _RESERVED.match(safe):
        safe = f"_{safe}"
    if len(safe.encode()) <= _MOST_BYTES:
        return safe
    stem, dot, suffix = safe.rpartition(".")
    if not stem or len(suffix.encode()) > _MOST_SUFFIX:
        stem, dot, suffix = safe, "", ""
    room = _MOST_BYTES - len((dot + suffix).encode())
    return stem.encode()[:room].decode(errors="ignore") + dot + suffix
