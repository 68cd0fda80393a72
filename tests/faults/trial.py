"""One experiment: servers, somebody who asks them, and the moment at which something is broken."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from aiworkspace.v1 import budget_pb2, common_pb2, model_pb2
from tests.standin import Charge, Script
from tests.support.people import Person, make_conversation, make_place
from tests.support.server_process import ServerProcess
from tests.support.tcp_gate import TcpGate

from .asking import Asked, Asker
from .calls import Calls
from .moments import until
from .site import Site

OPENAI = "openai/gpt-4o-mini"
ANTHROPIC = "anthropic/claude-haiku-4-5"
_CONNECTIONS = 8  # to a server of several processes: each has some of them, but for one case in a hundred
_PLENTY = 10**15  # nano-USD, so that every experiment shows that a budget counts what the ledger has
_PATIENCE_SECONDS = 120.0
_numbers = count(1)


def words(number: int) -> tuple[str, ...]:
    """Tokens of an answer."""
    return tuple(f"word{each} " for each in range(number))


@dataclass
class Trial:
    """`servers` take the place of each other: questions go to the first that runs."""

    site: Site
    servers: Sequence[ServerProcess]
    asker: Asker
    org_id: str
    workspace_id: str
    begin: int  # how much was billed before
    begin_time: datetime
    has_redis: bool = False
    clock_error: timedelta = timedelta()  # by which times in the databases may be wrong
    asked: list[Asked] = field(default_factory=list)
    may_refuse: bool = False  # whether there may be too little money for what is asked
    fault_time: float = 0
    trouble_time: float | None = None  # of a load: when the last call was refused
    calls: Calls = field(default_factory=Calls)
    acknowledged: int = 0  # writes; runs are in `asked`
    lost: list[str] = field(default_factory=list)  # of the writes
    wrong: list[str] = field(default_factory=list)  # what else did not hold
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def server(self) -> ServerProcess:
        return self.servers[0]

    async def prepare(self, number: int, *scripts: Script, model: str = OPENAI) -> list[Asked]:
        """Questions, each in a conversation of its own, that the provider answers so. They are not asked yet."""
        prepared = []
        for _ in range(number):
            content = f"question {next(_numbers)}, with words to count"
            self.site.standin.answer(content, *scripts)
            conversation_id = await make_conversation(self.asker.now, self.workspace_id, model)
            prepared.append(Asked(content, conversation_id, model, "".join(scripts[0].tokens)))
        return prepared

    def send(self, *prepared: Asked) -> None:
        self.asked += prepared
        self._tasks += [asyncio.create_task(self.asker.ask(each)) for each in prepared]

    async def ask(self, number: int, *scripts: Script, model: str = OPENAI) -> list[Asked]:
        prepared = await self.prepare(number, *scripts, model=model)
        self.send(*prepared)
        return prepared

    async def ask_one_by_one(self, number: int, script: Script) -> None:
        """So that whatever comes then meets runs at every step."""
        for each in await self.prepare(number, script):
            self.send(each)
            await asyncio.sleep(0.02)

    async def vanish(self) -> None:
        """Everybody who asked hangs up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def come_back(self) -> None:
        asked, self.asked = self.asked, []
        self.send(*asked)

    async def ask_two(self, number: int, first: Script, other: Script, model: str) -> None:
        """The second script is for the requests to another model."""
        prepared = await self.prepare(number, first)
        for each in prepared:
            self.site.standin.answer(each.content, other, model=model.partition("/")[2])
        self.send(*prepared)

    async def allow(self, **policy: Any) -> None:
        """The model policy of the workspace."""
        request = model_pb2.SetWorkspaceModelPolicyRequest(
            workspace_id=self.workspace_id, policy=model_pb2.ModelPolicy(**policy)
        )
        await self.asker.now.models.SetWorkspaceModelPolicy(request)

    async def limit(self, nanos: int) -> None:
        """Gives the organization a hard budget."""
        request = budget_pb2.CreateBudgetRequest(
            org_id=self.org_id,
            scope=budget_pb2.BUDGET_SCOPE_ORG,
            window=budget_pb2.BUDGET_WINDOW_MONTH,
            limit=common_pb2.Money(currency_code="USD", nanos=nanos),
            hard=True,
        )
        await self.asker.now.budgets.CreateBudget(request)

    async def follow_at(self, server: ServerProcess) -> None:
        """Everybody who asked reads along at another server as well, and counts once more."""
        asker = self.asker.at(server.address)
        await until(lambda: all(each.run_id for each in self.asked))
        for each in list(self.asked):
            along = Asked(each.content, each.conversation_id, each.model, each.whole, run_id=each.run_id)
            self.asked.append(along)
            self._tasks.append(asyncio.create_task(asker.ask(along)))

    def fault(self) -> None:
        """What is broken is broken now."""
        self.fault_time = time.monotonic()

    async def settle_down(self) -> None:
        """Waits for the end of everything that was asked. What does not end shows in the figures."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_PATIENCE_SECONDS)
        await self.vanish()

    async def bill_is_whole(self) -> None:
        """Waits until the provider has noticed the end of every request."""
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await self.site.standin.quiet()

    @property
    def bill(self) -> list[Charge]:
        return self.site.standin.bill[self.begin :]

    @property
    def slowest(self) -> float:
        """Seconds from the fault to the last trouble, or to the last end seen of what was asked before it."""
        if self.trouble_time is not None:
            return self.trouble_time - self.fault_time
        ends = [each.end_time - self.fault_time for each in self.asked if each.end_time]
        return max([0.0, *ends]) if self.fault_time else 0.0


@asynccontextmanager
async def trial(
    site: Site,
    settings: Mapping[str, object] | None = None,
    *options: str,
    servers: int = 1,
    gate: TcpGate | None = None,
    environments: Sequence[Mapping[str, object]] = (),
) -> AsyncIterator[Trial]:
    """With servers, and somebody with an organization of their own. Two or more have Redis between them.

    `gate`: through which callers reach the first one. `environments`: what each has besides.
    """
    begin_time = datetime.now(UTC)
    values = ({"redis_url": site.redis.url} if servers > 1 else {}) | dict(settings or {})
    each_own = [*environments, *([{}] * (servers - len(environments)))]
    all_servers = [site.server(values | dict(own), *options) for own in each_own]
    async with AsyncExitStack() as stack:
        for server in all_servers:
            await stack.enter_async_context(server)
        if gate:
            gate.target = int(all_servers[0].address.rpartition(":")[2])
        person, calls = await Person(all_servers[0].address).register(), Calls()

        def address() -> str:
            if gate:
                return f"127.0.0.1:{gate.port}"
            return next((each for each in all_servers if each.running), all_servers[0]).address

        asker = Asker(person, address, _CONNECTIONS if options else 1, calls)
        place = await make_place(person)
        bill = len(site.standin.bill)
        at = Trial(site, all_servers, asker, place.org_id, place.workspace_id, bill, begin_time, "redis_url" in values)
        at.calls = calls
        await at.limit(_PLENTY)
        try:
            yield at
        finally:
            await asker.close()
            await person.channel.close()
