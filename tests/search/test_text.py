"""Full text: what is found, in which order, and what is not."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from uuid import UUID

import pytest

from aiworkspace_server.search.models import Filters, Hit
from aiworkspace_server.search.query import Search
from aiworkspace_server.search.text_query import K1, B
from tests.support.indexed import Library

ALL = Filters()


async def find(
    search: Search, library: Library, question: str, filters: Filters = ALL, limit: int = 10
) -> Sequence[Hit]:
    return (await search.search(library.asker, question, filters, limit)).hits


async def texts(search: Search, library: Library, question: str) -> list[str]:
    return [hit.text for hit in await find(search, library, question)]


def bm25(chunks: dict[tuple[UUID, int], list[str]], question: list[str]) -> dict[tuple[UUID, int], float]:
    """Lucene's formula, over words as they are."""
    average = sum(map(len, chunks.values())) / len(chunks)
    found = Counter(word for words in chunks.values() for word in set(words))
    scores: defaultdict[tuple[UUID, int], float] = defaultdict(float)
    for key, words in chunks.items():
        counts = Counter(words)
        for word in set(question) & counts.keys():
            rarity = math.log(1 + (len(chunks) - found[word] + 0.5) / (found[word] + 0.5))
            scores[key] += rarity * counts[word] / (counts[word] + K1 * (1 - B + B * len(words) / average))
    return scores


@pytest.mark.parametrize("seed", range(5))
async def test_order_is_that_of_bm25(search: Search, library: Library, seed: int) -> None:
    chance = random.Random(seed)
    words = [f"{letter}{digit}" for letter in "abcdef" for digit in range(4)]
    chunks: dict[tuple[UUID, int], list[str]] = {}
    for _ in range(chance.randint(1, 8)):
        some = [chance.choices(words, k=chance.randint(1, 30)) for _ in range(chance.randint(1, 5))]
        version = await library.add(*(" ".join(each) for each in some), language="simple")
        chunks |= {(version.version_id, number): each for number, each in enumerate(some)}
    for _ in range(10):
        question = chance.sample(words, chance.randint(1, 6))
        expected = bm25(chunks, question)
        hits = await find(search, library, " ".join(question), limit=1000)
        assert {(hit.version_id, hit.number) for hit in hits} == expected.keys()
        scores = [expected[hit.version_id, hit.number] for hit in hits]
        assert scores == pytest.approx(sorted(scores, reverse=True))


async def test_hit_says_where_it_is(search: Search, library: Library) -> None:
    version = await library.add("alpha beta", "gamma delta", heading="Guide")
    [hit] = await find(search, library, "delta")
    assert (hit.document_id, hit.version_id, hit.number) == (version.document_id, version.version_id, 1)
    assert (hit.start, hit.end, hit.text, hit.heading, hit.place) == (11, 22, "gamma delta", "Guide", {"line": 2})
    assert (hit.text_rank, hit.vector_rank) == (1, None)


async def test_heading_is_searched(search: Search, library: Library) -> None:
    await library.add("alpha beta", heading="Installation")
    assert await texts(search, library, "installation") == ["alpha beta"]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("见证了长江大桥的建成", "大桥"),
        ("東京都に住んでいる", "京都"),
        ("대한민국의 수도는 서울이다", "서울"),
        ("ราคาน้ำมันวันนี้", "น้ำมัน"),
        ("Die Häuser der Stadt sind nicht mit den anderen zu vergleichen", "Haus"),
        ("Les chevaux sont dans les prés pour manger avec les vaches", "cheval"),
        ("Он читает книги в библиотеке", "книга"),
        ("The runners were running in the rain", "run"),
        ("See https://example.com/guide_book/page.html for it", "guide"),
        ("See https://example.com/guide_book/page.html for it", "example.com"),
        ("Write to john.smith@corp.example today", "smith"),
        ("In /usr/local/bin it is", "local"),
        ("On 2024-05-06 it rained", "05"),
        ("the well-known state-of-the-art", "known"),
        ("snake_case_name in code", "case"),
        ("Version 10.2.7 of it", "10.2.7"),
        ("Written in C++ by us", "c++"),
        ("a “quoted”—dashed word", "quoted"),
        ("the ﬁnal ofﬁce", "final office"),
        ("co\u00adoperate", "cooperate"),
        ("\uff26\uff35\uff2c\uff2c width", "full"),
        ("ÉCOLE ΑΒΓ", "école"),
        ("it is 'quoted' and back\\slashed o'clock", "slashed"),
    ],
)
async def test_part_of_a_text_is_found(search: Search, library: Library, text: str, question: str) -> None:
    await library.add(text)
    await library.add("unrelated")
    assert await texts(search, library, question) == [text]


async def test_languages_of_a_workspace_are_searched_together(search: Search, library: Library) -> None:
    german = "Die Häuser der Stadt sind nicht mit den anderen zu vergleichen"
    await library.add(german)
    await library.add("The houses of the town are not to be compared with others")
    assert await texts(search, library, "Haus") == [german]


@pytest.mark.parametrize("question", ["", " ", "?!", "the of and", "\u200b", "'\\", "a" * 2000, "🙂"])
async def test_question_without_words_finds_nothing(search: Search, library: Library, question: str) -> None:
    await library.add("the alpha beta of and")
    assert await texts(search, library, question) == []


async def test_question_of_many_words_uses_the_rarest(search: Search, library: Library) -> None:
    common = [f"common{n:03}" for n in range(200)]
    await library.add(*[" ".join(common)] * 3)
    await library.add("needle")
    assert "needle" in await texts(search, library, " ".join(["needle", *common]))


async def test_first_and_last_of_two_megabytes_of_distinct_words_are_found(search: Search, library: Library) -> None:
    words = [f"w{n:06}" for n in range(1, 250_001)]
    version = await library.add(*(" ".join(words[at : at + 500]) for at in range(0, len(words), 500)))
    for word in (words[0], words[-1]):
        [hit] = await find(search, library, word)
        assert word in hit.text.split()
    await library.erase(version)
    assert await texts(search, library, words[0]) == []


async def test_many_versions_with_as_many_chunks_are_ranked(search: Search, library: Library) -> None:
    """Their numbers and those of their chunks run through the same range, which must not make hashes collide."""
    for _ in range(40):
        await library.add(*["alpha"] * 64, language="simple")
    assert len(await find(search, library, "alpha", limit=200)) == 200
