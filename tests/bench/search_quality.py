"""How well search answers the questions of the Cranfield collection, beside bm25s and ts_rank in the same run."""

import sys
import time
from collections.abc import Mapping, Sequence
from uuid import UUID

import bm25s
import numpy as np
import Stemmer
from sqlalchemy import text

from aiworkspace_server.embedding import local
from aiworkspace_server.embedding.base import with_heading
from aiworkspace_server.embedding.process import TextConfig, TextProcess
from aiworkspace_server.embedding.weights import find_weights
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.search import index, postings
from aiworkspace_server.search.generations import Generation, active_generation
from aiworkspace_server.search.index import halfvec
from aiworkspace_server.search.models import Filters, IndexedChunk
from aiworkspace_server.search.query import Search
from aiworkspace_server.search.scope import Scope
from aiworkspace_server.search.text_query import search_text
from aiworkspace_server.search.vector_query import search_vectors
from tests.support.indexed import Library, begin_generation, make_library, searching
from tests.support.stores import Stores

from .cranfield import Collection, Quality, interval, judge
from .table import Row

_MOST = 200  # chunks of a ranking, so that 100 documents are among them

_TS_RANK = text("""
SELECT v.document_id FROM chunks c JOIN search_versions v ON v.org_id = c.org_id AND v.version_id = c.version_id,
  (SELECT CAST(replace(CAST(plainto_tsquery('english', :question) AS text), '&', '|') AS tsquery)) q(wanted)
WHERE c.org_id = :org_id AND c.lexemes @@ q.wanted ORDER BY ts_rank(c.lexemes, q.wanted) DESC, 1 LIMIT :most
""")

Rankings = Mapping[int, Sequence[int]]  # numbers of texts by question, best first
_GOALS = {"full text": (0.375, 0.735), "vectors": (0.39, 0.77), "fused": (0.42, 0.785)}


async def measure(stores: Stores, collection: Collection) -> list[Row]:
    weights = find_weights()
    if weights is None:
        sys.exit("error: the weights of the built-in model are not installed: run make setup.")
    process = TextProcess(TextConfig(local.WINDOW, local.tokenizer(weights), weights), seconds=600)
    embedder = local.LocalEmbedder(process, process, local.WINDOW)
    db = Database(stores.postgres)
    library = await make_library(stores, db)
    generation = await begin_generation(library, embedder.model, embedder.dimension)
    started = time.monotonic()
    numbers = await _fill(library, collection, process, embedder, generation)
    print(f"indexed {len(numbers)} texts in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    search = searching(db, {embedder.model: embedder}, None)
    rankings = {"bm25s": _bm25s(collection), "ts_rank": await _ts_rank(library, collection, numbers)}
    rankings |= await _parts(library, collection, embedder, numbers)
    rankings["fused"] = await _fused(search, library, collection, numbers)
    await embedder.aclose()
    await db.close()
    return _rows({name: judge(collection, ranking) for name, ranking in rankings.items()})


async def _fill(
    library: Library, collection: Collection, process: TextProcess, embedder: local.LocalEmbedder, generation: int
) -> dict[UUID, int]:
    """Index every text as the server does. Return the number of each by the id of its document."""
    numbers = {}
    for number, said in collection.texts.items():
        version = await library.new_version([said])
        chunks = [
            IndexedChunk(at, each.start, each.end, said[each.start : each.end], each.heading, each.place, 0)
            for at, each in enumerate(await process.split(said, [(0, len(said), {})]))
        ]
        texts = [with_heading(chunk.heading, chunk.text) for chunk in chunks]
        vectors = (await embedder.embed(texts, query=False)).vectors
        async with library.db.write(library.org_id) as tx:
            await index.put_chunks(tx, version, chunks)
            await postings.write_postings(tx, version, 0)
        await library.embed(version, generation, vectors)
        await library.publish(version)
        numbers[version.document_id] = number
    return numbers


def _bm25s(collection: Collection) -> Rankings:
    """With its defaults, the stemmer and the stop words of its documentation."""
    stemmer, numbers = Stemmer.Stemmer("english"), list(collection.texts)

    def tokens(texts: Sequence[str]) -> object:
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, show_progress=False)

    ranker = bm25s.BM25()
    ranker.index(tokens(list(collection.texts.values())), show_progress=False)
    found, _ = ranker.retrieve(tokens(list(collection.questions.values())), k=100, show_progress=False)
    return {question: [numbers[at] for at in row] for question, row in zip(collection.questions, found, strict=True)}


async def _ts_rank(library: Library, collection: Collection, numbers: Mapping[UUID, int]) -> Rankings:
    rankings = {}
    async with library.db.read(library.org_id) as tx:
        for number, question in collection.questions.items():
            values = {"org_id": library.org_id, "question": question, "most": _MOST}
            rankings[number] = _documents(numbers, (await tx.execute(_TS_RANK, values)).scalars().all())
    return rankings


async def _parts(
    library: Library, collection: Collection, embedder: local.LocalEmbedder, numbers: Mapping[UUID, int]
) -> dict[str, Rankings]:
    """What each kind of search finds alone."""
    scope = Scope(library.org_id, library.workspace_id, Filters())
    found: dict[str, dict[int, Sequence[int]]] = {"full text": {}, "vectors": {}}
    vectors = (await embedder.embed(list(collection.questions.values()), query=True)).vectors
    async with library.db.read(library.org_id) as tx:
        versions = await tx.execute(text("SELECT version_id, document_id FROM search_versions"))
        document_of = {row.version_id: row.document_id for row in versions}
        generation = await active_generation(tx, library.org_id)
        assert isinstance(generation, Generation)
        for (number, question), vector in zip(collection.questions.items(), vectors, strict=True):
            by_text = await search_text(tx, scope, question, _MOST)
            by_vector, _ = await search_vectors(tx, scope, generation, halfvec(vector), _MOST)
            for name, keys in (("full text", by_text), ("vectors", by_vector)):
                found[name][number] = _documents(numbers, [document_of[version] for version, _ in keys])
    return dict(found)


async def _fused(search: Search, library: Library, collection: Collection, numbers: Mapping[UUID, int]) -> Rankings:
    rankings = {}
    for number, question in collection.questions.items():
        result = await search.search(library.asker, question, Filters(), _MOST)
        rankings[number] = _documents(numbers, [hit.document_id for hit in result.hits])
    return rankings


def _documents(numbers: Mapping[UUID, int], documents: Sequence[UUID]) -> list[int]:
    """A document has the rank of its best chunk."""
    return [numbers[document] for document in dict.fromkeys(documents)]


def _rows(qualities: Mapping[str, Quality]) -> list[Row]:
    rows = []
    for name, quality in qualities.items():
        notes = [f"{what}: 95 % of resamples within {_between(values)}" for what, values in quality._asdict().items()]
        ndcg, recall = _GOALS.get(name, (None, None))
        rows.append(Row(f"{name}: nDCG@10", float(quality.ndcg.mean()), ndcg, notes, digits=3))
        rows.append(Row(f"{name}: recall@100", float(quality.recall.mean()), recall, digits=3))
    fused, other = qualities["fused"].ndcg, qualities["bm25s"].ndcg
    picks = np.random.default_rng(0).integers(0, len(fused), (10_000, len(fused)))
    ratios = fused[picks].mean(axis=1) / other[picks].mean(axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    note = f"95 % of resamples within {low:.3f} to {high:.3f}"
    rows.append(Row("fused against bm25s: nDCG@10", float(fused.mean() / other.mean()), 1.1, [note], digits=3))
    return rows


def _between(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    low, high = interval(values)
    return f"{low:.3f} to {high:.3f}"
