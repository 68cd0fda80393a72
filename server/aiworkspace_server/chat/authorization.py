"""Finds the workspace of a conversation or run for authorization."""

from typing import Any
from uuid import UUID

from ..auth.authority import Scope, principal_of
from ..conversations.models import Conversation
from ..conversations.store import find_conversation_among
from ..kit.context import Call
from ..kit.mongo import Mongo
from ..runs.models import Run
from ..runs.store import find_run_among
from ..workspaces.service import WorkspaceFinder


class ChatFinder:
    """Leaves the document that it found with the call.

    Only the person whose it is finds it, and only while the workspace and the membership last.
    """

    def __init__(self, mongo: Mongo, workspaces: WorkspaceFinder) -> None:
        self._mongo = mongo
        self._workspaces = workspaces

    async def find_conversation(self, call: Call, conversation_id: UUID) -> Scope | None:
        found = await find_conversation_among(self._mongo, *_caller(call), conversation_id)
        call.put(Conversation, found)
        return await self._find_workspace(call, found)

    async def find_run(self, call: Call, run_id: UUID) -> Scope | None:
        found = await find_run_among(self._mongo, *_caller(call), run_id)
        call.put(Run, found)
        return await self._find_workspace(call, found)

    async def _find_workspace(self, call: Call, found: Any) -> Scope | None:
        return await self._workspaces.find(call, found["workspace_id"]) if found else None


def _caller(call: Call) -> tuple[list[UUID], UUID]:
    principal = principal_of(call)
    return list(principal.memberships), principal.user_id
