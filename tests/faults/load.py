"""A steady load of calls beside a fault: some write, and some ask and read their answers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

import grpc

from aiworkspace.v1 import chat_pb2, workspace_pb2
from tests.standin import Script
from tests.support.waiting import until_true

from .asking import Asked
from .calls import CALL_SECONDS
from .trial import OPENAI, Trial, words

_ANSWER = Script(tokens=words(20), seconds_per_token=0.03, goes_on=True)
_PAUSE_SECONDS = 0.05  # of a caller between two calls
_STEADY_SECONDS = 3.0  # without trouble, after which everything works again
_PATIENCE_SECONDS = 90.0
_BEGUN_ROUNDS, _WORKING_ROUNDS = 20, 20  # of all callers together
_WORKSPACES = "SELECT id::text, name FROM workspaces WHERE org_id = %s"
_numbers = count(1)


@dataclass
class Load:
    at: Trial
    workspaces: dict[str, str] = field(default_factory=dict)  # names by id, of those that were acknowledged
    conversations: dict[str, str] = field(default_factory=dict)  # titles by id
    rounds: int = 0  # that somebody came through without trouble

    async def write(self) -> None:
        now, name = self.at.asker.now, f"write {next(_numbers)}"
        request = workspace_pb2.CreateWorkspaceRequest(org_id=self.at.org_id, name=name, default_model=OPENAI)
        made = await self._call(now.workspaces.CreateWorkspace, request)
        self.workspaces[made.workspace.workspace_id] = name
        conversation_id = await self._converse(name)
        looking = chat_pb2.GetConversationRequest(conversation_id=conversation_id)
        await self._call(self.at.asker.now.chat.GetConversation, looking)

    async def ask(self) -> None:
        content = f"load {next(_numbers)}, with words to count"
        conversation_id = await self._converse(content)
        self.at.site.standin.answer(content, _ANSWER)
        asked = Asked(content, conversation_id, OPENAI, "".join(_ANSWER.tokens))
        self.at.asked.append(asked)
        await self.at.asker.ask(asked)

    async def begun(self) -> None:
        """Wait until everybody is at work."""
        await until_true(lambda: self.rounds >= _BEGUN_ROUNDS)

    async def settled(self) -> None:
        """Wait until everything works again. The trial has the time of the last trouble then."""
        heal, rounds = time.monotonic(), self.rounds
        wanted = rounds + _WORKING_ROUNDS
        while not (self.rounds > wanted and time.monotonic() - self._trouble_time(heal) > _STEADY_SECONDS):
            if time.monotonic() - heal > _PATIENCE_SECONDS:
                self.at.wrong.append(f"it does not work again: {self.rounds - rounds} rounds since, of {wanted}")
                break
            await asyncio.sleep(0.1)
        self.at.trouble_time = self._trouble_time(heal)

    async def check(self) -> int:
        """Note what is missing of what was acknowledged. Return how much was."""
        org_id = UUID(self.at.org_id)
        stored = dict(await self.at.site.rows(_WORKSPACES, org_id))
        documents = await self.at.site.documents("conversations", {"org_id": org_id})
        titles = {str(each["_id"]): each["title"] for each in documents}
        for kind, acknowledged, found in (
            ("workspace", self.workspaces, stored),
            ("conversation", self.conversations, titles),
        ):
            for missing in acknowledged.items() - found.items():
                self.at.lost.append(f"{kind} {missing[0]} was acknowledged as {missing[1]!r}")
        return len(self.workspaces) + len(self.conversations)

    def _trouble_time(self, heal: float) -> float:
        """When the last call was refused, or the last answer came that was asked for before `heal`."""
        ends = [each.end_time for each in self.at.asked if each.begin_time < heal]
        return max(heal, self.at.calls.trouble_time, *ends, 0.0)

    async def _converse(self, title: str) -> str:
        request = chat_pb2.CreateConversationRequest(workspace_id=self.at.workspace_id, title=title, model=OPENAI)
        made = await self._call(self.at.asker.now.chat.CreateConversation, request)
        conversation_id: str = made.conversation.conversation_id
        self.conversations[conversation_id] = title
        return conversation_id

    async def _call(self, stub: Any, request: Any) -> Any:
        with self.at.calls.call(type(request).__name__.removesuffix("Request")):
            return await stub(request, timeout=CALL_SECONDS)

    async def repeat(self, one: Callable[[], Any], over: asyncio.Event) -> None:
        while not over.is_set():
            with suppress(grpc.aio.AioRpcError):
                await one()
                self.rounds += 1
            await asyncio.sleep(_PAUSE_SECONDS)


@asynccontextmanager
async def load(at: Trial, writers: int = 4, askers: int = 4) -> AsyncIterator[Load]:
    """Callers at work until the context ends, where each ends its round and what they were told is compared."""
    over, working = asyncio.Event(), Load(at)
    rounds = [working.write] * writers + [working.ask] * askers
    callers = [asyncio.create_task(working.repeat(each, over)) for each in rounds]
    try:
        yield working
    finally:
        over.set()
        await asyncio.wait(callers, timeout=_PATIENCE_SECONDS)
        for caller in callers:
            caller.cancel()
    at.acknowledged += await working.check()
