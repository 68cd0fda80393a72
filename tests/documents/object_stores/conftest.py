"""A server whose documents are in moto's S3. It takes the place of the usual one in this folder."""

import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from aiworkspace_server.app import App, running
from aiworkspace_server.settings import Settings
from tests.support.people import NewPerson, Place, new_place, people
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.tcp_gate import TcpGate, tcp_gate

from .objects import URL


@pytest.fixture(scope="package")
async def gate() -> AsyncIterator[TcpGate]:
    """The way to an S3 server with a bucket. The variables of the clouds point there."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    async with aiohttp.ClientSession() as session, session.put(f"http://127.0.0.1:{port}/documents") as made:
        assert made.status == 200
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
            patch.delenv(name)
        async with tcp_gate(port) as gate:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "canary-key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
            patch.setenv("AWS_REGION", "us-east-1")
            yield gate
    server.stop()


@pytest.fixture
def bucket(gate: TcpGate) -> Iterator[S3Store]:
    """The whole bucket, whatever prefix a server has in it."""
    gate.open()
    yield S3Store("documents", client_options={"allow_http": True})
    gate.open()


@pytest.fixture(scope="package")
async def own_stores(stores: Stores) -> Stores:
    return await other_databases(stores, "object_stores")


@pytest.fixture(scope="package")
async def app(own_stores: Stores, gate: TcpGate) -> AsyncIterator[App]:
    settings = Settings.model_validate(store_settings(own_stores) | {"document_store": f"{URL}/"})
    async with running(settings, migrating=True) as app:
        yield app


@pytest.fixture(scope="package")
async def new_person(app: App) -> AsyncIterator[NewPerson]:
    async with people(app.address) as new_person:
        yield new_person


@pytest.fixture
async def place(new_person: NewPerson, bucket: S3Store) -> Place:
    return await new_place(new_person)
