"""Rows of postings, which the versions of a workspace share."""

import asyncio
import random
from collections.abc import Sequence
from itertools import zip_longest
from uuid import UUID

import pytest

from aiworkspace_server.search import index, postings
from aiworkspace_server.search.models import Filters, IndexedVersion
from aiworkspace_server.search.query import Search
from tests.support.indexed import Library, chunks_of
from tests.support.postgres import sql

_OCCURRENCES = """
SELECT lexeme, o >> 24, (o >> 16) & 255, o & 65535 FROM postings, unnest(occurrences) o WHERE org_id = %s ORDER BY 1, 2
"""
_EXPECTED = """
SELECT l.lexeme, v.first_chunk + c.number, cardinality(l.positions)::bigint, c.lexeme_count::bigint
FROM (SELECT org_id, version_id, first_chunk, chunk_count FROM search_versions
      UNION ALL
      SELECT org_id, version_id, first_chunk, posted_count FROM hidden_versions) v(org, version, first_chunk, count)
JOIN chunks c ON c.org_id = v.org AND c.version_id = v.version AND c.number < v.count, unnest(c.lexemes) l
WHERE v.org = %s ORDER BY l.lexeme COLLATE "C", 2
"""
_WRONG_ROWS = """
SELECT lexeme, first_chunk FROM postings
WHERE org_id = %s AND (cardinality(occurrences) NOT BETWEEN 1 AND 128
  OR EXISTS (SELECT FROM unnest(occurrences) o WHERE o >> 24 NOT BETWEEN first_chunk AND last_chunk))
"""
_SIZES = "SELECT cardinality(occurrences) FROM postings WHERE org_id = %s AND lexeme = %s ORDER BY first_chunk"


async def wrong(library: Library) -> list[object]:
    """What differs if each chunk whose postings are written has each of its lexemes once, and nothing else is there."""
    found, expected = [await sql(library.stores, query, library.org_id) for query in (_OCCURRENCES, _EXPECTED)]
    differing = [pair for pair in zip_longest(found, expected) if pair[0] != pair[1]]
    return differing + list(await sql(library.stores, _WRONG_ROWS, library.org_id))


async def sizes(library: Library, lexeme: str) -> list[int]:
    return [size for (size,) in await sql(library.stores, _SIZES, library.org_id, lexeme)]


async def write(library: Library, version: IndexedVersion, *blocks: int) -> None:
    for block in blocks:
        async with library.db.write(library.org_id) as tx:
            await postings.write_postings(tx, version, block)


async def put(library: Library, texts: Sequence[str]) -> IndexedVersion:
    version = await library.new_version(texts)
    async with library.db.write(library.org_id) as tx:
        await index.put_chunks(tx, version, chunks_of(texts))
    return version


async def scores(search: Search, library: Library, question: str) -> list[tuple[UUID, int, float]]:
    hits = (await search.search(library.asker, question, Filters(), 100)).hits
    return [(hit.version_id, hit.number, hit.score) for hit in hits]


async def test_versions_share_rows(search: Search, library: Library) -> None:
    versions = [await library.add(f"alpha beta{n % 2}") for n in range(130)]
    assert await sizes(library, "alpha") == [128, 2]
    assert await sizes(library, "beta0") == [65]
    assert await wrong(library) == []
    for version in versions[::2]:
        await library.erase(version)
    assert await sizes(library, "alpha") == [64, 1]
    assert await sizes(library, "beta0") == []
    assert await wrong(library) == []
    assert {found for found, _, _ in await scores(search, library, "alpha")} <= {v.version_id for v in versions[1::2]}


async def test_blocks_of_two_versions_may_alternate(search: Search, library: Library) -> None:
    """The first one failed after a block, and is written on when another has come after it."""
    texts = [f"alpha beta{n}" for n in range(300)]
    first, second = await put(library, texts), await put(library, ["alpha gamma"] * 3)
    await write(library, first, 0)
    await write(library, second, 0)
    await write(library, first, 0, 1, 2, 0, 1, 2)
    assert await wrong(library) == []
    await library.publish(first)
    await library.publish(second)
    for question, version in (("beta299", first), ("gamma", second)):
        assert {found for found, _, _ in await scores(search, library, question)} == {version.version_id}
    await library.erase(first)
    assert await wrong(library) == []
    assert await sizes(library, "alpha") == [3]


async def test_number_of_an_erased_chunk_may_be_given_again(search: Search, library: Library) -> None:
    kept = await library.add("alpha", "beta")
    await library.erase(await library.add("alpha", "alpha"))
    again = await library.add("alpha gamma")
    assert await wrong(library) == []
    assert {found for found, _, _ in await scores(search, library, "alpha")} == {kept.version_id, again.version_id}
    assert [found for found, _, _ in await scores(search, library, "gamma")] == [again.version_id]


async def test_rows_of_postings_span_a_bounded_part_of_a_workspace(search: Search, library: Library) -> None:
    """So that an erasure need not look at all rows of a lexeme."""
    first = await library.add("alpha", "alpha")
    far = "INSERT INTO hidden_versions VALUES (%s, gen_random_uuid(), %s, 200000, 1, 1)"
    await sql(library.stores, far, library.org_id, library.workspace_id)
    second = await library.add("alpha")
    assert await sizes(library, "alpha") == [2, 1]
    assert {found for found, _, _ in await scores(search, library, "alpha")} == {first.version_id, second.version_id}
    await library.erase(second)
    assert await sizes(library, "alpha") == [2]
    await library.erase(first)
    assert await sizes(library, "alpha") == []


async def test_chunks_that_are_missing_give_nobody_their_numbers(search: Search, library: Library) -> None:
    """The version lost its first chunks to an erasure that should not have been."""
    first = await put(library, ["alpha"] * 5)
    await sql(library.stores, "DELETE FROM chunks WHERE version_id = %s AND number < 3", first.version_id)
    await write(library, first, 0)
    await library.publish(first)
    second = await library.add("beta")
    assert [found for found, _, _ in await scores(search, library, "beta")] == [second.version_id]
    assert {found for found, _, _ in await scores(search, library, "alpha")} == {first.version_id}


async def test_hidden_versions_change_no_score(search: Search, library: Library) -> None:
    await library.add("alpha beta", "alpha gamma gamma", "delta", "epsilon")
    before = await scores(search, library, "alpha gamma")
    assert len(before) == 2
    coming = await put(library, ["alpha gamma"] * 200)
    await write(library, coming, 0)
    assert await scores(search, library, "alpha gamma") == before
    retired = await library.add("gamma", "alpha")
    await library.retire(retired)
    assert await scores(search, library, "alpha gamma") == before
    await library.erase(coming)
    await library.erase(retired)
    assert await scores(search, library, "alpha gamma") == before
    assert await wrong(library) == []


async def test_postings_are_written_and_erased_at_once(library: Library) -> None:
    """Which lexemes they share, and in which order each has them, makes no difference."""
    chance = random.Random(1)
    words = [f"word{n}" for n in range(200)]
    old = [await library.add(*(" ".join(chance.sample(words, 50)) for _ in range(70))) for _ in range(3)]
    new = [await put(library, [" ".join(chance.sample(words, 50)) for _ in range(150)]) for _ in range(3)]
    await asyncio.gather(*map(library.erase, old), *(write(library, version, 0, 1) for version in new))
    assert await wrong(library) == []


@pytest.mark.parametrize("seed", range(3))
async def test_postings_equal_the_chunks_after_any_history(library: Library, seed: int) -> None:
    chance = random.Random(seed)
    versions: list[IndexedVersion] = []
    for _ in range(40):
        count = chance.choice([1, 2, 100, 128, 129, 300])
        texts = [" ".join(chance.choices(["alpha", "beta", "gamma", "东京都"], k=3)) for _ in range(count)]
        action = chance.choice(["add", "write", "continue", "retire", "erase"])
        if action == "add" or not versions:
            versions.append(await library.add(*texts, language="english"))
            continue
        version = chance.choice(versions)
        if action == "write":
            versions.append(await put(library, texts))
            await write(library, versions[-1], 0)
        elif action == "continue":
            counting = "SELECT count(*) FROM chunks WHERE version_id = %s"
            [(chunk_count,)] = await sql(library.stores, counting, version.version_id)
            await write(library, version, *postings.blocks(chunk_count))
        elif action == "retire":
            await library.retire(version)
        else:
            await library.erase(version)
            versions.remove(version)
        assert await wrong(library) == []
