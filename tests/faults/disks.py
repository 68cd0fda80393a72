"""A disk of its own for one database, small enough to be filled."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .verdict import Skipped

_BLOCKS = (1 << 20, 4096)  # bytes: most of the room quickly, then all that is left


class Disk:
    """A file takes all the room that the database leaves."""

    def __init__(self, path: Path) -> None:
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no room. Again, for what became free since."""
        for size in _BLOCKS:
            with suppress(OSError), self._ballast.open("ab", buffering=0) as file:
                while file.write(bytes(size)):
                    pass

    def give_room(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """Mount a file system in memory at a new directory. Raises Skipped where that is not possible."""
    path.mkdir(mode=0o700, parents=True)
    mount, unmount = _program("mount"), _program("umount")
    options = f"size={megabytes}m,mode=0700"
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", options, "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Skipped(f"no disk of a limited size can be mounted: {' '.join(done.stderr.split())}")
    try:
        yield Disk(path)
    finally:
        subprocess.run([unmount, str(path)], check=True)


def _program(name: str) -> str:
    if found := shutil.which(name):
        return found
    raise Skipped(f"no disk of a limited size can be mounted: {name} is not installed")
