"""Starting a run: admission checks, reservation, and the first writes."""

import asyncio
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy import Row

from aiworkspace.v1 import common_pb2

from ..kit import typed
from ..kit.errors import Aborted, NotFound, Unavailable
from ..kit.idempotency import request_id_reused
from ..kit.ids import new_id
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import ModelRequest, Turn
from ..llm.tokens import bound_input, estimate_input, expect_input
from ..policies.plan import Plan, Target
from ..usage import ledger
from ..usage.ledger import Spender
from . import claims, events, planned, rights
from .context import fit, room
from .engine import Engine
from .models import Conversation, EventBatch, Message, Run
from .store import ChatStore

_TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Question:
    """What a person asks of a model, checked."""

    org_id: UUID
    user_id: UUID
    key_id: UUID | None  # of the API key that the caller has
    session_id: UUID | None  # or of the session
    conversation: Conversation
    content: str
    system_prompt: str
    plan: Plan
    turns: list[Turn]  # what was said before, as far back as it was read, and what is said now
    request_id: UUID | None
    content_hash: bytes


class Opening:
    """One run with its first event. To be admitted, reserved and stored, in this order."""

    def __init__(self, engine: Engine, question: Question) -> None:
        self._engine = engine
        self._question = question
        self.plan = question.plan  # from the first model on that may be asked
        self._message = _new_message(question)
        self.run = _new_run(question, self._message)
        self.run_id: UUID = self.run["_id"]
        self.spender = _spender(question, self.run)
        self.first = events.encode(self.run_id, 1, **events.started(self.run, self._message))

    async def admit(self, target: Target) -> ModelRequest:
        """What to ask a model, once that fits into its context and into the limits of the model policies."""
        question, plan = self._question, self.plan
        request = ModelRequest(
            target.name,
            question.system_prompt,
            fit(question.turns, question.system_prompt, room(target, plan.max_output_tokens)),
            plan.max_output_tokens,
            plan.parameters,
        )
        await plan.limits.take(target.model, estimate_input(request) + plan.max_output_tokens)
        return request

    def begin_with(self, target: Target) -> None:
        """Leave out the models before this one."""
        targets = self.plan.targets
        self.plan = replace(self.plan, targets=targets[targets.index(target) :])

    async def find_earlier(self) -> UUID | None:
        """The run that an earlier call with the same request_id started: what was let through once is not refused."""
        question = self._question
        if question.request_id is None:
            return None
        async with self._engine.db.read(question.org_id) as tx:
            earlier = await claims.find_request(tx, question.user_id, question.request_id)
        return same_run(question.content_hash, earlier)

    async def reserve(self, request: ModelRequest) -> UUID | None:
        """Reserves, or returns the run that an earlier call with the same request_id started.

        Raises RightLost when the caller, authorized a moment ago, may no longer have this run.
        """
        question, plan, spender = self._question, self.plan, self.spender
        target, book = plan.targets[0], self._engine.ledger
        amount, expected = (
            ledger.reservation(target.model, count(request), plan.max_output_tokens, spender.run_time)
            for count in (bound_input, expect_input)
        )
        async with self._engine.db.write(question.org_id, question.user_id) as tx:
            if await claims.claim(tx, spender, question.content_hash, self._engine.server_id):
                await rights.check(tx, spender, question.session_id)  # under the lock that the claim took
                await book.reserve(
                    tx,
                    spender,
                    1,
                    target.model,
                    amount,
                    own_key=target.own_key,
                    time=spender.run_time,
                    expected_nanos=expected.nanos,
                )
                return None
            request_id = question.request_id
            earlier = await claims.find_request(tx, question.user_id, request_id) if request_id else None
        if found := same_run(question.content_hash, earlier):
            return found
        raise Aborted(
            common_pb2.ERROR_REASON_RUN_IN_PROGRESS,
            "Another run is in progress in this conversation: wait for its end or cancel it.",
        )

    async def store(self) -> None:
        """Stores message and first event, then the run: who finds a run finds all of it, whenever its server died."""
        question, conversation_id = self._question, self.run["conversation_id"]
        store = ChatStore(self._engine.mongo, question.org_id)
        # All of them are waited for, so that none comes after a withdrawal.
        begun, *others = await asyncio.gather(
            store.begin_run(question.conversation, self.run_id, len(question.content.encode())),
            store.save_message(self._message),
            store.save_events(EventBatch(_id=new_id(), run_id=self.run_id, first=1, events=[self.first])),
            *(() if question.conversation["title"] else (store.set_title(conversation_id, self._title()),)),
            return_exceptions=True,
        )
        for error in (begun, *others):
            if isinstance(error, BaseException):
                raise error
        if not begun:
            if await store.find_conversation(conversation_id) is None:
                raise NotFound("conversation_id")
            raise Unavailable("Somebody spoke in the conversation at the same time. Try again.")
        await store.save_run(self.run)

    def _title(self) -> str:
        return typed.title(self._question.content, _TITLE_LENGTH)


async def withdraw(engine: Engine, org_id: UUID, run_id: UUID, conversation_id: UUID) -> None:
    """Takes back a run that did not come to be, so that its call can be repeated."""
    store = ChatStore(engine.mongo, org_id)

    async def undo() -> None:
        await store.delete_messages_of(run_id)
        await store.delete_run(run_id)
        await store.end_run(conversation_id, run_id, 0)
        async with engine.db.write(org_id) as tx:
            await ledger.count_alone(tx, org_id)  # which waits for a reservation whose COMMIT got no answer
            for entry in await ledger.list_reserved(tx, run_id):
                await engine.ledger.release(tx, org_id, run_id, entry.attempt)
            await claims.withdraw(tx, run_id)

    await retry_until_available(undo)


def same_run(content_hash: bytes, earlier: Row[UUID, bytes] | None) -> UUID | None:
    """The run of an earlier request, which has to have been the same one."""
    if earlier is None:
        return None
    if earlier.content_hash != content_hash:
        raise request_id_reused()
    run_id: UUID = earlier.run_id
    return run_id


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


def _spender(question: Question, run: Run) -> Spender:
    return Spender(
        question.org_id,
        run["workspace_id"],
        run["conversation_id"],
        run["_id"],
        run["create_time"],
        question.user_id,
        question.key_id,
        question.request_id,
    )


def _new_run(question: Question, message: Message) -> Run:
    return Run(
        _id=message["run_id"],
        workspace_id=question.conversation["workspace_id"],
        conversation_id=message["conversation_id"],
        user_id=question.user_id,
        user_message_id=message["_id"],
        message_id=new_id(),
        model=question.plan.asked or question.plan.targets[0].model,
        plan=planned.to_document(question.plan),
        state="running",
        finish_reason="",
        failure=None,
        usage=None,
        cost=None,
        attempt_count=0,
        endings=[],
        end_id=None,
        create_time=message["create_time"],
        end_time=None,
    )
