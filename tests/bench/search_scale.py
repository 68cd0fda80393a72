"""Search in a large tenant beside many small ones: how long it takes, and whether anybody notices the others.

Texts are random words, of which a few are in nearly every chunk and most in hardly any, as in a language. Vectors are
random points of a space of 32 dimensions, turned into 384: in embeddings of texts about as many are independent.
"""

import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from aiworkspace_server.embedding.base import Embedded
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database, ReadSession
from aiworkspace_server.search.generations import Generation
from aiworkspace_server.search.index import halfvec
from aiworkspace_server.search.models import Filters, IndexedVersion, SearchResult
from aiworkspace_server.search.scope import Scope
from aiworkspace_server.search.text_query import search_text
from aiworkspace_server.search.vector_index import VectorIndexes
from aiworkspace_server.search.vector_query import search_exactly, search_index, search_vectors
from tests.support.indexed import Library, begin_generation, make_library, searching
from tests.support.postgres import Owner, as_owner
from tests.support.stores import Stores

from .table import Row

_DIMENSION, _LATENT = 384, 32
_CHUNKS = 50  # of a document in the large tenant
_WORDS = 100  # of a chunk
_VOCABULARY, _COMMONEST = 50_000, 50  # the commonest word is in about a quarter of the chunks, as without stop words
_SMALL = 100  # chunks of a small tenant

_TS_RANK = text("""
SELECT version_id, number FROM chunks, (SELECT CAST(:wanted AS tsquery)) q(wanted)
WHERE org_id = :org_id AND lexemes @@ q.wanted ORDER BY ts_rank(lexemes, q.wanted) DESC LIMIT 100
""")
# Copies of a small tenant's rows under other ids. Foreign keys are not checked, since nobody deletes anything here.
_COPIED = (
    "orgs",
    "workspaces",
    "search_versions",
    "search_stats",
    "chunks",
    "postings",
    "search_generations",
    "embedded_versions",
    "chunk_vectors",
)


class Synthetic:
    """Random texts and vectors, and an embedder that knows the vectors of questions."""

    model, dimension, window = "local/random", _DIMENSION, 256

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._numbers = np.random.default_rng(1)
        self._turn = self._numbers.normal(size=(_LATENT, _DIMENSION)).astype(np.float32)
        self._weights = list(accumulate(1 / rank for rank in range(_COMMONEST, _VOCABULARY + _COMMONEST)))

    def texts(self, count: int, words: int = _WORDS) -> list[str]:
        picks = self._chance.choices(range(_VOCABULARY), cum_weights=self._weights, k=count * words)
        return [" ".join(f"w{pick}" for pick in picks[at : at + words]) for at in range(0, count * words, words)]

    def vectors(self, count: int) -> NDArray[np.float32]:
        points = self._numbers.normal(size=(count, _LATENT)).astype(np.float32)
        noise = self._numbers.normal(size=(count, _DIMENSION)).astype(np.float32)
        return points @ self._turn + noise

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        return Embedded(self.vectors(len(texts)), len(texts))

    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class Tenant:
    library: Library
    generation: Generation
    versions: Sequence[IndexedVersion]

    @property
    def scope(self) -> Scope:
        return Scope(self.library.org_id, self.library.workspace_id, Filters())


async def measure(stores: Stores, quick: bool) -> list[Row]:
    chunks, tenants, rounds = (20_000, 50, 40) if quick else (100_000, 1_000, 200)
    db, synthetic = Database(stores.postgres), Synthetic()
    small = await _tenant(stores, db, synthetic, _SMALL // 10, 10)
    await _copy(stores, small, tenants - 1)
    questions = synthetic.texts(20, 6)
    before = [await _ask(db, small, question) for question in questions]
    bytes_before = await _size_of_postings(stores)
    large = await _tenant(stores, db, synthetic, chunks // _CHUNKS, _CHUNKS)
    started = time.monotonic()
    await VectorIndexes(stores.postgres).build(large.library.org_id, large.generation)
    _say(f"built the index of vectors in {time.monotonic() - started:.0f} s")
    async with as_owner(stores) as owner:
        await owner.execute("VACUUM ANALYZE")
    after = [await _ask(db, small, question) for question in questions]
    rows = await _vectors(db, large, synthetic, rounds) + await _texts(db, large, synthetic, rounds)
    rows += [await _small(db, small, synthetic, rounds), _unchanged(before, after)]
    rows.append(await _filters(db, large, synthetic))
    bytes_each = (await _size_of_postings(stores) - bytes_before) / chunks
    name = "postings of a chunk in a large tenant, with their index"
    rows.append(Row(name, bytes_each, 2048, unit=" B", least=False, digits=0))
    await db.close()
    return rows


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def _tenant(stores: Stores, db: Database, synthetic: Synthetic, documents: int, chunks: int) -> Tenant:
    library, started = await make_library(stores, db), time.monotonic()
    generation = await begin_generation(library, synthetic.model, _DIMENSION)
    versions = []
    for number in range(documents):
        kind = "text/html" if number % 100 == 0 else "text/plain"
        version = await library.add(*synthetic.texts(chunks), language="english", media_type=kind)
        await library.embed(version, generation, synthetic.vectors(chunks))
        versions.append(version)
    _say(f"indexed {documents * chunks:,} chunks in {time.monotonic() - started:.0f} s")
    return Tenant(library, Generation(generation, synthetic.model, _DIMENSION), versions)


async def _copy(stores: Stores, tenant: Tenant, count: int) -> None:
    """Make as many tenants like this one. Only ids of organizations and workspaces have to be other ones."""
    started = time.monotonic()
    async with as_owner(stores) as owner:
        await owner.execute("SET session_replication_role = replica")
        statements = [await _copying(owner, table) for table in _COPIED]
        for _ in range(count):
            values = {"old": tenant.library.org_id, "org_id": new_id(), "workspace_id": new_id()}
            for statement in statements:
                await owner.execute(statement.encode(), values)
    _say(f"copied it {count:,} times in {time.monotonic() - started:.0f} s")


async def _size_of_postings(stores: Stores) -> int:
    async with as_owner(stores) as owner:
        row = await (await owner.execute("SELECT pg_total_relation_size('postings')")).fetchone()
    assert row
    return int(row[0])


async def _copying(owner: Owner, table: str) -> str:
    columns = """SELECT attname::text FROM pg_attribute
                 WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"""
    names = [name for (name,) in await (await owner.execute(columns, (table,))).fetchall()]
    ids = {"orgs": {"id": "org_id"}, "workspaces": {"org_id": "org_id", "id": "workspace_id"}}
    changed = ids.get(table, {"org_id": "org_id", "workspace_id": "workspace_id"})
    values = [f"%({changed[name]})s" if name in changed else name for name in names]
    key = "id" if table == "orgs" else "org_id"
    into = f"INSERT INTO {table} ({', '.join(names)}) OVERRIDING SYSTEM VALUE"
    return f"{into} SELECT {', '.join(values)} FROM {table} WHERE {key} = %(old)s"


async def _ask(db: Database, tenant: Tenant, question: str) -> SearchResult:
    """Full text alone, whose results are the same each time."""
    library = tenant.library
    return await searching(db, {}, None).search(library.asker, question, Filters(), 10)


async def _times(work: Sequence[Callable[[ReadSession], Awaitable[Any]]], db: Database, tenant: Tenant) -> list[float]:
    """Milliseconds of each piece of work in a transaction of its own, without its beginning."""
    times = []
    for each in work:
        async with db.read(tenant.library.org_id) as tx:
            await tx.connection()
            started = time.perf_counter()
            await each(tx)
            times.append((time.perf_counter() - started) * 1000)
    return times


def _p95(times: Sequence[float]) -> float:
    return float(np.quantile(times, 0.95))


def _compared(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return f"p95 {_p95(ours):.2f} ms against {_p95(theirs):.1f}; medians {median(ours):.2f} and {median(theirs):.1f}"


async def _vectors(db: Database, tenant: Tenant, synthetic: Synthetic, rounds: int) -> list[Row]:
    """The index against comparing all, each asked for ten chunks."""
    questions = [halfvec(vector) for vector in synthetic.vectors(rounds)]
    scope, generation = tenant.scope, tenant.generation
    found: dict[str, list[set[Any]]] = {"exact": [], "index": []}

    async def exactly(tx: ReadSession, question: str) -> None:
        found["exact"].append(set(await search_exactly(tx, scope, generation.id, question, 10)))

    async def indexed(tx: ReadSession, question: str) -> None:
        found["index"].append(set(await search_index(tx, scope, generation, question, 10)))

    times = {
        name: await _times([partial(each, question=question) for question in questions], db, tenant)
        for name, each in (("exact", exactly), ("index", indexed))
    }
    recall = sum(len(one & other) for one, other in zip(found["exact"], found["index"], strict=True)) / (10 * rounds)
    exact, index = _p95(times["exact"]), _p95(times["index"])
    note = _compared(times["index"], times["exact"])
    return [
        Row("vectors in a large tenant: all compared against the index, p95", exact / index, 50, [note], unit="x"),
        Row("vectors in a large tenant: recall@10 of the index", recall, 0.97, digits=3),
    ]


async def _texts(db: Database, tenant: Tenant, synthetic: Synthetic, rounds: int) -> list[Row]:
    questions = synthetic.texts(rounds, 6)
    org_id = tenant.library.org_id
    ours = await _times(
        [partial(search_text, scope=tenant.scope, question=question, limit=100) for question in questions], db, tenant
    )
    slower = questions[: max(rounds // 10, 5)]
    theirs = await _times([partial(_ts_rank, org_id=org_id, question=question) for question in slower], db, tenant)
    note = _compared(ours, theirs)
    return [
        Row("full text in a large tenant: ts_rank against BM25, p95", _p95(theirs) / _p95(ours), 5, [note], unit="x")
    ]


async def _ts_rank(tx: ReadSession, org_id: UUID, question: str) -> None:
    await tx.execute(_TS_RANK, {"org_id": org_id, "wanted": question.replace(" ", "|")})


async def _small(db: Database, tenant: Tenant, synthetic: Synthetic, rounds: int) -> Row:
    """The whole search, with words and vectors, but without the time of an embedder."""
    search, library = searching(db, {synthetic.model: synthetic}, None), tenant.library
    times = []
    for question in synthetic.texts(rounds, 6):
        started = time.perf_counter()
        await search.search(library.asker, question, Filters(), 10)
        times.append((time.perf_counter() - started) * 1000)
    note = f"median {median(times):.1f} ms"
    return Row("search in a tenant of 100 chunks, p95", _p95(times), 10, [note], unit=" ms", least=False)


def _unchanged(before: Sequence[SearchResult], after: Sequence[SearchResult]) -> Row:
    same = sum(one.hits == other.hits for one, other in zip(before, after, strict=True))
    return Row("results of a small tenant that others' load changed", len(before) - same, 0, least=False, digits=0)


async def _filters(db: Database, tenant: Tenant, synthetic: Synthetic) -> Row:
    """The least number of chunks found of the ten that were asked for, whatever the filter."""
    middle = tenant.versions[len(tenant.versions) // 2]
    filters = {
        "one document": Filters(document_ids=[middle.document_id]),
        "one in a hundred, by type": Filters(media_types=["text/html"]),
        "half, by time": Filters(start_time=middle.create_time),
        "a collection of three": Filters(collection_ids=[await tenant.library.collect(*tenant.versions[:3])]),
    }
    library = tenant.library
    counts: dict[str, int] = {}
    for vector in synthetic.vectors(20):
        for name, each in filters.items():
            async with db.read(library.org_id) as tx:
                scope = Scope(library.org_id, library.workspace_id, each)
                found, _ = await search_vectors(tx, scope, tenant.generation, halfvec(vector), 10)
            counts[name] = min(counts.get(name, 10), len(set(found)))
    notes = [f"{name}: {count}" for name, count in counts.items()]
    return Row("chunks found of ten that exist, under the worst filter", min(counts.values()), 10, notes, digits=0)
