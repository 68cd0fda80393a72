"""The parent's side: children that are killed, cancelled or too slow, and the recognition of pictures."""

import asyncio
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from aiworkspace_server.parsing.assembly import Assembly, Parsed
from aiworkspace_server.parsing.failures import FailureReason, ParseFailed
from aiworkspace_server.parsing.limits import Limits
from aiworkspace_server.parsing.parser import Parser
from tests.support import files
from tests.support.loop_time import watching_loop
from tests.support.waiting import until_true

from .conftest import Refusal

SLOW = b"<p><span>" * 600_000  # takes the parser much longer than any of these tests
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def parsing_processes() -> set[int]:
    """The children of this process that parse."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(child) for child in listed if b"parsing.child" in Path(f"/proc/{child}/cmdline").read_bytes()}


async def start(parser: Parser, path: Path, data: bytes, name: str) -> tuple[asyncio.Task[Parsed], int]:
    """Begin to parse. Return the task and the id of the child."""
    path.write_bytes(data)
    before = parsing_processes()
    task = asyncio.create_task(parser.parse(path, name))
    (child,) = await until_true(lambda: parsing_processes() - before)
    return task, child


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_child_killed_from_outside_is_a_crash(tmp_path: Path, number: signal.Signals) -> None:
    task, child = await start(Parser(), tmp_path / "slow", SLOW, "a.html")
    os.kill(child, number)
    with pytest.raises(ParseFailed, match=number.name) as caught:
        await task
    assert caught.value.reason == FailureReason.PARSER_CRASHED


@linux
async def test_cancelled_parse_kills_its_child_and_releases_its_slot(tmp_path: Path) -> None:
    parser = Parser(concurrency=1)
    task, child = await start(parser, tmp_path / "slow", SLOW, "a.html")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not Path(f"/proc/{child}").exists()
    (tmp_path / "a.txt").write_bytes(b"text")
    assert (await parser.parse(tmp_path / "a.txt", "a.txt")).text == "text"


@linux
async def test_no_more_children_than_allowed_run_at_once(tmp_path: Path) -> None:
    parser = Parser(concurrency=1)
    first, child = await start(parser, tmp_path / "slow", SLOW, "a.html")
    (tmp_path / "a.txt").write_bytes(b"text")
    second = asyncio.create_task(parser.parse(tmp_path / "a.txt", "a.txt"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert parsing_processes() == {child}
    first.cancel()
    assert (await second).text == "text"


async def test_slow_parse_ends_with_a_timeout(refusal: Refusal) -> None:
    assert (await refusal(SLOW, "a.html", Limits(seconds=1))).reason == FailureReason.PARSER_TIMEOUT


async def test_large_result_does_not_hold_the_event_loop(tmp_path: Path) -> None:
    text = "wörter und 漢字 😀\n" * 600_000
    (tmp_path / "a.txt").write_text(text)
    with watching_loop() as loop:
        parsed = await Parser().parse(tmp_path / "a.txt", "a.txt")
    assert parsed.text.count("漢字") == 600_000
    assert loop.longest < 0.05, loop.what


async def test_pages_without_text_are_read_by_tesseract(tmp_path: Path) -> None:
    """A program in the place of tesseract says what it was given, and that it reaches no network."""
    program = tmp_path / "tesseract"
    program.write_text(
        f"#!{sys.executable}\nimport socket, sys\nhead = sys.stdin.buffer.read().split(b' ', 3)[:3]\n"
        "try:\n    network = socket.socket()\nexcept OSError:\n    network = None\n"
        "print('recognized', *(part.decode() for part in head), sys.argv[1:], network)\n"
    )
    program.chmod(0o700)
    path = tmp_path / "scan.pdf"
    path.write_bytes(files.pdf("text", files.Picture("picture"), files.BLANK))
    parsed = await Parser(tesseract=str(program)).parse(path, "scan.pdf")
    assert parsed.unread_pages == []
    assert parsed.text == "text\n\nrecognized P5 1700 2200 ['stdin', 'stdout'] None"
    assert [block.place for block in parsed.blocks] == [{"page": 1}, {"page": 2}]


async def test_page_that_tesseract_fails_on_stays_unread(tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(files.pdf("text", files.Picture("picture")))
    assert (await Parser(tesseract="/no/such/program").parse(path, "scan.pdf")).unread_pages == [2]
    assert (await Parser(tesseract="/bin/false").parse(path, "scan.pdf")).unread_pages == [2]


DONE = {"media_type": "text/plain", "page_count": 0, "unread_pages": [], "peak_memory": 0}
TEXT = {"text": "abc"}
BLOCK = {"blocks": [[0, 3, {"line": 1}]]}


def assembled(messages: list[dict[str, Any]], **done: object) -> Parsed:
    assembly = Assembly(Limits(text_code_points=10, blocks=2, pages=5))
    for message in messages:
        assembly.add(message)
    return assembly.finish(DONE | done)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"text": "abc"}],
        [{"text": "a\0c"}, {"blocks": [[0, 3, {}]]}],
        [{"text": "abc"}, {"blocks": [[0, 4, {}]]}],
        [{"text": "abc"}, {"blocks": [[2, 2, {}]]}],
        [{"text": "abc"}, {"blocks": [[0, 2, {}], [1, 3, {}]]}],
        [{"text": "abc"}, {"blocks": [[0, 2, "page"]]}],
        [{"text": "abc"}, {"blocks": [[0, 2.5, {}]]}],
        [{"text": "abc"}, {"blocks": [[0, True, {}]]}],
        [{"text": "abc"}, {"blocks": [[0, 3, {"page": "1"}]]}],
        [{"text": "abc"}, {"blocks": [[0, 3, {"page": 1 << 31}]]}],
        [{"text": "abc"}, {"blocks": [[0, 3, {"unknown": 1}]]}],
        [{"text": "abc"}, {"blocks": [[0, 3, {"headings": ["a\0"]}]]}],
        [{"text": "abc"}, {"blocks": [[0, 3, {"headings": ["a" * 200] * 90}]]}],
        [{"text": ""}],
    ],
)
def test_result_that_breaks_the_rules_of_the_text_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ParseFailed) as caught:
        assembled(messages)
    assert caught.value.reason == FailureReason.PARSER_CRASHED


@pytest.mark.parametrize(
    "done",
    [
        {"media_type": 1},
        {"media_type": "text/plain\0"},
        {"media_type": "text/" + "x" * 101},
        {"page_count": "1"},
        {"page_count": -1},
        {"page_count": 6},
        {"page_count": True},
        {"page_count": 2, "unread_pages": [3]},
        {"page_count": 2, "unread_pages": [1, 1]},
        {"page_count": 2, "unread_pages": [1.0]},
        {"peak_memory": None},
    ],
)
def test_last_message_that_breaks_its_rules_is_refused(done: dict[str, object]) -> None:
    with pytest.raises(ParseFailed) as caught:
        assembled([TEXT, BLOCK], **done)
    assert caught.value.reason == FailureReason.PARSER_CRASHED


def test_result_within_the_rules_is_accepted() -> None:
    parsed = assembled([TEXT, BLOCK], page_count=5, unread_pages=[2, 5])
    assert (parsed.text, parsed.page_count, parsed.unread_pages) == ("abc", 5, [2, 5])


@pytest.mark.parametrize(
    "messages",
    [
        [{"text": "a" * 11}, {"blocks": [[0, 1, {}]]}],
        [TEXT, {"blocks": [[at, at + 1, {"line": at + 1}] for at in range(3)]}],
    ],
)
def test_child_that_ignores_the_limits_of_the_text_is_stopped(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(ParseFailed) as caught:
        assembled(messages)
    assert caught.value.reason == FailureReason.TOO_MUCH_TEXT


def placed(first: int, names: Callable[[int], list[str]]) -> dict[str, Any]:
    """A message as it is read: with 10 blocks of one character, each with these headings."""
    blocks = [[at, at + 1, {"line": at + 1, "headings": names(at), "sheet": "one"}] for at in range(first, first + 10)]
    return cast(dict[str, Any], orjson.loads(orjson.dumps({"blocks": blocks})))


def test_places_of_all_blocks_together_are_bounded_in_memory() -> None:
    """Each place alone is within its bound, and they are few, but short names take twelve times their size."""
    assembly = Assembly(Limits())
    assembly.add({"text": "a" * 5_000})

    def add_all() -> None:
        for first in range(0, 5_000, 10):
            assembly.add(placed(first, lambda at: [f"{(at + name) % 89:02}" for name in range(3_000)]))

    tracemalloc.start()
    try:
        with pytest.raises(ParseFailed) as caught:
            add_all()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.reason == FailureReason.TOO_MUCH_TEXT
    assert peak < 160 << 20


def test_places_of_all_blocks_together_are_bounded_in_length() -> None:
    """Each place alone is within its bound, and they are few and equal, but together they take 80 MiB."""
    assembly = Assembly(Limits())
    assembly.add({"text": "a" * 5_000})
    place = {"headings": ["a" * 200] * 80}
    with pytest.raises(ParseFailed) as caught:
        assembly.add({"blocks": [[at, at + 1, place] for at in range(5_000)]})
    assert caught.value.reason == FailureReason.TOO_MUCH_TEXT


def test_places_with_the_names_of_the_one_before_share_them() -> None:
    assembly = Assembly(Limits())
    assembly.add({"text": "a" * 20_000})
    tracemalloc.start()
    try:
        for first in range(0, 20_000, 10):
            assembly.add(placed(first, lambda at: ["b" * 200] * 9 + [f"section {at // 100}"]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    done = {"media_type": "text/plain", "page_count": 0, "unread_pages": [], "peak_memory": 0}
    last = assembly.finish(done).blocks[-1]
    assert last == (19_999, 20_000, {"line": 20_000, "headings": ["b" * 200] * 9 + ["section 199"], "sheet": "one"})
