"""How runs reach documents: search, and whether a passage can still be read."""

from uuid import UUID

from ..conversations.models import Omission
from ..kit.postgres import Database
from ..runs.citations.sources import DocumentAccess, Reader, Retrieved, Source, SourceQuery
from ..search.models import Filters, Hit, LeftOut
from ..search.query import Search
from ..search.questions import Asker
from . import versions
from .models import DocumentVersion

_WITHOUT_VECTORS = {LeftOut.NO_EMBEDDER, LeftOut.EMBEDDING_UNAVAILABLE, LeftOut.NOT_EMBEDDED_YET}


def document_access(db: Database, search: Search) -> DocumentAccess:
    """Return what runs use."""

    async def retrieve(query: SourceQuery) -> Retrieved:
        reader = query.reader
        asker = Asker(reader.org_id, reader.workspace_id, reader.user_id, reader.key_id)
        filters = Filters(collection_ids=query.collection_ids)
        found = await search.search(asker, query.text, filters, query.limit)
        async with db.read(reader.org_id) as tx:
            named = await versions.find_several(tx, {hit.version_id for hit in found.hits})
        sources = [_source(hit, *named[hit.version_id]) for hit in found.hits if hit.version_id in named]
        omissions = {Omission.VECTORS} if found.left_out & _WITHOUT_VECTORS else set()
        return Retrieved(sources, frozenset(omissions))

    async def still_readable(reader: Reader, document_id: UUID, version_id: UUID) -> bool:
        async with db.read(reader.org_id) as tx:
            return await versions.is_readable(tx, reader.workspace_id, document_id, version_id)

    return DocumentAccess(retrieve, still_readable)


def _source(hit: Hit, version: DocumentVersion, document_name: str) -> Source:
    return Source(
        hit.document_id, hit.version_id, version.number, document_name, hit.place, hit.text, hit.start, hit.end
    )
