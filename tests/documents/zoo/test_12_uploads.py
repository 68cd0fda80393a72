"""12. A large upload over connections that break, to a server that is killed; wrong offsets, bytes and callers.

Each kind of refusal is in tests/documents/test_uploads.py as well; here the same server has to go on after them.
"""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_client import AsyncClient
from tests.support.documents import begin, download, messages
from tests.support.outcomes import NOT_FOUND, outcome, refusal
from tests.support.people import Person, join, make_place, people
from tests.support.server_process import ServerProcess
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.tcp_gate import tcp_gate

MIB, PIECE = 1 << 20, 256 << 10


@pytest.fixture(scope="module")
async def server(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    environment = store_settings(await other_databases(stores, "zoo_uploads"))
    async with ServerProcess(tmp_path_factory.mktemp("zoo"), environment, "--migrate") as server:
        yield server


async def restart(server: ServerProcess, address: str) -> None:
    """Start the server again where it was, once it has ended."""
    await server.wait()
    await server.start(PORT=address.rpartition(":")[2])


async def test_upload_survives_three_cuts_and_a_killed_server(server: ServerProcess, tmp_path: Path) -> None:
    data, path, address = os.urandom(20 * MIB), tmp_path / "large.bin", server.address
    path.write_bytes(data)
    async with people(address) as new_person, tcp_gate(int(address.rpartition(":")[2])) as gate:
        place = await make_place(await new_person())
        cut, kill = gate.close_all, partial(server.send, signal.SIGKILL)
        faults: dict[int, Callable[[], object]] = {4 * MIB: cut, 8 * MIB: cut, 12 * MIB: kill, 16 * MIB: cut}

        def progress(sent: int, _: int) -> None:
            for at in [each for each in faults if sent >= each]:
                faults.pop(at)()

        restarting = asyncio.create_task(restart(server, address))
        async with AsyncClient(f"127.0.0.1:{gate.port}", access_token=place.owner.tokens.access_token) as client:
            document = await client.documents.upload(place.workspace_id, path, progress=progress)
            await restarting
            assert faults == {}
            assert document.sha256 == hashlib.sha256(data).hexdigest()
            await client.documents.download(document.document_id, tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == data
            listed = [each.document_id async for each in client.documents.list(place.workspace_id)]
            assert listed == [document.document_id]


async def test_wrong_offsets_bytes_and_callers_leave_an_upload_as_it_was(server: ServerProcess) -> None:
    data = os.urandom(3 * PIECE)
    async with people(server.address) as new_person:
        place, colleague = await make_place(await new_person()), await new_person()
        await join(place.owner, place.org_id, colleague, org_pb2.ROLE_ADMIN)
        upload_id = await begin(place.owner, place.workspace_id, data)

        def send(person: Person, offset: int, sent: bytes = data, *, finish: bool = True) -> Any:
            return person.documents.UploadDocument(messages(upload_id, sent, offset=offset, finish=finish))

        assert (await send(place.owner, 0, data[:PIECE], finish=False)).committed_bytes == PIECE
        gap = await refusal(send(place.owner, 2 * PIECE))
        assert gap
        assert (gap.code, gap.metadata) == ("OUT_OF_RANGE", {"committed_bytes": str(PIECE)})
        assert await outcome(send(colleague, PIECE)) == NOT_FOUND
        document = (await send(place.owner, PIECE - 7)).document
        assert await download(place.owner, document.document_id) == data

        upload_id = await begin(place.owner, place.workspace_id, data)
        wrong = await refusal(send(place.owner, 0, data[:-1] + b"?"))
        assert wrong
        assert (wrong.code, wrong.reason) == ("INVALID_ARGUMENT", "UPLOAD_MISMATCH")
        assert await outcome(send(place.owner, 0)) == NOT_FOUND
        listed = await place.owner.documents.ListDocuments(pb.ListDocumentsRequest(workspace_id=place.workspace_id))
        assert [each.document_id for each in listed.documents] == [document.document_id]
