"""Finds the programs of the databases."""

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from aiworkspace_server.kit.embedded.place import EmbeddedError

ON_COMMON_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"


def program(name: str, wheels: dict[str, str], setting: str, *others: str, packaged: bool = True) -> Path:
    """Return the path of program `name`: from one of the `wheels` (distribution to directory), else from PATH.

    `others` are compatible programs to look for on PATH. `packaged`: aiworkspace[embedded] brings one for this
    platform and Python, as pyproject.toml says.
    """
    for wheel, directory in wheels.items():
        try:
            path = Path(str(distribution(wheel).locate_file(f"{directory}/{name}")))
        except PackageNotFoundError:
            continue
        if os.access(path, os.X_OK):
            return path
    for candidate in (name, *others):
        if found := shutil.which(candidate):
            return Path(found)
    if packaged:
        raise EmbeddedError(f"{name} was not found: install aiworkspace[embedded], put it on PATH, or set {setting}")
    raise EmbeddedError(f"{name} was not found, and no package has it for {_here()}: put it on PATH, or set {setting}")


def _here() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor} on {sys.platform} ({platform.machine()})"
