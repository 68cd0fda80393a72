"""A server of its own under attack: what callers can make it hold is bounded, and given back when they are gone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from aiworkspace.v1 import options_pb2
from tests.support import http2
from tests.support.people import connections, make_place, people
from tests.support.runs import follow, send
from tests.support.server_process import ServerProcess
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until_true

MIB = 1 << 20
HELD_BYTES = 160 * MIB  # 8 requests of 2 MiB of each of three callers, 64 KiB of each that waits, and buffers
SPARE_BYTES = 32 * MIB  # of threads, caches and code that was not used before
PATHS = {
    "/grpc.health.v1.Health/Watch": 4 * MIB,  # more than the server takes
    "/grpc.health.v1.Health/Check": 2 * MIB,
    "/aiworkspace.v1.AuthService/Login": 2 * MIB,
    "/aiworkspace.v1.OrgService/ListOrgs": 2 * MIB,
    "/aiworkspace.v1.ChatService/SendMessage": 2 * MIB,
}
_READ = options_pb2.RateLimitClass.DESCRIPTOR.values_by_name["RATE_LIMIT_CLASS_READ"]
STREAMS = _READ.GetOptions().Extensions[options_pb2.streams_at_once]
WATCHES, DIALOGUES = 100, 4


@pytest.fixture
async def server(stores: Stores, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    settings = store_settings(await other_databases(stores, f"exhaustion_{tmp_path.name[-8:]}".replace("-", "_")))
    settings |= {"echo_tokens_per_second": 1}
    async with ServerProcess(tmp_path, settings, "--migrate") as server:
        yield server


async def test_requests_that_never_arrive_end_and_leave_nothing(server: ServerProcess) -> None:
    async with people(server.address) as new_person, AsyncExitStack() as stack:
        credentials = [(b"authorization", b"Bearer " + (await new_person()).tokens.access_token.encode())]
        before = server.resident_bytes
        attack = [
            await stack.enter_async_context(http2.begun(server.address, path, size, headers))
            for path, size in PATHS.items()
            for headers in ([], credentials)
            for _ in range(40)
        ]
        held = []
        async with asyncio.timeout(60):
            while any(not call.done() for call in attack):
                held.append(server.resident_bytes - before)
                await asyncio.wait(attack, timeout=0.1)
        ended = Counter(call.result().status for call in attack)
    assert set(ended) <= {
        grpc.StatusCode.DEADLINE_EXCEEDED.value[0],  # what was let in did not arrive in time
        grpc.StatusCode.UNAUTHENTICATED.value[0],
        grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],  # larger than the server takes
    }, ended
    assert max(held) < HELD_BYTES
    await until_true(lambda: server.resident_bytes - before < SPARE_BYTES)


async def test_one_person_has_few_streams_and_they_cost_little(server: ServerProcess) -> None:
    async with people(server.address) as new_person, connections(server.address) as connect:
        place = await make_place(await new_person(), "echo/echo")
        sent = send(place, "word " * 200)
        run_id = (await sent.read()).event.run_id
        before = server.resident_bytes
        readers = [connect(place.owner.bearer.token) for _ in range(2)]
        streams = [follow(readers[n % 2], run_id) for n in range(STREAMS + 20)]
        firsts = await asyncio.gather(*map(_first, streams))
        assert Counter(firsts) == {"event": STREAMS, "TOO_MANY_CALLS": 20}
        assert server.resident_bytes - before < 64 * MIB
        other = await make_place(await new_person())  # nobody else is kept from anything
        assert other.conversation_id
        for stream in streams:
            stream.cancel()
        sent.cancel()


async def _first(stream: Any) -> str:
    try:
        await stream.read()
    except grpc.aio.AioRpcError as error:
        status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
        info = error_details_pb2.ErrorInfo()
        status.details[0].Unpack(info)
        return str(info.reason)
    return "event"


async def test_an_address_has_few_watches_of_health_and_dialogues_with_reflection(server: ServerProcess) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service="x" * 4000 + str(n))) for n in range(WATCHES + 5)]
        assert Counter(await asyncio.gather(*map(_first, watches))) == {"event": WATCHES, "TOO_MANY_CALLS": 5}
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = ServerReflectionStub(cast(Any, channel))
        dialogues = [reflection.ServerReflectionInfo() for _ in range(DIALOGUES)]
        for dialogue in dialogues:
            await dialogue.write(ServerReflectionRequest(list_services=""))
        assert Counter(await asyncio.gather(*map(_first, dialogues))) == {"event": DIALOGUES}
        assert await _first(reflection.ServerReflectionInfo()) == "TOO_MANY_CALLS"
        for stream in (*watches, *dialogues):
            stream.cancel()
