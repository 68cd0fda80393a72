"""What a module logs, at every level: the log of the tests has errors alone."""

import logging
from types import ModuleType
from typing import Any

import pytest
import structlog


def logged_by(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The entries that the module logs from now on."""
    capture = structlog.testing.LogCapture()
    every_level = structlog.make_filtering_bound_logger(logging.DEBUG)
    monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[capture], wrapper_class=every_level))
    return capture.entries
