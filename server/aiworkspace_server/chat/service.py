"""Rules of conversations, and the ways from a conversation or run to its workspace."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import UUID

import structlog

from ..auth.authority import Scope, principal_of
from ..kit.context import Call
from ..kit.errors import NotFound, Unavailable, etag_mismatch
from ..kit.mongo import Mongo
from ..kit.stores import retry_until_available
from ..workspaces.service import WorkspaceFinder
from . import store
from .erasure import ChatEraser
from .live import LiveRun
from .mirrors import sequence_ahead
from .models import Conversation, Run
from .relay import REDIS_AWAY
from .runs import Runs
from .store import ChatStore

log = structlog.get_logger("chat")

_STARTING_SECONDS = 5.0  # how long a run may take from its reservation to its first event


class ChatFinder:
    """Finds the workspace of a conversation or run for authorization, and leaves the document with the call.

    Only the person whose it is finds it, and only while the workspace and the membership last.
    """

    def __init__(self, mongo: Mongo, workspaces: WorkspaceFinder) -> None:
        self._mongo = mongo
        self._workspaces = workspaces

    async def find_conversation(self, call: Call, conversation_id: UUID) -> Scope | None:
        found = await store.find_conversation_among(self._mongo, *_caller(call), conversation_id)
        call.put(Conversation, found)
        return await self._find_workspace(call, found)

    async def find_run(self, call: Call, run_id: UUID) -> Scope | None:
        found = await store.find_run_among(self._mongo, *_caller(call), run_id)
        call.put(Run, found)
        return await self._find_workspace(call, found)

    async def _find_workspace(self, call: Call, found: Any) -> Scope | None:
        return await self._workspaces.find(call, found["workspace_id"]) if found else None


def _caller(call: Call) -> tuple[list[UUID], UUID]:
    principal = principal_of(call)
    return list(principal.memberships), principal.user_id


async def update_conversation(
    chat: ChatStore, conversation: Conversation, etag: str, values: dict[str, Any]
) -> Conversation:
    if etag and etag != str(conversation["version"]):
        raise etag_mismatch("conversation.etag")
    updated = await chat.update_conversation(conversation["_id"], int(etag) if etag else None, values)
    changed = await chat.find_conversation(conversation["_id"])
    if changed is None:
        raise NotFound("conversation.conversation_id")
    if not updated:
        raise etag_mismatch("conversation.etag")
    return changed


async def delete_conversation(chat: ChatStore, eraser: ChatEraser, org_id: UUID, conversation_id: UUID) -> None:
    """Erase the content before returning. If that takes too long, a job does it."""
    await retry_until_available(lambda: chat.delete_conversation(conversation_id))
    try:
        await retry_until_available(lambda: eraser.erase_conversation(org_id, conversation_id))
    except REDIS_AWAY as error:  # or a run did not end in time
        log.warning("conversation_not_erased", conversation_id=str(conversation_id), error=type(error).__name__)


async def follow(chat: ChatStore, runs: Runs, org_id: UUID, run_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
    """Encoded events of a run from the one that follows `after`; of a run that has ended at least the terminal one."""
    await _wait_for_start(chat, runs, run_id)
    live = runs.find(run_id)
    source = _follow_here(live, after) if live else _follow_elsewhere(runs, org_id, run_id, after)
    async with aclosing(source) as events:
        async for event in events:
            yield event


async def _follow_here(live: LiveRun, after: int) -> AsyncGenerator[bytes, None]:
    if after >= live.next_sequence:
        raise sequence_ahead(live)
    async with aclosing(live.follow(after)) as events:
        async for event in events:
            yield event
    if not live.concluded:
        raise Unavailable("The run is ended by another process. Follow it from where you are.")


async def _follow_elsewhere(runs: Runs, org_id: UUID, run_id: UUID, after: int) -> AsyncGenerator[bytes, None]:
    """Of a run of another process, or one that has ended."""
    async with runs.mirrors.following(org_id, run_id) as mirror:
        await runs.mirrors.reach(mirror, after)
        position = min(after, mirror.next_sequence - 2) if mirror.ended.is_set() else after
        async with aclosing(mirror.follow(max(0, position))) as events:
            async for event in events:
                yield event
        if mirror.error:
            raise mirror.error


async def _wait_for_start(chat: ChatStore, runs: Runs, run_id: UUID) -> None:
    """Waits for a run that was reserved just now, and is not yet stored or not yet live in this process."""
    for _ in range(round(_STARTING_SECONDS / 0.05)):
        if runs.find(run_id) or (not runs.is_starting(run_id) and await chat.find_run(run_id)):
            return
        await asyncio.sleep(0.05)
    raise Unavailable("The run is being started. Try again.")
