"""Calls per second: what authentication, authorization, limits, logging and a read cost beside an empty call."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from aiworkspace.v1 import chat_pb2, workspace_pb2
from tests.support.people import Place, make_place, people

from .empty import UNARY
from .http2 import Connection, connect, headers
from .machine import Cores, Spent, Times
from .servers import Server, Site
from .table import Row

_CONNECTIONS = 4
_CALLS_IN_FLIGHT = 32
_WARM_UP_SECONDS = 0.3
LIST_MODELS = "/aiworkspace.v1.ChatService/ListModels"
GET_WORKSPACE = "/aiworkspace.v1.WorkspaceService/GetWorkspace"


@dataclass(slots=True)
class Target:
    """A method under load, and what its rounds took."""

    server: Server
    path: str
    token: str
    request: bytes
    calls: list[int] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Calls per second."""
        return median(calls / spent.seconds for calls, spent in zip(self.calls, self.spent, strict=True))

    @property
    def costs(self) -> list[float]:
        """Microseconds of the server's CPU for a call, of each round."""
        return [spent.cpu_seconds / calls * 1e6 for calls, spent in zip(self.calls, self.spent, strict=True)]

    @property
    def cost(self) -> float:
        return median(self.costs)


class Caller:
    """Keeps one call in flight until it is told to stop."""

    def __init__(self, connection: Connection, request: bytes) -> None:
        self.answered = 0
        self.refused = 0
        self.stopping = False
        self.idle = asyncio.Event()
        self._connection = connection
        self._request = request
        self._answers = 0
        connection.call(request, self)

    def message(self, data: bytes) -> None:
        self.answered += 1

    def end(self) -> None:
        self._answers += 1
        self.refused = self._answers - self.answered
        if self.stopping or self.refused:
            self.idle.set()
        else:
            self._connection.call(self._request, self)


async def measure(site: Site, quick: bool) -> list[Row]:
    rounds, seconds = (2, 0.7) if quick else (8, 1.0)
    with site.empty() as empty, site.server() as server:
        async with people(server.address) as new_person:
            place = await make_place(await new_person())
            targets = _targets(empty, server, place)
        for _ in range(rounds):
            for target in targets:
                await measure_round(target, site.cores, seconds)
    return _rows(*targets)


def empty_target(empty: Server) -> Target:
    return Target(empty, UNARY, "", list_models())


def list_models() -> bytes:
    return chat_pb2.ListModelsRequest(page_size=1).SerializeToString()


def _targets(empty: Server, server: Server, place: Place) -> list[Target]:
    token = place.owner.tokens.access_token
    workspace = workspace_pb2.GetWorkspaceRequest(workspace_id=place.workspace_id).SerializeToString()
    return [
        empty_target(empty),
        Target(server, LIST_MODELS, token, list_models()),
        Target(server, GET_WORKSPACE, token, workspace),
    ]


async def measure_round(target: Target, cores: Cores, seconds: float) -> None:
    block = headers(target.path, target.token)
    connections = [await connect(target.server.address, block) for _ in range(_CONNECTIONS)]
    callers = [Caller(connections[n % _CONNECTIONS], target.request) for n in range(_CALLS_IN_FLIGHT)]
    await asyncio.sleep(_WARM_UP_SECONDS)
    answered, start = _answered(callers), Times.now(target.server.pid, cores)
    await asyncio.sleep(seconds)
    target.calls.append(_answered(callers) - answered)
    target.spent.append(Spent.between(start, Times.now(target.server.pid, cores), cores))
    await _stop(callers)
    for connection in connections:
        connection.close()


def _answered(callers: Sequence[Caller]) -> int:
    return sum(caller.answered for caller in callers)


async def _stop(callers: Sequence[Caller]) -> None:
    for caller in callers:
        caller.stopping = True
    async with asyncio.timeout(10):
        await asyncio.gather(*(caller.idle.wait() for caller in callers))
    if refused := sum(caller.refused for caller in callers):
        raise RuntimeError(f"{refused} calls were refused")


def _rows(empty: Target, models: Target, workspace: Target) -> list[Row]:
    authenticated = "No method with a permission answers without a database; ListModels(page_size=1) is authenticated,"
    return [
        Row(
            "authenticated unary call, no database / empty grpc.aio call",
            models.rate / empty.rate,
            0.7,
            [f"{authenticated} limited, validated, logged.", _figures(empty, models), *_doubts(empty, models)],
        ),
        Row(
            "GetWorkspace: permission, one read under row-level security / empty call",
            workspace.rate / empty.rate,
            0.4,
            [_figures(empty, workspace), *_doubts(workspace)],
        ),
    ]


def _figures(empty: Target, target: Target) -> str:
    return (
        f"{target.rate:,.0f} / {empty.rate:,.0f} calls/s; {target.cost:.0f} / {empty.cost:.0f} µs of server CPU a call"
        f" (ratio {empty.cost / target.cost:.2f})"
    )


def _doubts(*targets: Target) -> list[str]:
    """What makes the figures worth less, if anything."""
    spent = [spent for target in targets for spent in target.spent]
    idle = 1 - median(one.cpu_seconds / one.seconds + one.foreign_share for one in spent)
    foreign = median(one.foreign_share for one in spent)
    load = median(one.load_share for one in spent)
    doubts = [f"Others took {foreign:.0%} of the server's core: go by µs."] if foreign > 0.05 else []
    if idle > 0.1:
        doubts.append(f"The server's core was {idle:.0%} idle, the load's {1 - load:.0%}: go by µs.")
    return doubts
