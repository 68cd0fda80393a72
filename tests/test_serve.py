"""The server as a process and as a neighbour: TLS, health, reflection, and what it says when it cannot start."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from aiworkspace.v1 import auth_pb2, org_pb2
from aiworkspace.v1.auth_pb2_grpc import AuthServiceStub
from aiworkspace_server import __main__ as main
from aiworkspace_server import settings as configuration
from aiworkspace_server.__main__ import read_anew
from aiworkspace_server.app import App, running
from aiworkspace_server.commands import CommandError
from aiworkspace_server.kit.embedded import embedded_postgres
from aiworkspace_server.rpc import SERVICES
from aiworkspace_server.runs.leases import DatabaseInUseError
from aiworkspace_server.schema import SchemaError
from aiworkspace_server.settings import Settings
from tests.support.certificates import make_certificate, served
from tests.support.people import make_org, people
from tests.support.postgres import as_owner, until_blocked
from tests.support.server_process import ServerProcess
from tests.support.settings import store_settings
from tests.support.stores import Stores, migrated_databases, other_databases
from tests.support.waiting import until


async def test_health_is_told_for_the_server_and_each_service(app: App) -> None:
    async with grpc.aio.insecure_channel(app.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", *(service.full_name for service in SERVICES)):
            await until(partial(_serves, stub, name))  # soon, if a long test has kept the server from its event loop
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def _serves(stub: Any, name: str) -> bool:
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_reflection_describes_every_service(app: App) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    channel: Any
    async with grpc.aio.insecure_channel(app.address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed = await stub.ServerReflectionInfo(iter([request])).read()
        names = {service.name for service in listed.list_services_response.service}
        assert {service.full_name for service in SERVICES} < names
        symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol="aiworkspace.v1.ChatService")
        described = await stub.ServerReflectionInfo(iter([symbol])).read()
        files = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
        assert "aiworkspace/v1/chat.proto" in {file.name for file in files}


async def test_a_server_that_stops_taking_calls_by_itself_ends_the_process(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def stopping(settings: Settings, **options: Any) -> AsyncIterator[App]:
        async with running(settings, **options) as app:
            asyncio.get_running_loop().call_soon(asyncio.create_task, app.server.stop(None))
            yield app

    monkeypatch.setattr(main, "running", stopping)
    settings = Settings.model_validate(store_settings(await other_databases(stores, "stopping")))
    with pytest.raises(CommandError, match="the server has stopped taking calls"):
        await main.serve(settings, migrating=True)


async def test_a_slow_call_is_answered_while_the_server_stops(stores: Stores) -> None:
    """It is not cancelled with the streams that would never end, which have two seconds."""
    where = await migrated_databases(stores, "answered_late")
    settings = Settings.model_validate(store_settings(where) | {"shutdown_seconds": 60})
    started, stop = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def serve() -> None:
        async with running(settings, migrating=False) as app:
            started.set_result(app)
            await stop.wait()

    serving = asyncio.create_task(serve())
    address = (await started).address
    async with people(address) as new_person, as_owner(where) as locking:
        owner = await new_person()
        org = org_pb2.Org(org_id=await make_org(owner), name="Renamed")
        await locking.execute("BEGIN")
        await locking.execute("SELECT FROM orgs FOR UPDATE")
        request = org_pb2.UpdateOrgRequest(org=org, update_mask=FieldMask(paths=["name"]))
        call = asyncio.create_task(_answer(owner.orgs.UpdateOrg(request)))
        await until_blocked(where, call)
        stop.set()
        await until(partial(_is_closed, address))
        ended, _ = await asyncio.wait([call], timeout=3)
        assert not ended
        await locking.execute("COMMIT")
        assert (await call).org.name == "Renamed"
    await serving


async def _answer(call: Any) -> Any:
    return await call


async def _is_closed(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False


async def test_tls(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_certificate(tmp_path)
    values = store_settings(await other_databases(stores, "tls"))
    values |= {"tls_cert_file": certificate, "tls_key_file": key}
    async with running(Settings.model_validate(values), migrating=True) as app:
        port = app.address.rpartition(":")[2]
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AuthServiceStub(channel).GetMe(auth_pb2.GetMeRequest())
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert await served(app.address) == "CN=localhost"
        monkeypatch.setattr(configuration, "read", lambda: Settings.model_validate(values))
        make_certificate(tmp_path, "renewed")
        read_anew(app)
        assert await served(app.address) == "CN=renewed"
        key.write_text("no key")
        read_anew(app)
        assert await served(app.address) == "CN=renewed"


async def test_a_port_that_is_taken_is_an_error(app: App, stores: Stores) -> None:
    values = store_settings(await other_databases(stores, "taken")) | {"port": int(app.address.rpartition(":")[2])}
    with pytest.raises(OSError, match="is another server running there"):
        async with running(Settings.model_validate(values), migrating=True):
            pass


async def test_a_second_server_on_a_database_is_refused(app: App, settings: Settings) -> None:
    with pytest.raises(DatabaseInUseError, match="stop it first"):
        async with running(settings, migrating=False):
            pass


async def test_a_database_that_was_not_migrated_is_refused(stores: Stores, tmp_path: Path) -> None:
    async with embedded_postgres(tmp_path) as empty:
        values = store_settings(stores) | {"database_url": empty}
        with pytest.raises(SchemaError, match="has not been migrated: run the migrate command"):
            async with running(Settings.model_validate(values), migrating=False):
                pass


async def test_settings_that_are_missing_are_named_on_standard_error(stores: Stores, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiworkspace_server", "serve"),
        cwd=tmp_path,
        env=os.environ | {"DATABASE_URL": stores.postgres, "MONGO_URI": stores.mongo, "JWT_SECRET": "short"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    for name in ("JWT_SECRET", "JWT_REFRESH_SECRET", "PASSWORD_PEPPER", "ENCRYPTION_SECRET"):
        assert f"error: {name}" in errors.decode()


async def test_databases_of_ones_own_without_an_allowance_are_refused(stores: Stores, tmp_path: Path) -> None:
    """Else whoever registers would spend on the operator's keys what nobody has allowed."""
    values = {name.upper(): str(value) for name, value in store_settings(stores).items() if name != "org_allowance_usd"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiworkspace_server", "serve"),
        cwd=tmp_path,
        env=os.environ | values,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode().startswith("error: ORG_ALLOWANCE_USD is not set; with your own database, set what")


async def test_a_key_that_cannot_be_read_is_named_on_standard_error(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "aiworkspace_server", "serve"),
        cwd=tmp_path,
        env=os.environ | {"JWT_PRIVATE_KEY_FILE": "nowhere.pem"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert errors.decode() == "error: JWT_PRIVATE_KEY_FILE cannot be read: No such file or directory\n"


async def test_a_server_whose_terminal_is_closed_stops(tmp_path: Path) -> None:
    """It would keep its port and its databases, with nobody there to stop it."""
    terminal, its_side = os.openpty()
    async with ServerProcess(tmp_path / "data", {}, stdin=its_side) as server:
        os.close(its_side)
        os.close(terminal)
        server.send(signal.SIGHUP)
        assert await server.wait() == 0
