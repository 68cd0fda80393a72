"""Where the programs of the databases come from."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from aiworkspace_server.kit.embedded.place import EmbeddedError


def program(name: str, wheels: dict[str, str], setting: str) -> Path:
    """The program `name`: from one of the `wheels` (distribution to directory inside it), else from PATH."""
    for wheel, directory in wheels.items():
        try:
            path = Path(str(distribution(wheel).locate_file(f"{directory}/{name}")))
        except PackageNotFoundError:
            continue
        if os.access(path, os.X_OK):
            return path
    if found := shutil.which(name):
        return Path(found)
    raise EmbeddedError(f"{name} was not found: install aiworkspace[embedded], put it on PATH, or set {setting}")
