"""Rules of conversations, and the ways from a conversation or run to its workspace."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..auth.authority import Principal, Scope
from ..kit.context import Call
from ..kit.errors import NotFound, OutOfRange, Unavailable, etag_mismatch
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.stores import insist
from ..workspaces.members import held_now
from ..workspaces.service import WorkspaceFinder
from . import store
from .models import Conversation, Run
from .runs import Runs
from .store import ChatStore

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
        return await self._find_workspace(call, found)

    async def find_run(self, call: Call, run_id: UUID) -> Scope | None:
        return await self._find_workspace(call, await store.find_run_among(self._mongo, *_caller(call), run_id))

    async def _find_workspace(self, call: Call, found: Any) -> Scope | None:
        call.resource = found
        return await self._workspaces.find(call, found["workspace_id"]) if found else None


def _caller(call: Call) -> tuple[list[UUID], UUID]:
    return list(call.principal.memberships), call.principal.user_id


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


async def delete_conversation(chat: ChatStore, runs: Runs, conversation_id: UUID) -> None:
    await insist(lambda: chat.delete_conversation(conversation_id))
    await runs.cancel_in(conversation_id)
    await insist(lambda: chat.delete_content(conversation_id))


async def cancel_run(runs: Runs, run_id: UUID) -> None:
    """Stops a run and waits until it has ended and is settled."""
    live = runs.find(run_id)
    if live:
        live.stop("cancelled")
        await live.ended.wait()


async def cancel_unentitled(db: Database, runs: Runs, org_id: UUID, workspace_id: UUID | None = None) -> None:
    """Stops what people have in progress in a workspace, or anywhere in the organization, and may no longer ask for."""
    live = [each for each in runs.in_org(org_id) if workspace_id in (None, each.run["workspace_id"])]
    workspaces: dict[UUID, set[UUID]] = {}
    for each in live:
        workspaces.setdefault(each.run["user_id"], set()).add(each.run["workspace_id"])
    held: dict[UUID, dict[UUID, frozenset[str]]] = {user_id: {} for user_id in workspaces}
    async with db.read(org_id) as tx:
        for user_id, theirs in workspaces.items():
            with suppress(NotFound):  # of who is no longer a member
                held[user_id] = await held_now(tx, Principal(user_id, None, None, {}), theirs)
    for each in live:
        if "chat.send" not in held[each.run["user_id"]].get(each.run["workspace_id"], ()):
            each.stop("cancelled")


async def follow(chat: ChatStore, runs: Runs, run_id: UUID, after: int) -> AsyncIterator[bytes]:
    """Encoded events of a run from the one that follows `after`; of a run that has ended at least the terminal one."""
    live = runs.find(run_id)
    if live is None:
        await _wait_for_end(chat, runs, run_id)
        live = runs.find(run_id)
    if live:
        if after >= live.next_sequence:
            raise OutOfRange(
                common_pb2.ERROR_REASON_SEQUENCE_AHEAD,
                f"after_sequence: the run has sent {live.next_sequence - 1} events so far.",
            )
        async for event in live.follow(after):
            yield event
        if not live.concluded:
            raise Unavailable("The run could not be ended properly. Its end is told when the server has recovered.")
        return
    stored = await chat.events_after(run_id, after)
    last = None if stored else await chat.last_event(run_id)
    for event in [*stored, *([last] if last else [])]:
        yield event


async def _wait_for_end(chat: ChatStore, runs: Runs, run_id: UUID) -> None:
    """Waits for a run that is not (or no longer) live in this process until it is, or has ended."""
    for _ in range(round(_STARTING_SECONDS / 0.05)):
        run: Run | None = await chat.find_run(run_id)
        if runs.find(run_id) or (run and run["state"] != "running"):
            return
        await asyncio.sleep(0.05)
    raise Unavailable("The run is being started or ended. Try again.")
