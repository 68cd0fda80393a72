"""Exports with the SDK and aiws data, over connections that break."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace_client import AsyncClient, Client, errors
from tests.client.conftest import Aiws
from tests.client.scripted import Context, ScriptedServer, answer, answers, failure

PIECE = 256 << 10
ORG_ID, EXPORT_ID = "org-1", "export-1"
STATES = pb.EXPORT_STATE_PENDING, pb.EXPORT_STATE_RUNNING, pb.EXPORT_STATE_READY


class Exports:
    """Answers as the server does: an export is READY when it is asked for the third time.

    Breaks each stream of `cuts` after so many messages.
    """

    def __init__(self, server: ScriptedServer, data: bytes, cuts: tuple[int, ...] = ()) -> None:
        self.data, self.sha256, self.cuts = data, hashlib.sha256(data).hexdigest(), [*cuts]
        self.states = [*STATES]
        self.offsets: list[int] = []
        server.script("DataService.ExportOrg", answer(pb.ExportOrgResponse(export=self.export(STATES[0]))))
        server.script("DataService.GetExport", self._get)
        server.script("DataService.DownloadExport", self._give)

    def export(self, state: pb.ExportState.ValueType) -> pb.Export:
        return pb.Export(
            org_id=ORG_ID, export_id=EXPORT_ID, state=state, size_bytes=len(self.data), row_count=1234, file_count=30
        )

    async def _get(self, request: pb.GetExportRequest, context: Context) -> pb.GetExportResponse:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return pb.GetExportResponse(export=self.export(state))

    async def _give(
        self, request: pb.DownloadExportRequest, context: Context
    ) -> AsyncIterator[pb.DownloadExportResponse]:
        left = self.cuts.pop(0) if self.cuts else 1000
        self.offsets.append(request.offset)
        facts: dict[str, Any] = {"size_bytes": len(self.data), "sha256": self.sha256}
        for begin in range(request.offset, len(self.data), PIECE):
            if not left:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
            left -= 1
            yield pb.DownloadExportResponse(offset=begin, data=self.data[begin : begin + PIECE], **facts)
            facts = {}


async def test_an_export_is_waited_for(server: ScriptedServer, client: AsyncClient) -> None:
    Exports(server, b"")
    seen: list[pb.Export] = []
    export = await client.data.wait_for_export(org_id=ORG_ID, export_id=EXPORT_ID, seen=seen.append)
    assert [each.state for each in seen] == [*STATES]
    assert export == seen[-1]


async def test_waiting_ends_at_its_timeout(server: ScriptedServer, client: AsyncClient) -> None:
    Exports(server, b"").states = [pb.EXPORT_STATE_RUNNING]
    with pytest.raises(errors.DeadlineExceededError, match="not ready"):
        await client.data.wait_for_export(org_id=ORG_ID, export_id=EXPORT_ID, timeout=0.01)


async def test_a_download_goes_on_after_cuts(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    exports = Exports(server, os.urandom(5 * PIECE + 1), (1, 0, 3))
    steps: list[tuple[int, int]] = []
    await client.data.download_export(
        tmp_path / "all.zip", org_id=ORG_ID, export_id=EXPORT_ID, progress=lambda *step: steps.append(step)
    )
    assert (tmp_path / "all.zip").read_bytes() == exports.data
    assert exports.offsets == [0, PIECE, PIECE, 4 * PIECE]
    assert steps[-1] == (len(exports.data), len(exports.data))


async def test_bytes_that_are_not_the_exports_make_no_file(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    Exports(server, os.urandom(PIECE)).sha256 = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(errors.DataLossError):
        await client.data.download_export(tmp_path / "all.zip", org_id=ORG_ID, export_id=EXPORT_ID)
    assert list(tmp_path.iterdir()) == []


async def test_a_refusal_is_not_repeated(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    async def refuse(request: pb.DownloadExportRequest, context: Context) -> AsyncIterator[pb.DownloadExportResponse]:
        if request.offset == 0:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "The export is not READY.")
        yield pb.DownloadExportResponse()

    server.script("DataService.DownloadExport", refuse)
    with pytest.raises(errors.FailedPreconditionError):
        await client.data.download_export(tmp_path / "all.zip", org_id=ORG_ID, export_id=EXPORT_ID)
    assert len(server.called("DataService.DownloadExport")) == 1


async def test_the_synchronous_client_does_the_same(server: ScriptedServer, tmp_path: Path) -> None:
    exports = Exports(server, os.urandom(2 * PIECE), (1,))

    def work() -> None:
        with Client(server.target, access_token="access-1") as client:
            export = client.data.wait_for_export(org_id=ORG_ID, export_id=EXPORT_ID)
            assert export.state == pb.EXPORT_STATE_READY
            client.data.download_export(tmp_path / "all.zip", org_id=ORG_ID, export_id=EXPORT_ID)

    await asyncio.to_thread(work)
    assert (tmp_path / "all.zip").read_bytes() == exports.data


@pytest.mark.usefixtures("signed_in")
async def test_aiws_exports_and_downloads(server: ScriptedServer, aiws: Aiws, tmp_path: Path) -> None:
    exports = Exports(server, os.urandom(PIECE + 1))
    ran = await aiws("data", "export", "--to", str(tmp_path / "all.zip"))
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "all.zip").read_bytes() == exports.data
    assert "export-1" in ran.stderr
    assert "1,234 rows, 30 files" in ran.stderr
    assert server.called("DataService.ExportOrg")[0].request.org_id == "org-1"
    again = await aiws("data", "export", "--to", str(tmp_path / "all.zip"))
    assert again.returncode == 2
    assert len(server.called("DataService.ExportOrg")) == 1, "a file that exists is not replaced"


@pytest.mark.usefixtures("signed_in")
async def test_aiws_goes_on_with_an_export_in_progress(server: ScriptedServer, aiws: Aiws, tmp_path: Path) -> None:
    exports = Exports(server, b"bytes")
    refusal: Any = {"reason": "EXPORT_IN_PROGRESS", "metadata": {"export_id": EXPORT_ID}}
    server.script("DataService.ExportOrg", answers(failure(grpc.StatusCode.FAILED_PRECONDITION, **refusal)))
    ran = await aiws("data", "export", "--to", str(tmp_path / "all.zip"))
    assert ran.returncode == 0, ran.stderr
    assert "in progress already" in ran.stderr
    assert (tmp_path / "all.zip").read_bytes() == exports.data
    earlier = await aiws("data", "export", "--export", "export-1", "--to", str(tmp_path / "again.zip"))
    assert earlier.returncode == 0, earlier.stderr
    assert len(server.called("DataService.ExportOrg")) == 1


@pytest.mark.usefixtures("signed_in")
async def test_aiws_says_why_an_export_failed(server: ScriptedServer, aiws: Aiws, tmp_path: Path) -> None:
    Exports(server, b"").states = [pb.EXPORT_STATE_FAILED]
    ran = await aiws("data", "export", "--to", str(tmp_path / "all.zip"))
    assert ran.returncode == 1
    assert "The export failed" in ran.stderr
    assert not (tmp_path / "all.zip").exists()


@pytest.mark.usefixtures("signed_in")
async def test_aiws_lists_and_deletes_exports(server: ScriptedServer, aiws: Aiws) -> None:
    exports = Exports(server, b"12345")
    listed = pb.ListExportsResponse(exports=[exports.export(pb.EXPORT_STATE_READY)])
    server.script("DataService.ListExports", answer(listed))
    server.script("DataService.DeleteExport", answer(pb.DeleteExportResponse()))
    shown = (await aiws("data", "exports")).stdout
    assert "export-1" in shown
    assert "ready" in shown
    assert (await aiws("data", "delete-export", "export-1", "--yes")).returncode == 0
    assert server.calls[-1].request == pb.DeleteExportRequest(org_id=ORG_ID, export_id=EXPORT_ID)
