"""From the first chunk to the last row: what is visible when, and what is left."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
import pytest

from aiworkspace_server.search import index
from aiworkspace_server.search.models import Filters, IndexedVersion
from aiworkspace_server.search.query import Search
from tests.support.catalog import tenant_tables
from tests.support.indexed import Library, begin_generation, chunks_of, make_library
from tests.support.postgres import as_owner, sql

_KEPT = {"orgs", "budgets", "workspaces", "documents", "blobs", "search_generations"}


async def find(search: Search, library: Library, question: str) -> list[tuple[UUID, str, float]]:
    result = await search.search(library.asker, question, Filters(), 100)
    return [(hit.version_id, hit.text, hit.score) for hit in result.hits]


async def rows(library: Library) -> Mapping[str, int]:
    """Rows of the organization by table, without those that search does not write."""
    async with as_owner(library.stores) as connection:
        tables = await tenant_tables(connection)
    counts = {}
    for table, column in tables.items():
        [(count,)] = await sql(library.stores, f"SELECT count(*) FROM {table} WHERE {column} = %s", library.org_id)
        counts[table] = count
    return {table: count for table, count in counts.items() if count and table not in _KEPT}


async def stats(library: Library) -> Sequence[tuple[object, ...]]:
    query = "SELECT language, version_count, chunk_count, lexeme_count FROM search_stats WHERE org_id = %s ORDER BY 1"
    return await sql(library.stores, query, library.org_id)


async def recount(library: Library) -> Sequence[tuple[object, ...]]:
    """What the statistics have to be, from the lexemes of the chunks that answer."""
    return await sql(
        library.stores,
        """SELECT v.language, count(DISTINCT v.version_id), count(*)::bigint, sum((
             SELECT sum(cardinality(positions)) FROM unnest(c.lexemes)))::bigint
           FROM search_versions v JOIN chunks c ON c.org_id = v.org_id AND c.version_id = v.version_id
           WHERE v.org_id = %s GROUP BY 1 ORDER BY 1""",
        library.org_id,
    )


async def test_version_is_found_only_when_published(search: Search, library: Library) -> None:
    version = await library.new_version(["alpha"])
    await library.write(version, ["alpha"])
    assert await find(search, library, "alpha") == []
    await library.publish(version)
    assert [hit[:2] for hit in await find(search, library, "alpha")] == [(version.version_id, "alpha")]


async def test_retired_version_is_found_no_more(search: Search, library: Library) -> None:
    version = await library.add("alpha")
    assert await library.retire(version)
    assert await find(search, library, "alpha") == []
    assert await stats(library) == []
    assert not await library.retire(version)


async def test_new_version_replaces_the_old_one(search: Search, library: Library) -> None:
    old = await library.add("alpha beta")
    new = await library.new_version(["alpha gamma"], old.document_id)
    await library.write(new, ["alpha gamma"])
    assert [hit[0] for hit in await find(search, library, "alpha")] == [old.version_id]
    assert await library.publish(new) == old.version_id
    assert [hit[0] for hit in await find(search, library, "alpha")] == [new.version_id]
    assert await find(search, library, "beta") == []
    assert await library.publish(new) is None, "may be repeated"
    assert await stats(library) == await recount(library) == [("english", 1, 1, 2)]


async def test_erased_version_leaves_no_row(library: Library) -> None:
    generation = await begin_generation(library, "test/model", 3)
    version = await library.add(*(f"alpha beta{n}" for n in range(300)))
    assert await library.embed(version, generation, np.ones((300, 3), np.float32))
    assert {"chunks", "postings", "chunk_vectors", "embedded_versions", "search_versions"} <= (
        await rows(library)
    ).keys()
    await library.erase(version)
    assert await rows(library) == {}
    await library.erase(version)


async def test_one_of_two_equal_documents_is_erased(search: Search, library: Library) -> None:
    first, second = await library.add("alpha beta"), await library.add("alpha beta")
    await library.erase(first)
    assert [hit[0] for hit in await find(search, library, "alpha")] == [second.version_id]
    assert await stats(library) == await recount(library)


@pytest.mark.parametrize("steps", range(5))
async def test_version_is_indexed_again_after_any_step(search: Search, library: Library, steps: int) -> None:
    """The first attempt ends after some of the steps, and had cut the text in another way."""
    generation = await begin_generation(library, "test/model", 3)
    other, texts = ["alpha beta", "gamma", "delta"], ["alpha", "beta gamma"]
    version = await library.new_version(other)
    if steps > 0:
        async with library.db.write(library.org_id) as tx:
            await index.put_chunks(tx, version, chunks_of(other)[:2])
    if steps > 1:
        await library.write(version, other)
    if steps > 2:
        assert await library.embed(version, generation, np.eye(3, dtype=np.float32))
    if steps > 3:
        await library.publish(version)
    await library.erase(version)
    assert await rows(library) == {}
    await library.write(version, texts)
    await library.write(version, texts)
    await library.publish(version)
    assert sorted(text for _, text, _ in await find(search, library, "alpha beta gamma delta")) == sorted(texts)
    assert await stats(library) == await recount(library)


async def test_version_counts_as_embedded_only_with_all_vectors(library: Library) -> None:
    generation = await begin_generation(library, "test/model", 3)
    version = await library.add("alpha", "beta")
    assert not await library.embed(version, generation, np.ones((1, 3), np.float32))
    assert await library.embed(version, generation, np.ones((2, 3), np.float32))


@pytest.mark.parametrize("seed", range(3))
async def test_statistics_equal_a_recount_after_any_history(library: Library, seed: int) -> None:
    chance = random.Random(seed)
    versions: list[IndexedVersion] = []
    for _ in range(40):
        texts = [" ".join(chance.choices(["alpha", "beta", "东京都"], k=5)) for _ in range(chance.randint(1, 3))]
        action = chance.choice(["add", "add", "replace", "retire", "erase", "publish"])
        if action == "add" or not versions:
            versions.append(await library.add(*texts, language=chance.choice(["english", "simple"])))
            continue
        version = chance.choice(versions)
        if action == "replace":
            new = await library.new_version(texts, version.document_id)
            await library.write(new, texts)
            await library.publish(new)
            versions.append(new)
        elif action == "retire":
            await library.retire(version)
        elif action == "erase":
            await library.erase(version)
            versions.remove(version)
        elif await rows(library):
            await library.publish(version)
        assert await stats(library) == await recount(library)


async def test_results_and_scores_do_not_depend_on_others(search: Search, library: Library) -> None:
    """Neither on another organization nor on another workspace of the same one."""
    await library.add("alpha beta", "alpha gamma gamma", "delta")
    before = await find(search, library, "alpha gamma delta")
    assert len(before) == 3
    for other in (await library.other_workspace(), await make_library(library.stores, library.db)):
        for _ in range(3):
            await other.add("alpha alpha", "gamma", "东京", language="simple")
        assert await find(search, other, "delta") == []
    assert await find(search, library, "alpha gamma delta") == before


@pytest.mark.parametrize("kind", ["document_ids", "collection_ids", "media_types", "time"])
async def test_filter_leaves_as_many_as_there_are(search: Search, library: Library, kind: str) -> None:
    """The wanted ones are the worst of many, far behind the chunks that are ranked."""
    for _ in range(3):
        await library.add(*["alpha"] * 70)
    texts = [f"alpha {'beta ' * 50}{n}" for n in range(12)]
    wanted = await library.add(*texts, media_type="text/html")
    filters = {
        "document_ids": Filters(document_ids=[wanted.document_id]),
        "collection_ids": Filters(collection_ids=[await library.collect(wanted)]),
        "media_types": Filters(media_types=["text/html", "text/x-none"]),
        "time": Filters(start_time=wanted.create_time),
    }
    result = await search.search(library.asker, "alpha", filters[kind], 10)
    assert Counter(hit.version_id for hit in result.hits) == {wanted.version_id: 10}


async def test_filter_that_nothing_passes_finds_nothing(search: Search, library: Library) -> None:
    version = await library.add("alpha")
    nothing = [
        Filters(document_ids=[]),
        Filters(collection_ids=[await library.collect()]),
        Filters(media_types=[]),
        Filters(end_time=version.create_time),
    ]
    for filters in nothing:
        assert not (await search.search(library.asker, "alpha", filters, 10)).hits
