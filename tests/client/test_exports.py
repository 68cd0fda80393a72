"""Exports with the SDK and aiws data, over connections that break."""

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
from tests.client.scripted import Context, ScriptedServer, answer, failure

PIECE = 256 << 10
WHOSE = {"org_id": "org-1", "export_id": "export-1"}
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
        return pb.Export(**WHOSE, state=state, size_bytes=len(self.data), row_count=1234, file_count=30)

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
    export = await client.data.wait_for_export(**WHOSE, seen=seen.append)
    assert [each.state for each in seen] == [*STATES]
    assert export == seen[-1]


async def test_waiting_ends_at_its_timeout(server: ScriptedServer, client: AsyncClient) -> None:
    Exports(server, b"").states = [pb.EXPORT_STATE_RUNNING]
    with pytest.raises(errors.DeadlineExceededError, match="not ready"):
        await client.data.wait_for_export(**WHOSE, timeout=0.01)


async def test_a_download_goes_on_after_cuts(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    exports = Exports(server, os.urandom(5 * PIECE + 1), (1, 0, 3))
    steps: list[tuple[int, int]] = []
    await client.data.download_export(tmp_path / "all.zip", **WHOSE, progress=lambda *step: steps.append(step))
    assert (tmp_path / "all.zip").read_bytes() == exports.data
    assert exports.offsets == [0, PIECE, PIECE, 4 * PIECE]
    assert steps[-1] == (len(exports.data), len(exports.data))


async def test_bytes_that_are_not_the_exports_make_no_file(
    server: ScriptedServer, client: AsyncClient, tmp_path: Path
) -> None:
    Exports(server, os.urandom(PIECE)).sha256 = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(errors.DataLossError):
        await client.data.download_export(tmp_path / "all.zip", **WHOSE)
    assert list(tmp_path.iterdir()) == []


async def test_a_refusal_is_not_repeated(server: ScriptedServer, client: AsyncClient, tmp_path: Path) -> None:
    refuse = failure(grpc.StatusCode.FAILED_PRECONDITION, "EXPORT_NOT_READY", "The export is not READY.")
    server.script("DataService.DownloadExport", refuse)
    with pytest.raises(errors.FailedPreconditionError):
        await client.data.download_export(tmp_path / "all.zip", **WHOSE)
    assert len(server.called("DataService.DownloadExport")) == 1


def test_the_synchronous_client_does_the_same(sync_server: ScriptedServer, tmp_path: Path) -> None:
    exports = Exports(sync_server, os.urandom(2 * PIECE), (1,))
    with Client(sync_server.target, plaintext=True, tokens=None) as client:
        assert client.data.wait_for_export(**WHOSE).state == pb.EXPORT_STATE_READY
        client.data.download_export(tmp_path / "all.zip", **WHOSE)
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
    server.script(
        "DataService.ExportOrg",
        failure(grpc.StatusCode.FAILED_PRECONDITION, "EXPORT_IN_PROGRESS", "In progress.", {"export_id": "export-1"}),
    )
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
    assert server.calls[-1].request == pb.DeleteExportRequest(**WHOSE)
