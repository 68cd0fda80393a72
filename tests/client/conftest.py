from collections.abc import AsyncIterator

import pytest

from aiworkspace_client import AsyncClient
from aiworkspace_client.transport import Backoff
from tests.client.scripted import ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.target, access_token="access-1", refresh_token="refresh-1") as client:
        client._transport.backoff = Backoff(first=0.01, longest=0.05)
        yield client
