"""Web pages that become documents."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import NoReturn
from uuid import UUID

import pytest
from aiohttp import web

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.documents.service import DocumentService
from aiworkspace_server.kit.errors import Unavailable
from aiworkspace_server.settings import Settings
from tests.support import files
from tests.support.documents import download, forget_upload, search, watch
from tests.support.outcomes import INVALID, OK, UNAVAILABLE, UPLOAD_TAKEN_OVER, outcome, refusal
from tests.support.people import Place, new_place, people
from tests.support.postgres import sql
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases

PAGE = "<html><head><title>Harbours</title></head><body><h1>Opening</h1><p>The harbour opens at dawn.</p></body></html>"


class Site:
    """A web site whose one page can change."""

    def __init__(self) -> None:
        self.page, self.requests, self.url, self.content_type = PAGE.encode(), 0, "", "text/html"

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        return web.Response(body=self.page, headers={"Content-Type": self.content_type})


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site, application = Site(), web.Application()
    application.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    listener = web.TCPSite(runner, "127.0.0.1", 0)
    await listener.start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}/harbours"
    yield site
    await runner.cleanup()


@pytest.fixture(scope="module")
async def own_stores(stores: Stores) -> Stores:
    return await other_databases(stores, "web_pages")


@pytest.fixture(scope="module")
async def open_app(own_stores: Stores) -> AsyncIterator[App]:
    """A server that may request pages of this machine."""
    allowed = {"egress_allowed_networks": (ip_network("127.0.0.0/8"),)}
    async with running(Settings.model_validate(store_settings(own_stores) | allowed), migrating=True) as app:
        yield app


@pytest.fixture
async def visitor(open_app: App) -> AsyncIterator[Place]:
    async with people(open_app.address) as new_person:
        yield await new_place(new_person)


def importing(place: Place, url: str, request_id: str = "") -> pb.ImportWebPageRequest:
    return pb.ImportWebPageRequest(workspace_id=place.workspace_id, url=url, request_id=request_id)


async def test_a_page_becomes_a_document_that_is_found(visitor: Place, site: Site) -> None:
    made = await visitor.owner.documents.ImportWebPage(importing(visitor, site.url))
    document = (await watch(visitor.owner, made.upload.document_id))[-1]
    assert (document.name, document.media_type, document.state) == ("Harbours", "text/html", pb.DOCUMENT_STATE_READY)
    assert await download(visitor.owner, document.document_id) == PAGE.encode()
    [passage, *_] = await search(visitor.owner, visitor.workspace_id, "When does the harbour open?")
    assert passage.document_id == document.document_id
    assert list(passage.place.headings) == ["Opening"]


FRAGMENT = b"<title>Release notes v1.csv</title><h1>Changes</h1><p>The harbour, old and new, opens at dawn.</p>"


@pytest.mark.parametrize(
    ("path", "content_type", "page", "name", "media_type"),
    [
        ("/notes", "text/html; charset=utf-8", FRAGMENT, "Release notes v1.csv", "text/html"),
        ("/notes", "application/xhtml+xml", FRAGMENT, "Release notes v1.csv", "text/html"),
        ("/api/harbours", "application/json", b'{"harbour": "opens at dawn"}', "harbours", "application/json"),
        ("/harbours", "text/markdown", b"# Harbours\n\nopen at dawn", "harbours", "text/markdown"),
        ("/README.md", "text/plain", b"# Harbours\n\nopen at dawn", "README.md", "text/markdown"),
        ("/harbours.csv", "text/csv", PAGE.encode(), "harbours.csv", "text/html"),
        ("/harbours", "text/html", files.pdf("The harbour opens at dawn."), "harbours", "application/pdf"),
    ],
)
async def test_a_page_is_of_the_kind_that_its_site_declares(
    visitor: Place, site: Site, path: str, content_type: str, page: bytes, name: str, media_type: str
) -> None:
    site.page, site.content_type = page, content_type
    made = await visitor.owner.documents.ImportWebPage(importing(visitor, site.url.replace("/harbours", path)))
    document = (await watch(visitor.owner, made.upload.document_id))[-1]
    assert (document.name, document.media_type, document.state) == (name, media_type, pb.DOCUMENT_STATE_READY)
    request = pb.ReindexDocumentsRequest(workspace_id=visitor.workspace_id)
    assert (await visitor.owner.documents.ReindexDocuments(request)).document_count == 1
    again = (await watch(visitor.owner, made.upload.document_id))[-1]
    assert (again.version, again.media_type, again.state) == (2, media_type, pb.DOCUMENT_STATE_READY)


async def test_a_repeated_call_imports_nothing_again(visitor: Place, site: Site) -> None:
    request = importing(visitor, site.url, str(uuid.uuid4()))
    first = await visitor.owner.documents.ImportWebPage(request)
    site.page = b"something else"
    again = await visitor.owner.documents.ImportWebPage(request)
    assert again.upload.document_id == first.upload.document_id
    assert site.requests == 1


async def test_a_repeated_call_is_answered_after_its_upload_was_deleted(
    open_app: App, visitor: Place, own_stores: Stores, site: Site
) -> None:
    made = pb.CreateCollectionRequest(workspace_id=visitor.workspace_id, name="Ports")
    collection_id = (await visitor.owner.documents.CreateCollection(made)).collection.collection_id
    request = importing(visitor, site.url, str(uuid.uuid4()))
    request.collection_ids.append(collection_id)
    first = await visitor.owner.documents.ImportWebPage(request)
    deleted = pb.DeleteCollectionRequest(collection_id=collection_id)
    await visitor.owner.documents.DeleteCollection(deleted)
    assert await visitor.owner.documents.ImportWebPage(request) == first
    await forget_upload(open_app, own_stores, first.upload.upload_id, "expire_time")
    without_name = pb.ImportWebPageResponse()
    without_name.CopyFrom(first)
    without_name.upload.name = ""  # sensitive: it is not stored with the reply
    assert await visitor.owner.documents.ImportWebPage(request) == without_name
    document_id = first.upload.document_id
    await visitor.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id))
    assert await visitor.owner.documents.ImportWebPage(request) == without_name
    assert site.requests == 1


async def test_a_repeated_call_is_answered_after_its_document_was_deleted(visitor: Place, site: Site) -> None:
    request = importing(visitor, site.url, str(uuid.uuid4()))
    first = await visitor.owner.documents.ImportWebPage(request)
    document_id = first.upload.document_id
    await visitor.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id))
    again = await visitor.owner.documents.ImportWebPage(request)
    assert (again.upload.upload_id, again.upload.document_id) == (first.upload.upload_id, document_id)
    assert site.requests == 1


async def interrupt(place: Place, stores: Stores, request: pb.ImportWebPageRequest) -> UUID:
    """Let an import end between its upload and the document. Return the id of the upload."""

    async def interrupted(*_: object) -> NoReturn:
        raise Unavailable

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DocumentService, "receive", interrupted)
        assert await outcome(place.owner.documents.ImportWebPage(request)) == UNAVAILABLE
    [(upload_id,)] = await sql(stores, "SELECT id FROM uploads WHERE workspace_id = %s", UUID(place.workspace_id))
    assert isinstance(upload_id, UUID)
    return upload_id


@pytest.mark.parametrize("upload", ["there", "given up", "gone"])
async def test_an_interrupted_import_is_repeated_whatever_became_of_its_upload(
    open_app: App, visitor: Place, own_stores: Stores, site: Site, upload: str
) -> None:
    request = importing(visitor, site.url, str(uuid.uuid4()))
    upload_id = await interrupt(visitor, own_stores, request)
    if upload == "given up":
        await sql(own_stores, "UPDATE uploads SET end_time = now() WHERE id = %s", upload_id)
    if upload == "gone":
        await forget_upload(open_app, own_stores, str(upload_id), "end_time")
    calls = [outcome(visitor.owner.documents.ImportWebPage(request)) for _ in range(2)]
    assert set(await asyncio.gather(*calls)) <= {OK, UPLOAD_TAKEN_OVER}
    made = await visitor.owner.documents.ImportWebPage(request)
    assert (made.upload.upload_id == str(upload_id)) == (upload == "there")
    listed = pb.ListDocumentsRequest(workspace_id=visitor.workspace_id)
    [document] = (await visitor.owner.documents.ListDocuments(listed)).documents
    assert document.document_id == made.upload.document_id


async def test_an_interrupted_import_of_a_page_that_changed_is_refused_once(
    visitor: Place, own_stores: Stores, site: Site
) -> None:
    request = importing(visitor, site.url, str(uuid.uuid4()))
    await interrupt(visitor, own_stores, request)
    site.page = PAGE.replace("dawn", "noon").encode()
    refused = await refusal(visitor.owner.documents.ImportWebPage(request))
    assert refused
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "UPLOAD_MISMATCH")
    made = await visitor.owner.documents.ImportWebPage(request)
    assert await download(visitor.owner, made.upload.document_id) == site.page


async def test_a_missing_page_is_named(visitor: Place, site: Site) -> None:
    site.page = b""
    refused = await refusal(visitor.owner.documents.ImportWebPage(importing(visitor, site.url)))
    assert refused
    assert refused.code == "INVALID_ARGUMENT"
    assert "url" in refused.message


async def test_this_machine_is_refused_by_default(place: Place, site: Site) -> None:
    assert await outcome(place.owner.documents.ImportWebPage(importing(place, site.url))) == INVALID
    assert site.requests == 0
