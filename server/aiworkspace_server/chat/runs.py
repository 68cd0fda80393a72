"""Runs: reserved, started and kept outside of the calls that start and follow them."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import structlog

from aiworkspace.v1 import common_pb2

from ..kit.errors import Aborted, InvalidArgument, NotFound, Unavailable
from ..kit.ids import new_id
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.replies import request_id_reused
from ..kit.stores import insist
from ..kit.timestamps import now
from ..llm.base import ModelRequest, Provider, TokenUsage, Turn
from ..llm.prices import price
from ..llm.tokens import estimate_bytes
from ..usage import ledger
from . import events
from .execution import Execution
from .live import LiveRun
from .models import Conversation, EventBatch, Message, Run
from .pace import Pace
from .store import ChatStore

HEARTBEAT_SECONDS = 15
_TITLE_LENGTH = 60

Result = TypeVar("Result")
log = structlog.get_logger("runs")


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asks of a model, checked."""

    org_id: UUID
    user_id: UUID
    conversation: Conversation
    content: str
    system_prompt: str
    model: str
    provider: Provider
    model_name: str  # the provider's own
    request_id: UUID | None
    content_hash: bytes


class Runs:
    """The runs of this process."""

    ending_seconds = 3.0  # in which an interrupted run has to be stored; otherwise the next start does it

    def __init__(self, db: Database, mongo: Mongo, run_seconds: float, max_output_tokens: int) -> None:
        self._db = db
        self._mongo = mongo
        self._run_seconds = run_seconds
        self._max_output_tokens = max_output_tokens
        self.pace = Pace()
        self._live: dict[UUID, LiveRun] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._ticker = asyncio.create_task(self._tick())

    def find(self, run_id: UUID) -> LiveRun | None:
        return self._live.get(run_id)

    async def start(self, question: Question) -> UUID:
        """Starts a run and returns its id; that of the first one when the request_id repeats.

        A caller that goes away in the meantime does not leave half a run behind.
        """
        if self._closing:
            raise Unavailable("The server is shutting down. Try again.")
        return await self.see_through(self._start(question))

    async def see_through(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does the work to its end, also when the caller goes away."""
        return await asyncio.shield(self._spawn(work))

    async def cancel_in(self, conversation_id: UUID) -> None:
        """Stops what is in progress in a conversation and waits for its end."""
        for live in list(self._live.values()):
            if live.run["conversation_id"] == conversation_id:
                live.stop("cancelled")
                await live.ended.wait()

    async def cancel_of(self, org_id: UUID, user_id: UUID | None) -> None:
        """Stops what a person, or everybody, has in progress in an organization, without waiting for its end."""
        for live in self.in_org(org_id):
            if user_id in (None, live.run["user_id"]):
                live.stop("cancelled")

    def in_org(self, org_id: UUID) -> list[LiveRun]:
        return [live for live in self._live.values() if live.org_id == org_id]

    async def close(self, grace_seconds: float) -> None:
        """Lets runs finish for a while, then interrupts those that are left: what was said is stored and settled."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_seconds)
        for live in list(self._live.values()):
            live.stop("interrupted")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.ending_seconds)
        remaining = (*self._tasks, self._ticker)
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    async def _start(self, question: Question) -> UUID:
        message = _new_message(question)
        run = _new_run(question, message)
        first = events.encode(run["_id"], 1, **events.started(run, message))
        try:
            earlier = await self._reserve(question, run)
            if earlier:
                return earlier
            request = await self._store_question(question, run, message, first)
        except (Aborted, InvalidArgument):
            raise  # nothing was reserved
        except BaseException:
            self._spawn(withdraw(self._db, self._mongo, question.org_id, run["_id"], run["conversation_id"]))
            raise
        live = self._live[run["_id"]] = LiveRun.restore(question.org_id, run, self.pace, [first])
        execution = Execution(self._db, self._mongo, question.org_id, live, request)
        self._spawn(self._execute(live, execution.run(question.provider, self._run_seconds)))
        return run["_id"]

    async def _reserve(self, question: Question, run: Run) -> UUID | None:
        """Reserves, or returns the run that an earlier call with the same request_id started."""
        amount = price(question.model, TokenUsage(_input_estimate(question), 0, 0, self._max_output_tokens, 0))
        reservation = {
            "org_id": question.org_id,
            "run_id": run["_id"],
            "workspace_id": run["workspace_id"],
            "conversation_id": run["conversation_id"],
            "user_id": question.user_id,
            "request_id": question.request_id,
            "content_hash": question.content_hash,
            "model": question.model,
            "amount_nanos": amount.nanos,
            "currency": amount.currency,
        }
        async with self._db.write(question.org_id, question.user_id) as tx:
            if await ledger.reserve(tx, reservation):
                return None
            request_id = question.request_id
            earlier = await ledger.find_request(tx, question.user_id, request_id) if request_id else None
        if earlier is None:
            raise Aborted(
                common_pb2.ERROR_REASON_RUN_IN_PROGRESS,
                "Another run is in progress in this conversation: wait for its end or cancel it.",
            )
        if earlier.content_hash != question.content_hash:
            raise request_id_reused()
        run_id: UUID = earlier.run_id
        return run_id

    async def _store_question(self, question: Question, run: Run, message: Message, first: bytes) -> ModelRequest:
        """Stores message, run and first event, and returns what to ask the model."""
        store, conversation_id = ChatStore(self._mongo, question.org_id), question.conversation["_id"]
        if not question.conversation["title"]:
            await store.set_title(conversation_id, " ".join(question.content.split())[:_TITLE_LENGTH])
        # All of them are waited for, so that none comes after a withdrawal.
        history, exists, *others = await asyncio.gather(
            store.history(conversation_id, message["_id"]),
            store.begin_run(conversation_id, run["_id"], len(question.content.encode())),
            store.save_message(message),
            store.save_run(run),
            store.save_events(EventBatch(_id=new_id(), run_id=run["_id"], first=1, events=[first])),
            return_exceptions=True,
        )
        for error in (history, exists, *others):
            if isinstance(error, BaseException):
                raise error
        if not exists:
            raise NotFound("conversation_id")
        assert isinstance(history, list)
        return ModelRequest(
            question.model_name, question.system_prompt, turns([*history, message]), self._max_output_tokens
        )

    async def _execute(self, live: LiveRun, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.exception("run lost until the next start", run_id=str(live.run["_id"]))
        finally:
            del self._live[live.run["_id"]]
            live.end()

    async def _tick(self) -> None:
        """Four times a second, so that the pace follows the load; every fourth time readers may get a heartbeat."""
        ticks = 0
        while True:
            await asyncio.sleep(0.25)
            self.pace.measure()
            ticks += 1
            if ticks % 4 == 0:
                for live in list(self._live.values()):
                    live.beat(HEARTBEAT_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def withdraw(db: Database, mongo: Mongo, org_id: UUID, run_id: UUID, conversation_id: UUID) -> None:
    """Takes back a run that did not come to be, so that its call can be repeated."""
    store = ChatStore(mongo, org_id)

    async def undo() -> None:
        await store.delete_messages_of(run_id)
        await store.delete_run(run_id)
        await store.end_run(conversation_id, run_id, 0)
        async with db.write(org_id) as tx:
            await ledger.withdraw(tx, run_id)

    await insist(undo)


def turns(messages: Sequence[Message]) -> list[Turn]:
    """What a model reads of the messages: their text. A person speaks first."""
    texts = (("assistant" if m["role"] == "assistant" else "user", _text(m)) for m in messages)
    said = [Turn(role, text) for role, text in texts if text]  # type: ignore[arg-type]
    while said and said[0].role == "assistant":
        del said[0]
    return said


def _text(message: Message) -> str:
    return "".join(content["text"] for content in message["contents"] if content["kind"] == "text")


def _input_estimate(question: Question) -> int:
    texts = len(question.content.encode()) + len(question.system_prompt.encode())
    return estimate_bytes(question.conversation["size_bytes"] + texts)


def _new_message(question: Question) -> Message:
    return Message(
        _id=new_id(),
        conversation_id=question.conversation["_id"],
        run_id=new_id(),
        role="user",
        contents=[{"kind": "text", "text": question.content}],
        partial=False,
        model="",
        create_time=now(),
    )


def _new_run(question: Question, message: Message) -> Run:
    return Run(
        _id=message["run_id"],
        workspace_id=question.conversation["workspace_id"],
        conversation_id=message["conversation_id"],
        user_id=question.user_id,
        user_message_id=message["_id"],
        message_id=new_id(),
        model=question.model,
        state="running",
        finish_reason="",
        failure=None,
        usage=None,
        cost=None,
        create_time=message["create_time"],
        end_time=None,
    )
