"""Parses bytes as if they had been uploaded under a name."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiworkspace_server.parsing.assembly import Parsed
from aiworkspace_server.parsing.failures import ParseFailed
from aiworkspace_server.parsing.limits import Limits
from aiworkspace_server.parsing.parser import Parser

Parse = Callable[..., Awaitable[Parsed]]
Refusal = Callable[..., Awaitable[ParseFailed]]


@pytest.fixture
def parse(tmp_path: Path) -> Parse:
    """Return the result for bytes and a name, with the default limits or others."""

    async def parse_bytes(data: bytes, name: str = "notes.txt", limits: Limits | None = None) -> Parsed:
        path = tmp_path / "file"
        path.write_bytes(data)
        parsed = await Parser(limits).parse(path, name)
        check(parsed)
        return parsed

    return parse_bytes


@pytest.fixture
def refusal(parse: Parse) -> Refusal:
    """Return the failure for bytes and a name."""

    async def failed(data: bytes, name: str = "notes.txt", limits: Limits | None = None) -> ParseFailed:
        with pytest.raises(ParseFailed) as caught:
            await parse(data, name, limits)
        return caught.value

    return failed


def check(parsed: Parsed) -> None:
    """What holds for every canonical text: blocks are in order, apart, and have text; NULs and surrogates are gone."""
    end = 0
    for block in parsed.blocks:
        assert end <= block.start < block.end <= len(parsed.text)
        assert parsed.text[block.start : block.end].strip()
        assert not parsed.text[end : block.start].strip()  # all text is in a block
        end = block.end
    assert not parsed.text[end:].strip()
    assert all(before.place != after.place for before, after in zip(parsed.blocks, parsed.blocks[1:], strict=False))
    assert not set(parsed.text) & {"\0", "\r", "\f", "\v"}
    parsed.text.encode()
