"""Questions that are paid for: whatever happens to those who ask, what was reserved for them is settled."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from aiworkspace_server.embedding.base import Embedded
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database, WriteSession
from aiworkspace_server.kit.tasks import Tasks
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.llm.prices import Price, embedding_price
from aiworkspace_server.search.open_questions import OpenQuestions
from aiworkspace_server.search.questions import QuestionEmbedder
from aiworkspace_server.usage.ledger import Ledger, Spender, count_alone, count_together
from tests.support.indexed import Library, begin_generation
from tests.support.postgres import sql, until_blocked

MODEL = "openai/text-embedding-3-small"
TOKENS = 100_000  # that the model counts, so that they cost something
ENTRIES = "SELECT kind, cost_nanos FROM ledger_entries WHERE org_id = %s ORDER BY id"
OPEN = """
  SELECT run_id FROM ledger_entries WHERE org_id = %s GROUP BY run_id
  HAVING count(*) FILTER (WHERE kind IN ('settle', 'release')) = 0
"""


@pytest.fixture
async def library(library: Library) -> Library:
    """Its person has an account, as everybody who pays."""
    account = "INSERT INTO users (id, email, display_name, password_hash, create_time, update_time)"
    values = library.user_id, f"{library.user_id}@example.com"
    await sql(library.stores, f"{account} VALUES (%s, %s, 'A', '-', now(), now())", *values)
    return library


class Slow:
    """An embedder that tells when it is asked, and waits until it may answer."""

    model, dimension, window = MODEL, 8, 256

    def __init__(self) -> None:
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        self.asked.set()
        await self.answers.wait()
        return Embedded(np.ones((len(texts), 8), np.float32), TOKENS)

    async def aclose(self) -> None: ...


async def until_asked(embedder: Slow, call: asyncio.Task[Any]) -> None:
    asked = asyncio.create_task(embedder.asked.wait())
    await asyncio.wait((asked, call), return_when=asyncio.FIRST_COMPLETED)
    assert asked.done()


@pytest.mark.parametrize("moment", ["reserving", "embedding", "settling"])
async def test_question_of_a_cancelled_caller_is_settled(db: Database, library: Library, moment: str) -> None:
    await begin_generation(library, MODEL, 8)
    embedder, tasks = Slow(), Tasks()
    questions = QuestionEmbedder(db, {MODEL: embedder}, Ledger(None), tasks)
    async with AsyncExitStack() as stack:

        async def hold_ledger() -> None:
            await count_alone(await stack.enter_async_context(db.write(library.org_id)), library.org_id)

        if moment == "reserving":
            await hold_ledger()
        call = asyncio.create_task(questions.embed(library.asker, "heron"))
        if moment != "reserving":
            await until_asked(embedder, call)
        if moment == "settling":
            await hold_ledger()
            embedder.answers.set()
        if moment != "embedding":
            await until_blocked(library.stores, call, of_ledger=True)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    embedder.answers.set()
    await tasks.close(seconds=240)
    cost = embedding_price(MODEL, TOKENS).nanos
    assert cost > 0
    assert await sql(library.stores, ENTRIES, library.org_id) == [("reserve", 0), ("settle", cost)]


async def reserve(db: Database, library: Library, age: timedelta, **fields: Any) -> UUID:
    """As a process does that dies then. Returns the id of the run."""
    id = new_id()
    values = {"conversation_id": id, "key_id": None, "request_id": None, **fields}
    who = Spender(
        org_id=library.org_id,
        workspace_id=library.workspace_id,
        run_id=id,
        run_time=now() - age,
        user_id=library.user_id,
        **values,
    )
    async with db.write(library.org_id) as tx:
        await count_together(tx, library.org_id)
        await Ledger(None).reserve(tx, who, 1, MODEL, Price(700, "test"), own_key=False, time=now() - age)
    return id


async def test_questions_of_a_dead_server_are_settled_in_full(db: Database, library: Library) -> None:
    left = await reserve(db, library, timedelta(minutes=16))
    asked_now = await reserve(db, library, timedelta(minutes=14))
    of_a_conversation = await reserve(db, library, timedelta(minutes=16), conversation_id=new_id())
    job = OpenQuestions(db, Ledger(None))
    await job.end()
    assert {id for (id,) in await sql(library.stores, OPEN, library.org_id)} == {asked_now, of_a_conversation}
    settled = "SELECT kind, cost_nanos, estimated FROM ledger_entries WHERE run_id = %s AND kind <> 'reserve'"
    assert await sql(library.stores, settled, left) == [("settle", 700, True)]
    await job.end()
    assert len(await sql(library.stores, settled, left)) == 1


class Picky(Ledger):
    """Fails with one question."""

    def __init__(self, refused: UUID) -> None:
        super().__init__(None)
        self.refused = refused

    async def settle_left(self, tx: WriteSession, org_id: UUID, run_id: UUID) -> None:
        if run_id == self.refused:
            raise ValueError("no")
        await super().settle_left(tx, org_id, run_id)


async def test_question_that_cannot_be_settled_keeps_no_other_waiting(db: Database, library: Library) -> None:
    first = await reserve(db, library, timedelta(minutes=17))
    await reserve(db, library, timedelta(minutes=16))
    await OpenQuestions(db, Picky(first)).end()
    assert await sql(library.stores, OPEN, library.org_id) == [(first,)]
    await OpenQuestions(db, Ledger(None)).end()
    assert await sql(library.stores, OPEN, library.org_id) == []
