"""Rate limits, in one process and across several."""

from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import auth_pb2, options_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.settings import Settings
from tests.conftest import Stores, other_databases, store_settings
from tests.people import PASSWORD, Person

LOGIN = auth_pb2.LoginRequest(email="nobody@example.com", password=PASSWORD)
_CREDENTIALS = options_pb2.RateLimitClass.DESCRIPTOR.values_by_name["RATE_LIMIT_CLASS_CREDENTIALS"]
ALLOWED = _CREDENTIALS.GetOptions().Extensions[options_pb2.calls_per_minute] // 10


@pytest.fixture
async def two_servers(stores: Stores) -> AsyncIterator[tuple[App, App]]:
    """Two servers that share Redis and allow a tenth of what the contract says."""
    limits = {"redis_url": stores.redis, "rate_limit_factor": 0.1}
    here = store_settings(await other_databases(stores, "limits_here")) | limits
    there = store_settings(await other_databases(stores, "limits_there")) | limits
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
