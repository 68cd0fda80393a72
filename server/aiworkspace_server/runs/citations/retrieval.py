"""Finds the sources of a run: once, before its first attempt, as its owner."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import structlog

from ...conversations.history import MOST_SOURCE_BYTES
from ...conversations.models import Omission
from ...kit.postgres import Database
from ...llm.base import Turn
from ...workspaces.retrieval import DEFAULT_PASSAGES, Retrieval
from .. import rights
from ..models import StoredSource
from .packing import fitting, number_sources
from .sources import DocumentAccess, Reader, Retrieved, SourceQuery

_LONGEST_QUERY = 4000  # characters
_SHORT_QUESTION = 60  # characters up to which the previous question is part of the query, as in "And in winter?"
_LONGEST_PREVIOUS = 200

log = structlog.get_logger("runs")


async def find_sources(
    db: Database, documents: DocumentAccess, reader: Reader, retrieval: Retrieval, turns: Sequence[Turn]
) -> tuple[list[StoredSource], list[Omission]]:
    """Return the sources for an answer to the last of the turns, and why some may be missing. Never fails."""
    try:
        async with asyncio.timeout(documents.seconds):
            found = await _retrieve(db, documents, reader, retrieval, turns)
        numbered = number_sources(found.sources)
    except TimeoutError:
        log.warning("retrieval_timed_out", org_id=str(reader.org_id), seconds=documents.seconds)
        return [], [Omission.TIMEOUT]
    except Exception:
        log.exception("retrieval_failed", org_id=str(reader.org_id))
        return [], [Omission.UNAVAILABLE]
    sources = fitting(numbered, MOST_SOURCE_BYTES)
    omissions = found.omissions | ({Omission.NO_ROOM} if len(sources) < len(numbered) else frozenset())
    return sources, sorted(omissions)


async def _retrieve(
    db: Database, documents: DocumentAccess, reader: Reader, retrieval: Retrieval, turns: Sequence[Turn]
) -> Retrieved:
    wanted = [UUID(each) for each in retrieval["collection_ids"]]
    if not (wanted or retrieval["all_documents"]):
        return Retrieved()
    if not await may_read(db, reader):
        return Retrieved(omissions=frozenset({Omission.PERMISSION}))
    collection_ids = None if retrieval["all_documents"] else wanted
    limit = retrieval["max_passages"] or DEFAULT_PASSAGES
    found = await documents.retrieve(SourceQuery(reader, collection_ids, query_of(turns), limit))
    return Retrieved(found.sources[:limit], found.omissions)


async def may_read(db: Database, reader: Reader) -> bool:
    """Return whether the reader may read documents of the workspace now: checked in the database."""
    async with db.read(reader.org_id) as tx:
        return await rights.may_read_documents(tx, reader.org_id, reader.workspace_id, reader.user_id, reader.key_id)


def query_of(turns: Sequence[Turn]) -> str:
    """Return what to search for: the last turn, with the end of the question before it if it is short."""
    question = turns[-1].text[:_LONGEST_QUERY]
    before = next((turn.text for turn in reversed(turns[:-1]) if turn.role == "user"), "")
    if len(question.strip()) > _SHORT_QUESTION or not before:
        return question
    return f"{before[-_LONGEST_PREVIOUS:]}\n{question}"
