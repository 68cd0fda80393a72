"""Vectors: the nearest are found, with and without an index, in one generation at a time."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text

from aiworkspace_server.embedding.base import Embedded, EmbeddingRefused, EmbeddingUnavailable
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.search import generations
from aiworkspace_server.search.fusion import fuse
from aiworkspace_server.search.generations import Generation
from aiworkspace_server.search.index import halfvec
from aiworkspace_server.search.models import Filters, IndexedVersion, LeftOut, SearchResult
from aiworkspace_server.search.scope import Scope
from aiworkspace_server.search.vector_index import VectorIndexes, index_name, needs_index
from aiworkspace_server.search.vector_query import search_exactly, search_index
from tests.support.indexed import Library, begin_generation, make_library, searching
from tests.support.postgres import sql

ALL = Filters()


class Letters:
    """An embedder: the vector of a text has the count of each letter from a on, in as many dimensions."""

    window = 256

    def __init__(self, dimension: int = 8, failure: Exception | None = None) -> None:
        self.model = f"local/letters-{dimension}"
        self.dimension = dimension
        self._failure = failure

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        if self._failure:
            raise self._failure
        return Embedded(self.vectors(texts), len(texts))

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        letters = [chr(ord("a") + n) for n in range(self.dimension)]
        return np.array([[text.count(letter) for letter in letters] for text in texts], np.float32)

    async def aclose(self) -> None: ...


async def begin(library: Library, embedder: Letters) -> int:
    return await begin_generation(library, embedder.model, embedder.dimension)


async def add(library: Library, embedder: Letters, generation: int, *texts: str, **fields: object) -> IndexedVersion:
    version = await library.add(*texts, **fields)  # type: ignore[arg-type]
    assert await library.embed(version, generation, embedder.vectors(texts))
    return version


async def ask(
    db: Database, library: Library, embedder: Letters | None, question: str, filters: Filters = ALL
) -> SearchResult:
    embedders = {embedder.model: embedder} if embedder else {}
    return await searching(db, embedders, None).search(library.asker, question, filters, 10)


async def test_nearest_chunks_come_first_without_a_common_word(db: Database, library: Library) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    await add(library, letters, generation, "aab", "bba", "ccc")
    result = await ask(db, library, letters, "aaab")
    assert [hit.text for hit in result.hits] == ["aab", "bba", "ccc"]
    assert [(hit.text_rank, hit.vector_rank) for hit in result.hits] == [(None, 1), (None, 2), (None, 3)]
    assert (result.left_out, result.embedding_model, result.question_tokens) == (frozenset(), letters.model, 1)


async def test_chunk_that_both_rankings_have_is_above_those_of_one(db: Database, library: Library) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    await add(library, letters, generation, "abc", "fade", "bca", "cab")
    hits = (await ask(db, library, letters, "cab")).hits
    assert (hits[0].text, hits[0].text_rank) == ("cab", 1)


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = fuse([["a", "b"], ["b", "c"]])
    assert list(fused) == ["b", "a", "c"]
    assert fused["b"].score == pytest.approx(1 / 62 + 1 / 61)
    assert [fused[key].ranks for key in "abc"] == [(1, None), (2, 1), (None, 2)]


@pytest.mark.parametrize("failure", [EmbeddingUnavailable("asleep"), EmbeddingRefused("no")])
async def test_failing_embedder_leaves_full_text(db: Database, library: Library, failure: Exception) -> None:
    generation = await begin(library, Letters())
    await add(library, Letters(), generation, "abc", "bca")
    result = await ask(db, library, Letters(failure=failure), "abc")
    assert [hit.text for hit in result.hits] == ["abc"]
    assert result.left_out == {LeftOut.EMBEDDING_UNAVAILABLE}


async def test_missing_embedder_leaves_full_text(db: Database, library: Library) -> None:
    generation = await begin(library, Letters())
    await add(library, Letters(), generation, "abc", "bca")
    result = await ask(db, library, None, "abc")
    assert [hit.text for hit in result.hits] == ["abc"]
    assert result.left_out == {LeftOut.NO_EMBEDDER}


async def test_document_without_vectors_is_found_by_its_words(db: Database, library: Library) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    await add(library, letters, generation, "bbb")
    await library.add("abc")
    result = await ask(db, library, letters, "abc")
    assert [hit.text for hit in result.hits] == ["abc", "bbb"]
    assert result.left_out == {LeftOut.NOT_EMBEDDED_YET}


async def test_old_generation_answers_until_the_new_one_is_complete(db: Database, library: Library) -> None:
    old, new = Letters(4), Letters(6)
    generation = await begin(library, old)
    versions = [await add(library, old, generation, word) for word in ("aab", "bba")]
    following = await begin(library, new)
    assert following != generation
    for version, word in zip(versions, ("aab", "bba"), strict=True):
        assert (await ask(db, library, old, "aaab")).embedding_model == old.model
        assert (await ask(db, library, new, "aaab")).left_out == {LeftOut.NO_EMBEDDER}
        async with db.read(library.org_id) as tx:
            assert await generations.next_generation(tx, library.org_id) == following
            assert version.version_id in {
                each.version_id for each in await generations.list_unembedded(tx, library.org_id, following, 10)
            }
        async with db.write(library.org_id) as tx:
            assert not await generations.activate(tx, library.org_id)
        assert await library.embed(version, following, new.vectors([word]))
    async with db.write(library.org_id) as tx:
        assert await generations.activate(tx, library.org_id)
        assert await generations.erase_old(tx, library.org_id, 100) == 2
    result = await ask(db, library, new, "aaab")
    assert ([hit.text for hit in result.hits], result.embedding_model) == (["aab", "bba"], new.model)
    assert await sql(
        library.stores,
        "SELECT DISTINCT generation FROM chunk_vectors WHERE org_id = %s UNION ALL"
        " SELECT DISTINCT generation FROM embedded_versions WHERE org_id = %s",
        *(library.org_id, library.org_id),
    ) == [(following,), (following,)]


@pytest.mark.parametrize("kind", ["document_ids", "collection_ids", "media_types"])
async def test_filter_leaves_the_nearest_that_pass(db: Database, library: Library, kind: str) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    await add(library, letters, generation, *["a" * n for n in range(1, 201)])
    texts = ["b" * n for n in range(1, 13)]
    wanted = await add(library, letters, generation, *texts, media_type="text/html")
    filters = {
        "document_ids": Filters(document_ids=[wanted.document_id]),
        "collection_ids": Filters(collection_ids=[await library.collect(wanted)]),
        "media_types": Filters(media_types=["text/html"]),
    }
    hits = (await ask(db, library, letters, "aaa", filters[kind])).hits
    assert [hit.version_id for hit in hits] == [wanted.version_id] * 10


# The index


async def fill(library: Library, generation: int, seed: int, count: int) -> IndexedVersion:
    version = await library.add(*(f"t{n}" for n in range(count)))
    assert await library.embed(version, generation, random_vectors(seed, count))
    return version


def random_vectors(seed: int, count: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def keys(rows: Sequence[tuple[UUID, int]]) -> set[tuple[UUID, int]]:
    return set(rows)


async def test_index_finds_the_nearest_of_its_organization_only(db: Database, library: Library) -> None:
    other = await make_library(library.stores, db)
    letters = Letters()
    generation = Generation(await begin(library, letters), letters.model, 8)
    assert await begin(other, letters) == generation.id
    versions = [await fill(library, generation.id, seed, 200) for seed in range(3)]
    indexes = VectorIndexes(library.stores.postgres)
    assert await indexes.build(library.org_id, generation)
    assert await indexes.build(library.org_id, generation), "may be repeated"
    await fill(other, generation.id, 9, 500)
    question = halfvec(random_vectors(7, 1)[0])
    everything = Scope(library.org_id, library.workspace_id, ALL)
    one = Scope(library.org_id, library.workspace_id, Filters(document_ids=[versions[1].document_id]))
    none = Scope(library.org_id, (await library.other_workspace()).workspace_id, ALL)
    for scope, least in ((everything, 95), (one, 95)):
        async with db.read(library.org_id) as tx:
            exact = await search_exactly(tx, scope, generation.id, question, 100)
            indexed = await search_index(tx, scope, generation, question, 100)
            scans = text("SELECT pg_stat_get_xact_numscans(CAST(:name AS regclass))")
            name = index_name(library.org_id, generation.id)
            assert (await tx.execute(scans, {"name": name})).scalar_one() > 0
        assert len(indexed) == len(exact) == 100
        assert len(keys(indexed) & keys(exact)) >= least
    async with db.read(library.org_id) as tx:
        assert await search_index(tx, none, generation, question, 100) == []
    await indexes.drop(library.org_id, generation.id)
    await indexes.drop(library.org_id, generation.id)


async def test_interrupted_index_is_built_again(db: Database, library: Library) -> None:
    letters = Letters()
    generation = Generation(await begin(library, letters), letters.model, 8)
    await fill(library, generation.id, 0, 10)
    indexes = VectorIndexes(library.stores.postgres)
    assert await indexes.build(library.org_id, generation)
    name = index_name(library.org_id, generation.id)
    broken = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(%s)"
    await sql(library.stores, broken, name)
    assert await indexes.build(library.org_id, generation)
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
    assert await sql(library.stores, valid, name) == [(True,)]
    await indexes.drop(library.org_id, generation.id)


async def test_index_is_needed_by_many_chunks_only(db: Database, library: Library) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    await add(library, letters, generation, "a")
    async with db.read(library.org_id) as tx:
        assert not await needs_index(tx, library.org_id, generation)
    await sql(library.stores, "UPDATE search_stats SET chunk_count = 10001 WHERE org_id = %s", library.org_id)
    async with db.read(library.org_id) as tx:
        assert await needs_index(tx, library.org_id, generation)
    assert (await ask(db, library, letters, "a")).left_out == {LeftOut.VECTOR_INDEX_BUILDING}
    indexes = VectorIndexes(library.stores.postgres)
    assert await indexes.build(library.org_id, Generation(generation, letters.model, 8))
    async with db.read(library.org_id) as tx:
        assert not await needs_index(tx, library.org_id, generation)
    result = await ask(db, library, letters, "a")
    assert ([hit.vector_rank for hit in result.hits], result.left_out) == ([1], frozenset())
    await indexes.drop(library.org_id, generation)


# Similar documents


async def alike(db: Database, library: Library, version: IndexedVersion, filters: Filters = ALL) -> list[UUID]:
    found = await searching(db, {}, None).similar(
        library.org_id, library.workspace_id, version.document_id, filters, 10
    )
    return [each.document_id for each in found.documents]


async def test_similar_documents_are_those_with_the_nearest_mean(db: Database, library: Library) -> None:
    letters = Letters()
    generation = await begin(library, letters)
    source = await add(library, letters, generation, "aaa", "bbb")
    far, near = [await add(library, letters, generation, word) for word in ("ccc", "ab")]
    assert await alike(db, library, source) == [near.document_id, far.document_id]
    assert await alike(db, library, source, Filters(document_ids=[far.document_id])) == [far.document_id]
    assert await library.retire(near)
    assert await alike(db, library, source) == [far.document_id]
    assert await library.retire(source)
    assert await alike(db, library, source) == []


async def test_similar_documents_without_vectors_share_rare_words(db: Database, library: Library) -> None:
    source = await library.add("common alpha", "common beta")
    near, far = await library.add("common beta gamma alpha"), await library.add("common delta")
    await library.add("epsilon")
    assert await alike(db, library, source) == [near.document_id, far.document_id]


async def test_chunks_of_a_large_document_do_not_displace_what_is_like_it(db: Database, library: Library) -> None:
    source, near = await library.add(*["alpha beta"] * 1001), await library.add("alpha gamma delta")
    assert await alike(db, library, source) == [near.document_id]


async def test_document_of_another_workspace_is_like_nothing(db: Database, library: Library) -> None:
    version = await library.add("alpha")
    other = await library.other_workspace()
    await other.add("alpha")
    assert await alike(db, other, version) == []
    assert await alike(db, library, version) == []
