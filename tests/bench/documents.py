"""Documents: how long others wait, what ingestion does to the event loop, and what an upload costs."""

import asyncio
import os
import time
from statistics import median

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import running
from aiworkspace_server.kit.memory import collect_rarely, tended_memory
from aiworkspace_server.settings import Settings
from tests.support import files
from tests.support.documents import read, upload, watch
from tests.support.people import NewPerson, make_place, people

from .machine import resident_bytes
from .servers import SETTINGS, Server, Site
from .table import Row

_ALONE = 5  # times that a document is read while no other waits
_PAGE = "\n".join("What a page says in one of forty lines, none of which is empty." for _ in range(40))
_UPLOADED = 100 * files.MIB
_LOOK_SECONDS = 0.01
_IDLE_SECONDS = 10.0


async def measure(site: Site, quick: bool) -> list[Row]:
    with site.server() as server:
        async with people(server.address) as new_person:
            rows = [
                await _behind_others(new_person, 60 if quick else 500),
                await _seconds_of("a workbook with two far cells", files.far_cells(), 5, new_person),
                await _seconds_of("300,000 letters without a space", files.letters(300_000).encode(), 30, new_person),
                await _upload(server, new_person),
            ]
    with site.cores.as_server():
        return [*rows, await _loop(site, 50 if quick else 200)]


async def _behind_others(new_person: NewPerson, count: int) -> Row:
    many, single = await make_place(await new_person()), await make_place(await new_person())

    async def seconds(number: int) -> float:
        begin = time.monotonic()
        await read(single.owner, single.workspace_id, b"The only document, number %d." % number)
        return time.monotonic() - begin

    alone = median([await seconds(number) for number in range(_ALONE)])
    waiting = [await upload(many.owner, many.workspace_id, b"Document %d." % number) for number in range(count)]
    behind = await seconds(_ALONE)
    last = pb.GetDocumentRequest(document_id=waiting[-1].document_id)
    if (await many.owner.documents.GetDocument(last)).document.state != pb.DOCUMENT_STATE_PROCESSING:
        raise RuntimeError("the others were not waiting any more")
    for each in waiting:  # the next row is to have the server to itself
        await watch(many.owner, each.document_id)
    figures = f"{behind:.2f} s, alone {alone:.2f} s"
    return Row(f"a document behind {count} of another tenant / alone", behind / alone, 2, [figures], least=False)


async def _seconds_of(what: str, data: bytes, most: float, new_person: NewPerson) -> Row:
    place = await make_place(await new_person())
    begin = time.monotonic()
    document = await read(place.owner, place.workspace_id, data)
    if document.state != pb.DOCUMENT_STATE_READY:
        raise RuntimeError(f"{what} cannot be read")
    return Row(f"{what}, until READY", time.monotonic() - begin, most, unit=" s", least=False)


async def _upload(server: Server, new_person: NewPerson) -> Row:
    """In random bytes, which no parser reads afterwards."""
    place = await make_place(await new_person())
    await upload(place.owner, place.workspace_id, os.urandom(_UPLOADED // 100))
    before = most = resident_bytes(server.pid)
    uploading = asyncio.create_task(upload(place.owner, place.workspace_id, os.urandom(_UPLOADED)))
    while not uploading.done():
        most = max(most, resident_bytes(server.pid))
        await asyncio.wait([uploading], timeout=_LOOK_SECONDS)
    await uploading
    return Row("memory for an upload of 100 MB", (most - before) / files.MIB, 16, unit=" MiB", least=False)


async def _loop(site: Site, pages: int) -> Row:
    """A server in this process, with its memory tended as elsewhere. Its loop is watched while it reads a PDF."""
    settings = Settings.model_validate({name.lower(): value for name, value in {**SETTINGS, **site.stores}.items()})
    data = files.pdf(*(f"Page {number}.\n{_PAGE}" for number in range(pages)))
    collect_rarely()
    async with running(settings, migrating=False) as app, people(app.address) as new_person, tended_memory():
        place = await make_place(await new_person())
        lags: list[float] = []
        ticking = asyncio.create_task(_tick(lags))
        await asyncio.sleep(_IDLE_SECONDS)
        idle = max(lags)
        document = await upload(place.owner, place.workspace_id, data, name="long.pdf")
        lags.clear()
        last = (await watch(place.owner, document.document_id))[-1]
        ticking.cancel()
    if last.state != pb.DOCUMENT_STATE_READY:
        raise RuntimeError("the PDF cannot be read")
    what = f"the event loop is late while a PDF of {pages} pages is read, at most"
    figures = f"{idle * 1000:.0f} ms before; test_fairness.py has the processor time of the longest callback"
    return Row(what, max(lags) * 1000, 50, [figures], unit=" ms", least=False, digits=0)


async def _tick(lags: list[float]) -> None:
    while True:
        begin = time.monotonic()
        await asyncio.sleep(_LOOK_SECONDS)
        lags.append(time.monotonic() - begin - _LOOK_SECONDS)
