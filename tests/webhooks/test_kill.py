"""A server that is killed between a delivery and its record: the event is sent again, with the same id."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiworkspace_server.settings import Settings
from tests.support.people import Person, make_org
from tests.support.server_process import ServerProcess
from tests.support.settings import environment, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until, until_true
from tests.support.webhooks import SUCCEEDED, deliveries, make_endpoint, receiver, send_test, silent, update_endpoint


@pytest.fixture
async def server(stores: Stores, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    values = Settings.model_validate(store_settings(await other_databases(stores, "killed")))
    async with ServerProcess(tmp_path, environment(values), "--migrate") as server:
        yield server


async def test_what_was_delivered_and_not_recorded_is_delivered_again(server: ServerProcess) -> None:
    owner = await Person(server.address).register()
    async with silent() as lost, receiver() as received:
        endpoint = (await make_endpoint(owner, await make_org(owner), lost.url)).webhook_endpoint
        event_id = await send_test(owner, endpoint)
        await until_true(lambda: lost.ids)
        await server.end(signal.SIGKILL)
        await owner.channel.close()
        await server.start()
        again = await Person(server.address).register()
        again.bearer.token = owner.bearer.token
        await update_endpoint(again, endpoint, url=received.url)
        await until_true(lambda: received.ids)

        async def recorded() -> bool:
            [delivery] = await deliveries(again, endpoint)
            return delivery.state == SUCCEEDED

        assert await until(recorded)
    assert (lost.ids, received.ids) == ([event_id], [event_id])
    await again.channel.close()
