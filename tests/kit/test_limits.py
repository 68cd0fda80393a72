"""Rate limits, in one process and across several."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import _base, reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from limits import RateLimitItemPerHour
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from aiworkspace.v1 import auth_pb2, options_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit import limits
from aiworkspace_server.kit.context import Call
from aiworkspace_server.kit.contract import read_methods
from aiworkspace_server.kit.embedded import embedded_redis
from aiworkspace_server.kit.errors import RateLimited
from aiworkspace_server.kit.limits import Counters, Limits
from aiworkspace_server.kit.reflection import Reflection, Symbols
from aiworkspace_server.kit.windows import WindowStorage
from aiworkspace_server.settings import Settings
from tests.support.people import PASSWORD, Person
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases

LOGIN = auth_pb2.LoginRequest(email="nobody@example.com", password=PASSWORD)
LOGIN_PATH = "/aiworkspace.v1.AuthService/Login"


def tenth(name: str) -> int:
    group = options_pb2.RateLimitClass.DESCRIPTOR.values_by_name[f"RATE_LIMIT_CLASS_{name}"]
    return int(group.GetOptions().Extensions[options_pb2.calls_per_minute]) // 10


ALLOWED, OPEN = tenth("CREDENTIALS"), tenth("OPEN")


@pytest.fixture
async def two_servers(stores: Stores) -> AsyncIterator[tuple[App, App]]:
    """Two servers that share Redis and allow a tenth of what the contract says."""
    limits = {"redis_url": stores.redis, "rate_limit_factor": 0.1}
    here = store_settings(await other_databases(stores, f"limits_here_{uuid4().hex}")) | limits
    there = store_settings(await other_databases(stores, f"limits_there_{uuid4().hex}")) | limits
    async with (
        running(Settings.model_validate(here), migrating=True) as one,
        running(Settings.model_validate(there), migrating=True) as other,
    ):
        yield one, other


async def test_limits_hold_across_servers_and_say_when_to_come_back(two_servers: tuple[App, App]) -> None:
    codes = []
    for number in range(ALLOWED + 2):
        person = Person(two_servers[number % 2].address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await person.auth.Login(LOGIN)
        codes.append(caught.value.code())
        await person.channel.close()
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * ALLOWED + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(quota)
    assert status.details[2].Unpack(retry)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 120


async def test_messages_to_reflection_and_calls_of_health_are_counted_by_address(two_servers: tuple[App, App]) -> None:
    message = ServerReflectionRequest(file_containing_symbol="aiworkspace.v1.OrgService")
    async with grpc.aio.insecure_channel(two_servers[0].address) as channel:
        health: Any = HealthStub(channel)
        dialogue = cast(Any, ServerReflectionStub)(channel).ServerReflectionInfo()
        for _ in range(OPEN):
            await dialogue.write(message)
            assert (await dialogue.read()).HasField("file_descriptor_response")
        await dialogue.write(message)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await dialogue.read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(HealthCheckRequest())
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_what_reflection_says_of_a_file_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base, made = cast(Any, _base), []
    make = base._file_descriptor_response

    def count(file: Any, request: Any) -> Any:
        made.append(file.name)
        return make(file, request)

    monkeypatch.setattr(base, "_file_descriptor_response", count)
    asked = [
        ServerReflectionRequest(file_containing_symbol="aiworkspace.v1.OrgService"),
        ServerReflectionRequest(file_containing_symbol="aiworkspace.v1.OrgService.GetOrg"),
        ServerReflectionRequest(file_by_filename="aiworkspace/v1/org.proto"),
    ]
    plain: Any = reflection.aio.ReflectionServicer([], pool=Symbols())
    expected = [answer async for answer in plain.ServerReflectionInfo(_each(asked), None)]
    made.clear()
    found = [answer async for answer in Reflection([]).ServerReflectionInfo(_each(asked), None)]
    assert found == expected
    assert made == ["aiworkspace/v1/org.proto"]


async def _each(requests: list[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request


# Without an answer from Redis


@pytest.fixture(params=["away", "silent"])
async def dead_redis(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """The URL of a Redis that is not there, or that takes connections and never answers."""
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if request.param == "away":
        server.close()
    yield f"redis://127.0.0.1:{port}"
    ended.set()
    server.close()


@pytest.mark.parametrize("strategy", [FixedWindowRateLimiter, SlidingWindowCounterRateLimiter])
async def test_without_an_answer_from_redis_is_counted_in_memory(dead_redis: str, strategy: type[RateLimiter]) -> None:
    counters, allowed = Counters(dead_redis), RateLimitItemPerHour(5)
    begin = time.perf_counter()
    hits = [await counters.ask(strategy, lambda limiter: limiter.hit(allowed, "somebody")) for _ in range(8)]
    assert hits == [True] * 5 + [False] * 3
    assert time.perf_counter() - begin < 0.9 * 8 * limits.REDIS_SECONDS, "it is not asked again at each call"
    await counters.close()


async def test_connection_that_is_reset_before_it_is_written_to_counts_as_no_answer(dead_redis: str) -> None:
    counters, errors = Counters(dead_redis), [RuntimeError("unable to perform operation on <TCPTransport closed=True>")]

    async def hit(limiter: RateLimiter) -> bool:
        if errors:
            raise errors.pop()
        return await limiter.hit(RateLimitItemPerHour(1), "somebody")

    assert await counters.ask(FixedWindowRateLimiter, hit)
    assert not await counters.ask(FixedWindowRateLimiter, hit)
    await counters.close()


async def test_redis_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    allowed = RateLimitItemPerHour(5)

    async def hit(counters: Counters) -> bool:
        return await counters.ask(FixedWindowRateLimiter, lambda limiter: limiter.hit(allowed, "somebody"))

    async with embedded_redis(tmp_path) as url:
        one, other = Counters(url, away_seconds=0.1), Counters(url, away_seconds=0.1)
        assert [await hit(one) for _ in range(5)] == [True] * 5
    assert await hit(one), "this process begins anew"
    async with embedded_redis(tmp_path) as url:
        await asyncio.sleep(0.2)
        assert [await hit(counters) for counters in (one, other)] == [False, False]
        for counters in (one, other):
            await counters.close()


# In memory


async def test_sliding_window_in_memory_weighs_the_previous_window() -> None:
    seconds = [3600.0 * 500_000]
    counts, item = SlidingWindowCounterRateLimiter(WindowStorage(lambda: seconds[0])), RateLimitItemPerHour(4)
    assert [await counts.hit(item, "one") for _ in range(6)] == [True] * 4 + [False] * 2
    assert await counts.hit(item, "other")
    seconds[0] += 3600 + 1800  # half of the next window: the previous four count for two
    assert [await counts.hit(item, "one") for _ in range(3)] == [True] * 2 + [False]
    seconds[0] -= 5  # a clock that is set back
    assert not await counts.hit(item, "one")
    assert (await counts.get_window_stats(item, "one")).remaining == 0
    seconds[0] += 2 * 3600
    assert [await counts.hit(item, "one") for _ in range(5)] == [True] * 4 + [False]
    await counts.clear(item, "one")
    assert await counts.hit(item, "one")


# Who a caller is


async def test_public_calls_are_counted_by_address_and_for_ipv6_by_network() -> None:
    counters = Counters(None)
    method = read_methods([auth_pb2.DESCRIPTOR.services_by_name["AuthService"]], [])[LOGIN_PATH]

    async def answer(call: Call, request: Any) -> str:
        return "answered"

    login = Limits(counters, 1).step(method, answer)

    async def calls(*addresses: str) -> Counter[str]:
        """What comes of calls from the addresses in turn."""
        found: Counter[str] = Counter()
        for address in addresses:
            try:
                found[await login(Call(method, cast(Any, None), {}, address=address), LOGIN)] += 1
            except RateLimited:
                found["refused"] += 1
        return found

    assert method.calls_per_minute == 30
    of_one_network = [f"2001:db8:0:1:{n:x}::1" for n in range(40)]
    assert await calls(*of_one_network) == {"answered": 30, "refused": 10}
    assert await calls("2001:db8:0:2::1") == {"answered": 1}
    assert await calls(*["192.0.2.1"] * 40) == {"answered": 30, "refused": 10}
    assert await calls("192.0.2.2") == {"answered": 1}
