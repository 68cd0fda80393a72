"""What traces cost an authenticated call of which one in a hundred is recorded and sent to a collector."""

from statistics import median

from aiworkspace.v1 import workspace_pb2
from tests.support.collector import Collector
from tests.support.people import make_place, people

from .servers import Server, Site, site
from .table import Row
from .unary import GET_WORKSPACE, LIST_MODELS, Target, list_models, measure_round

_GOAL = 1.03
_METHODS = "authenticated call, no database", "GetWorkspace"


async def measure(where: Site, quick: bool) -> list[Row]:
    rounds, seconds = (2, 0.7) if quick else (12, 1.0)
    directory = where.directory / "traced"
    directory.mkdir()
    async with Collector() as collector, site(where.cores, directory, where.log) as elsewhere:
        with where.server() as plain, elsewhere.server(collector=collector.url) as traced:
            pairs = list(zip(await _targets(plain), await _targets(traced), strict=True))
            for _ in range(rounds):
                for pair in pairs:
                    for target in pair:
                        await measure_round(target, where.cores, seconds)
    return [_row(what, *pair, len(collector.spans)) for what, pair in zip(_METHODS, pairs, strict=True)]


async def _targets(server: Server) -> list[Target]:
    async with people(server.address) as new_person:
        place = await make_place(await new_person())
    token = place.owner.tokens.access_token
    workspace = workspace_pb2.GetWorkspaceRequest(workspace_id=place.workspace_id).SerializeToString()
    return [Target(server, LIST_MODELS, token, list_models()), Target(server, GET_WORKSPACE, token, workspace)]


def _row(what: str, plain: Target, traced: Target, spans: int) -> Row:
    ratio = median(after / before for before, after in zip(plain.costs, traced.costs, strict=True))
    note = f"{traced.cost:.0f} / {plain.cost:.0f} µs of server CPU a call; {spans:,} spans came in all rounds"
    return Row(f"{what}: CPU with traces of 1 % / without", ratio, _GOAL, [note], least=False, digits=3)
