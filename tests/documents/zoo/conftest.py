"""The zoo: inputs on which products of this kind have failed. The number of each file is that of its input."""

from pathlib import Path

import pytest

from aiworkspace_server.parsing.assembly import Parsed
from aiworkspace_server.parsing.failures import ParseFailed
from aiworkspace_server.parsing.parser import Parser


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The most memory, in bytes, of the child in which the server has parsed a file, by the name of the file."""
    found: dict[str, int] = {}
    parse = Parser.parse

    async def noted(parser: Parser, path: Path, name: str, declared: str) -> Parsed:
        try:
            parsed = await parse(parser, path, name, declared)
        except ParseFailed as failed:
            found[name] = failed.peak_memory
            raise
        found[name] = parsed.peak_memory
        return parsed

    monkeypatch.setattr(Parser, "parse", noted)
    return found
