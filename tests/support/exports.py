"""Exports of organizations: the calls, and what is in the file."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.data_life.exports.exporter import Exporter
from aiworkspace_server.data_life.exports.jobs import ExportJobs
from tests.support.documents import files_in
from tests.support.people import Person
from tests.support.waiting import until

PIECE = 256 << 10
ENDED = pb.EXPORT_STATE_READY, pb.EXPORT_STATE_FAILED


def begin_export(person: Person, org_id: str, request_id: str = "") -> Any:
    return person.data.ExportOrg(pb.ExportOrgRequest(org_id=org_id, request_id=request_id))


def get_export(person: Person, org_id: str, export_id: str) -> Any:
    return person.data.GetExport(pb.GetExportRequest(org_id=org_id, export_id=export_id))


def list_exports(person: Person, org_id: str, **page: Any) -> Any:
    return person.data.ListExports(pb.ListExportsRequest(org_id=org_id, **page))


def delete_export(person: Person, org_id: str, export_id: str) -> Any:
    return person.data.DeleteExport(pb.DeleteExportRequest(org_id=org_id, export_id=export_id))


async def responses(person: Person, org_id: str, export_id: str, offset: int = 0) -> list[pb.DownloadExportResponse]:
    request = pb.DownloadExportRequest(org_id=org_id, export_id=export_id, offset=offset)
    return [response async for response in person.data.DownloadExport(request)]


async def ended(person: Person, org_id: str, export_id: str) -> pb.Export:
    """The export, once it is READY or FAILED."""

    async def find() -> pb.Export | None:
        export: pb.Export = (await get_export(person, org_id, export_id)).export
        return export if export.state in ENDED else None

    found = await until(find)
    assert found
    return found


async def export_org(person: Person, org_id: str) -> pb.Export:
    """Export an organization, and wait for the end."""
    return await ended(person, org_id, (await begin_export(person, org_id)).export.export_id)


async def download_export(person: Person, export: pb.Export) -> bytes:
    return b"".join([each.data for each in await responses(person, export.org_id, export.export_id)])


@dataclass(frozen=True)
class Exported:
    """What is in an export, each member of which is as the manifest says."""

    members: dict[str, bytes]
    manifest: dict[str, Any]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.members[f"{name}.jsonl"].splitlines()]

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join([*self.members, *(data.decode(errors="replace") for data in self.members.values())])


def opened(data: bytes) -> Exported:
    """Unpack an export with Python's own reader, and hold it against its manifest."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = file.namelist()
        members = {name: file.read(name) for name in names}
    assert len(members) == len(names), "a name stands twice"
    assert names[-1] == "manifest.json"
    manifest = json.loads(members.pop("manifest.json"))
    assert [each["name"] for each in manifest["files"]] == names[:-1]
    for each in manifest["files"]:
        content = members[each["name"]]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (each["bytes"], each["sha256"])
        assert content.count(b"\n") == each.get("rows", content.count(b"\n"))
    return Exported(members, manifest)


async def exported(person: Person, org_id: str) -> Exported:
    """Export an organization, and open the file."""
    export = await export_org(person, org_id)
    assert export.state == pb.EXPORT_STATE_READY
    data = await download_export(person, export)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (export.size_bytes, export.sha256)
    found = opened(data)
    assert export.file_count == len(found.members) + 1
    assert export.row_count == sum(each.get("rows", 0) for each in found.manifest["files"])
    return found


def export_jobs(app: App, exporter: Exporter | None = None, store: str | None = None) -> ExportJobs:
    """The jobs of another server, which are done when they are called."""
    files = files_in(app.mongo, store)
    return ExportJobs(app.db, files, exporter or Exporter(app.db, app.mongo, files, check_seconds=0))


async def stored_pieces(app: App, org_id: str) -> int:
    """How many pieces of files an organization has in MongoDB."""
    return await app.mongo.database["documents.chunks"].count_documents({"org_id": UUID(org_id)})
