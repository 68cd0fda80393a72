"""Chunks cover a text and fit in the window, whatever it is made of."""

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.embedding.base import with_heading
from aiworkspace_server.embedding.counting import count_bytes, load_tokenizer, token_counter
from aiworkspace_server.embedding.process import TextConfig, TextProcess
from aiworkspace_server.embedding.splitting import MOST_CHARACTERS, Cut, Splitter

from .conftest import NewProcess

ALPHABETS = [
    string.ascii_letters,
    string.printable,
    "的一是在不了有和人这\uff0c。\uff01",
    "ぁあぃいうえカキクケコ、。",
    "가나다라마바사 ",
    "สวัสดีครับ",
    "e\u0301\u0302\u0323a",
    "👩\u200d👧🏽🇩🇪❤\ufe0f",
    "\t\n\r \u00a0\u2003\u3000",
    "()[]{}.,;:-_/\\",
]
WORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    *(st.text(alphabet, min_size=1, max_size=400) for alphabet in ALPHABETS),
    st.tuples(st.sampled_from([*"x-的é👧🏽\n", "ab ", "\u0301"]), st.integers(1, 3000)).map(
        lambda pair: pair[0] * pair[1]
    ),
)
PIECES = st.lists(st.tuples(WORDS, st.sampled_from(["", " ", "\n", "\n\n", ". ", "。"])), max_size=12)
TEXTS = PIECES.map(lambda pieces: "".join(word + end for word, end in pieces))
HEADINGS = st.lists(st.sampled_from(["", "Guide", "2. Install\nit", "章" * 90, "long " * 60]), max_size=4)


@pytest.fixture(scope="module", params=["tokens", "few tokens", "bytes"])
def splitter(request: pytest.FixtureRequest, weights: Path) -> tuple[Splitter, int]:
    if request.param == "bytes":
        return Splitter(count_bytes, 0, 8191), 8191
    window = 256 if request.param == "tokens" else 64
    return Splitter(*token_counter(weights / "tokenizer.json"), window), window


def uncovered(text: str, start: int, end: int, cuts: list[Cut]) -> str:
    """What is in no chunk."""
    edges = [start, *(edge for cut in cuts for edge in (cut.start, cut.end)), end]
    return "".join(text[edges[at] : edges[at + 1]] for at in range(0, len(edges), 2))


@given(before=TEXTS, text=TEXTS, path=HEADINGS)
def test_chunks_cover_a_block_in_order_and_fit(
    splitter: tuple[Splitter, int], weights: Path, before: str, text: str, path: list[str]
) -> None:
    split, window = splitter
    heading = split.heading({"headings": path})
    whole = before + text
    cuts = split.split(whole, [(0, len(before), ""), (len(before), len(whole), heading)])
    spans = [edge for cut in cuts for edge in (cut.start, cut.end)]
    assert spans == sorted(spans), "in order, without overlap"
    for number, (start, end) in enumerate([(0, len(before)), (len(before), len(whole))]):
        inside = [cut for cut in cuts if cut.block == number]
        assert not uncovered(whole, start, end, inside).strip()
        assert all(start <= cut.start < cut.end <= end for cut in inside)
    chunks = [whole[cut.start : cut.end] for cut in cuts]
    assert [chunk.strip() for chunk in chunks] == chunks
    assert max(map(len, chunks), default=0) <= MOST_CHARACTERS
    assert all(cut.token_count <= window for cut in cuts)
    if window < 8191:
        tokenizer = load_tokenizer(weights / "tokenizer.json")
        read = [with_heading(heading if cut.block else "", whole[cut.start : cut.end]) for cut in cuts]
        sizes = [len(each.ids) for each in tokenizer.encode_batch(read)]
        assert all(size <= cut.token_count for size, cut in zip(sizes, cuts, strict=True))


async def test_heading_is_the_path_and_no_part_of_the_chunk(process: TextProcess) -> None:
    text = "Intro.\n\nRun it."
    [one, two] = await process.split(
        text, [(0, 6, {"page": 1}), (8, 15, {"page": 2, "headings": ["Guide", "Install"]})]
    )
    assert (one.start, one.end, one.heading, one.place) == (0, 6, "", {"page": 1})
    assert (two.start, two.end, two.heading) == (8, 15, "Guide > Install")
    assert two.place == {"page": 2, "headings": ["Guide", "Install"]}
    assert two.token_count == 2 + 3 + 3


async def test_heading_above_another_is_found_with_what_is_below(process: TextProcess) -> None:
    lines = ["# Guide", "## 2. Install *it*", "Run the script.", "## Use", "# End"]
    paths = [["Guide"], ["Guide", "2. Install it"], ["Guide", "2. Install it"], ["Guide", "Use"], ["End"]]
    text, blocks = "", list[tuple[int, int, dict[str, object]]]()
    for line, path in zip(lines, paths, strict=True):
        blocks.append((len(text), len(text) + len(line), {"headings": path}))
        text += f"{line}\n"
    chunks = await process.split(text, blocks)
    found = [(chunk.heading, text[chunk.start : chunk.end]) for chunk in chunks]
    assert found == [
        ("Guide > 2. Install it", "## 2. Install *it*"),
        ("Guide > 2. Install it", "Run the script."),
        ("Guide > Use", "## Use"),
        ("End", "# End"),
    ]


def test_long_heading_keeps_its_end_and_a_quarter_of_the_window(weights: Path) -> None:
    count, special = token_counter(weights / "tokenizer.json")
    split = Splitter(count, special, 64)
    heading = split.heading({"headings": ["章" * 300, "The last one"]})
    assert heading.endswith("The last one")
    assert count([heading])[0] <= 16
    assert len(split.heading({"headings": ["a " * 500, "b"]})) <= 200


async def test_run_of_letters_between_sentences_is_cut(process: TextProcess) -> None:
    chance = random.Random(8)
    run = "".join(chance.choices(string.ascii_lowercase, k=300_000))
    text = f"The whale swims in the sea. {run} The piano stands in the hall."
    chunks = await process.split(text, [(0, len(text), {})])
    quotes = [text[chunk.start : chunk.end] for chunk in chunks]
    assert quotes[0] == "The whale swims in the sea."
    assert quotes[-1] == "The piano stands in the hall."
    assert "".join(quotes[1:-1]) == run
    assert max(map(len, quotes)) <= 1000
    assert max(chunk.token_count for chunk in chunks) <= 256


async def test_distinct_words_are_all_in_chunks(process: TextProcess) -> None:
    text = " ".join(f"w{number:06d}" for number in range(1, 100_000))
    chunks = await process.split(text, [(0, len(text), {})])
    assert text[chunks[0].start : chunks[0].end].startswith("w000001 ")
    assert text[chunks[-1].start : chunks[-1].end].endswith(" w099999")
    assert [word for chunk in chunks for word in text[chunk.start : chunk.end].split()] == text.split()


async def test_block_of_a_million_characters_is_cut_after_spaces(process: TextProcess) -> None:
    text = "abc def\n" * 130_000
    chunks = await process.split(text, [(0, 8, {}), (8, len(text), {"page": 2})])
    assert {text[chunk.end : chunk.end + 1] for chunk in chunks} <= {" ", "\n"}
    assert sum(len(text[chunk.start : chunk.end].split()) for chunk in chunks) == 260_000
    assert [chunk.place for chunk in chunks] == [{}] + [{"page": 2}] * (len(chunks) - 1)


@pytest.mark.parametrize("window", [256, 8191])
async def test_chinese_is_cut_after_sentences(new_process: NewProcess, weights: Path, window: int) -> None:
    """It has no spaces: a text is one run, whose sentences must not be taken apart."""
    chance = random.Random(4)
    sentences = [
        "".join(chance.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=chance.randint(5, 40))) + "。" for _ in range(300)
    ]
    text = "".join(sentences)
    process = new_process(TextConfig(window, weights / "tokenizer.json" if window == 256 else None))
    chunks = await process.split(text, [(0, len(text), {})])
    assert {text[chunk.end - 1] for chunk in chunks} == {"。"}
    most = 254 if window == 256 else 8191 // 3
    assert len(chunks) <= len(text) / (most - 45) + 1, "each is as full as sentences allow"


async def test_chunks_in_bytes_leave_room_for_the_special_tokens_of_a_server(new_process: NewProcess) -> None:
    text = "天地玄黄" * 200
    chunks = await new_process(TextConfig(128, None)).split(text, [(0, len(text), {})])
    assert "".join(text[chunk.start : chunk.end] for chunk in chunks) == text
    sizes = [len(text[chunk.start : chunk.end].encode()) for chunk in chunks]
    assert max(sizes) <= 120
    assert [chunk.token_count for chunk in chunks] == [size + 8 for size in sizes]


async def test_text_a_little_longer_than_the_window_has_two_even_chunks(process: TextProcess) -> None:
    text = "This sentence has eight tokens in it. " * 33
    chunks = await process.split(text, [(0, len(text), {})])
    assert len(chunks) == 2
    assert min(chunk.end - chunk.start for chunk in chunks) > len(text) / 3


async def test_offsets_are_code_points(process: TextProcess) -> None:
    text = "👩\u200d👧 e\u0301 \U0001d4b3 \u00df\n\n" * 200 + "needle"
    chunks = await process.split(text, [(0, len(text), {})])
    assert text[chunks[-1].start : chunks[-1].end].endswith("needle")
    assert sum(text[chunk.start : chunk.end].count("👩\u200d👧") for chunk in chunks) == 200
    assert not any(text[chunk.start] in "\u0301\u200d" for chunk in chunks)


async def test_text_without_words_has_no_chunks(process: TextProcess) -> None:
    assert await process.split(" \n\t\u3000", [(0, 4, {}), (2, 2, {})]) == []
    assert await process.split("", []) == []
