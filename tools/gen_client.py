"""Writes the generated part of the client: aiworkspace_client/_generated/ and types.py."""

import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import contract
from tools.namespaces import HEADER, docstring, namespaces

CLIENT = contract.ROOT / "client" / "aiworkspace_client"
_EVERY_FILE = HEADER.format(file="*.proto")
_PACKAGES = {
    "": "Namespaces of the client, one for each service.",
    "aio": "Asynchronous versions.",
    "sync": "Synchronous versions.",
}


def main() -> None:
    types = contract.load()
    folder = CLIENT / "_generated"
    shutil.rmtree(folder, ignore_errors=True)
    for part, doc in _PACKAGES.items():
        write(folder / part / "__init__.py", _EVERY_FILE + docstring(doc, 0))
    for service in types.services:
        for each in namespaces(service, types):
            write(folder / "aio" / f"{each.name}.py", each.async_source())
            write(folder / "sync" / f"{each.name}.py", each.sync_source())
    write(CLIENT / "types.py", types_source(types))


# Declared with the options of methods, and used in messages, too.
_OPTIONS_OF_MESSAGES = {"RateLimitClass"}


def types_source(types: contract.Contract) -> str:
    """Return the source of a module that exports all messages and enums of calls."""
    files = {service.file for service in types.services} | {"common"}
    public = [
        each
        for each in types.named.values()
        if (each.file in files and not each.name.endswith(("Request", "Response"))) or each.name in _OPTIONS_OF_MESSAGES
    ]
    imports = [f"from aiworkspace.v1.{each.file}_pb2 import {each.name}" for each in public]
    exported = ", ".join(f'"{each.name}"' for each in public)
    doc = docstring("The contract's messages and enums.", 0)
    return "\n".join([_EVERY_FILE + doc, *imports, f"__all__ = [{exported}]", ""])


def write(path: Path, source: str) -> None:
    """Write a module, without unused imports, sorted and formatted."""
    ruff, name = [sys.executable, "-m", "ruff"], ["--stdin-filename", str(path), "-"]
    fix = [*ruff, "check", "--fix-only", "--quiet", "--select=F401,I,RUF022", *name]
    for command in (fix, [*ruff, "format", "--quiet", *name]):
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


if __name__ == "__main__":
    main()
