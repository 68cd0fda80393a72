"""Use cases of ChatService: send a message, follow a run, change and delete conversations."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from ..conversations.history import History, room
from ..conversations.models import Conversation
from ..conversations.store import ConversationStore
from ..kit.errors import NotFound, Unavailable, check_etag, etag_mismatch
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.stores import retry_until_available
from ..llm.base import Parameters, Turn
from ..orgs.holds import check_workspace
from ..policies.plan import Plans
from ..policies.store import Rules, rules_of
from ..runs.manager import RunManager
from ..runs.rights import RightLost
from ..runs.start import RunRequest, existing_run
from ..runs.store import RunStore
from ..runs.streams.local import LocalRun
from ..runs.streams.redis import REDIS_UNAVAILABLE
from ..runs.streams.remote import sequence_ahead
from ..workspaces.retrieval import Retrieval
from .erasure import ChatEraser

log = structlog.get_logger("chat")

_START_POLL_SECONDS = 0.05
_START_POLLS = 100  # for a run that is reserved and not yet stored


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends a message, as authorized a moment ago."""

    org_id: UUID
    user_id: UUID
    key_id: UUID | None  # the API key of the call
    session_id: UUID | None  # or its session
    authorize_again: Callable[[], Awaitable[None]]  # raises the error for a right that was lost since


@dataclass(frozen=True, slots=True)
class NewMessage:
    content: str
    model: str  # empty: that of the conversation or of the workspace
    parameters: Parameters
    max_output_tokens: int  # 0: as many as the policies allow
    request_id: UUID | None
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class MessageContext:
    """What a message needs to know of its workspace, and the run of an earlier request with its request_id."""

    default_model: str
    system_prompt: str
    retrieval: Retrieval | None  # the workspace's
    rules: Rules
    earlier_run_id: UUID | None
    earlier_hash: bytes | None


class ChatService:
    def __init__(self, db: Database, mongo: Mongo, plans: Plans, runs: RunManager, eraser: ChatEraser) -> None:
        self._db = db
        self._mongo = mongo
        self._plans = plans
        self._runs = runs
        self._eraser = eraser

    async def send(self, sender: Sender, conversation: Conversation, message: NewMessage) -> UUID:
        """Start the run that answers a message, and return its id.

        An earlier call with the same request_id may have started it: whatever has become forbidden since.
        """
        store = ConversationStore(self._mongo, sender.org_id)
        history = History(store, conversation["_id"], size_bytes=conversation["size_bytes"])
        context, _ = await asyncio.gather(
            self._read_context(sender, conversation["workspace_id"], message.request_id), history.load()
        )
        if existing := existing_run(message.content_hash, context.earlier_run_id, context.earlier_hash):
            return existing.run_id
        plan = await self._plans.make(
            sender.org_id,
            conversation["workspace_id"],
            message.model or conversation["model"] or context.default_model,
            message.parameters,
            message.max_output_tokens,
            "model",
            context.rules,
            chosen=bool(message.model),
        )
        await history.load(max(room(target, plan.max_output_tokens) for target in plan.targets))
        request = RunRequest(
            org_id=sender.org_id,
            user_id=sender.user_id,
            key_id=sender.key_id,
            session_id=sender.session_id,
            conversation=conversation,
            content=message.content,
            system_prompt=context.system_prompt,
            plan=plan,
            turns=[*history.turns, Turn("user", message.content)],
            request_id=message.request_id,
            content_hash=message.content_hash,
            retrieval=_retrieval(conversation, context),
        )
        try:
            return await self._runs.start(request)
        except RightLost:
            await sender.authorize_again()
            raise Unavailable from None  # the right was restored meanwhile

    async def _read_context(self, sender: Sender, workspace_id: UUID, request_id: UUID | None) -> MessageContext:
        values = (sender.org_id, sender.user_id, workspace_id, request_id)
        rows = await self._db.fetch("SELECT * FROM read_chat_context(%s, %s, %s, %s)", values)
        if not rows:
            raise NotFound("conversation_id")
        default_model, system_prompt, retrieval, org, workspace, keys, run_id, content_hash = rows[0]
        rules = rules_of(sender.org_id, workspace_id, org, workspace, keys)
        return MessageContext(default_model, system_prompt, retrieval, rules, run_id, content_hash)

    async def follow(self, org_id: UUID, run_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
        """Yield encoded events of a run from the one that follows `after`; at least the terminal one if it ended."""
        await self._wait_for_start(org_id, run_id)
        run = self._runs.find(run_id)
        source = _follow_local(run, after) if run else self._follow_remote(org_id, run_id, after)
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def _follow_remote(self, org_id: UUID, run_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
        """Follow a run of another process, or one that has ended."""
        async with self._runs.remote.following(org_id, run_id) as run:
            await self._runs.remote.reach(run, after)
            position = min(after, run.next_sequence - 2) if run.ended.is_set() else after
            async with aclosing(run.follow(max(0, position))) as events:
                async for event in events:
                    yield event
            if run.error:
                raise run.error

    async def _wait_for_start(self, org_id: UUID, run_id: UUID) -> None:
        """Wait for a run that was reserved just now, and is not yet stored or not yet in progress in this process."""
        store = RunStore(self._mongo, org_id)
        for _ in range(_START_POLLS):
            if self._runs.find(run_id) or (not self._runs.is_starting(run_id) and await store.exists(run_id)):
                return
            await asyncio.sleep(_START_POLL_SECONDS)
        raise Unavailable("The run is being started. Try again.")

    async def update_conversation(
        self, org_id: UUID, conversation: Conversation, etag: str, values: dict[str, Any]
    ) -> Conversation:
        check_etag(etag, conversation["version"], "conversation.etag")
        store = ConversationStore(self._mongo, org_id)
        updated = await store.update(conversation["_id"], int(etag) if etag else None, values)
        changed = await store.find(conversation["_id"])
        if changed is None:
            raise NotFound("conversation.conversation_id")
        if not updated:
            raise etag_mismatch("conversation.etag")
        return changed

    async def delete_conversation(self, org_id: UUID, workspace_id: UUID, conversation_id: UUID) -> None:
        """Erase the content before returning. If that takes too long, a job does it. Raises OnHold."""
        store = ConversationStore(self._mongo, org_id)

        async def mark() -> None:
            async with self._db.read(org_id) as tx:  # its lock keeps a hold waiting until the conversation is marked
                await check_workspace(tx, org_id, workspace_id)
                await store.mark_deleted(conversation_id)

        await retry_until_available(mark)
        try:
            await retry_until_available(lambda: self._eraser.erase_conversation(org_id, conversation_id))
        except REDIS_UNAVAILABLE as error:  # or a run did not end in time
            log.warning("conversation_not_erased", conversation_id=str(conversation_id), error=type(error).__name__)


def _retrieval(conversation: Conversation, context: MessageContext) -> Retrieval | None:
    """Return the retrieval of the conversation or else of the workspace; None if it names no documents."""
    own = conversation.get("retrieval")
    found = context.retrieval if own is None else own
    return found if found and (found["collection_ids"] or found["all_documents"]) else None


async def _follow_local(run: LocalRun, after: int) -> AsyncGenerator[bytes, None]:
    if after >= run.next_sequence:
        raise sequence_ahead(run)
    async with aclosing(run.follow(after)) as events:
        async for event in events:
            yield event
    if not run.concluded:
        raise Unavailable("The run is ended by another process. Follow it from where you are.")
