"""Programs and files that not every machine has. A run that claims to be complete fails where they are missing."""

import os
import shutil
from typing import NoReturn

import pytest

_ELSEWHERE = "/usr/sbin:/usr/local/sbin"  # where Debian has servers, which the PATH of a user may lack


def find_program(name: str, package: str) -> str:
    """The path of a program. Skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_ELSEWHERE}")
    return found or missing(f"{name} was not found: install the Debian package {package}")


def missing(what: str) -> NoReturn:
    """Skips the test, or fails it where AIWS_TESTS_COMPLETE says that nothing may be missing."""
    if os.environ.get("AIWS_TESTS_COMPLETE") == "1":
        pytest.fail(what)
    pytest.skip(what)
