"""Rows of an organization as JSON lines, in batches in the order of their primary keys.

Each batch is a transaction of its own. Since keys never change, a row that is there all the time is read exactly once.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from sqlalchemy import ColumnElement, Select, literal, select, tuple_

from ...documents.models import Blob, Document, DocumentVersion
from ...kit.postgres import Database
from .catalog import Table

_DOCUMENTS_AT_ONCE = 200


def to_line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=bytes.hex, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


async def read_table(db: Database, org_id: UUID, table: Table) -> AsyncGenerator[list[bytes], None]:
    """Yield the lines of a table, batch by batch."""
    names, width, after = [column.key for column in table.columns], len(table.columns), None
    while True:
        async with db.read(org_id) as tx:
            rows = (await tx.execute(_select(table, after))).all()
        if rows:
            yield [to_line(dict(zip(names, row, strict=False))) for row in rows]
        if len(rows) < table.batch:
            return
        after = rows[-1][width:]


def _select(table: Table, after: Sequence[Any] | None) -> Select[Any]:
    """Return the query of a batch: the columns, and behind them the key."""
    query = select(*table.columns, *(column.label(f"key_{column.key}") for column in table.key))
    query = query.select_from(table.key[0].class_)
    if table.join:
        query = query.join(table.join.table, table.join.on)
    if table.where is not None:
        query = query.where(table.where)
    if after is not None:
        query = query.where(_later(table, after))
    return query.order_by(*table.key).limit(table.batch)


def _later(table: Table, after: Sequence[Any]) -> ColumnElement[bool]:
    last = [literal(value, column.type) for value, column in zip(after, table.key, strict=True)]
    later: ColumnElement[bool] = tuple_(*table.key) > tuple_(*last)
    return later


class StoredDocument(NamedTuple):
    id: UUID
    name: str
    blob_id: UUID
    size_bytes: int


async def list_documents(db: Database, org_id: UUID) -> AsyncGenerator[StoredDocument, None]:
    """Yield all documents with the bytes of their latest versions, in the order of their ids."""
    query = (
        select(Document.id, Document.name, Blob.id.label("blob_id"), Blob.size_bytes)
        .join(DocumentVersion, DocumentVersion.id == Document.latest_version_id)
        .join(Blob, Blob.id == DocumentVersion.blob_id)
        .order_by(Document.id)
        .limit(_DOCUMENTS_AT_ONCE)
    )
    after: UUID | None = None
    while True:
        async with db.read(org_id) as tx:
            rows = (await tx.execute(query.where(Document.id > after) if after else query)).all()
        for row in rows:
            yield StoredDocument(row.id, row.name, row.blob_id, row.size_bytes)
        if len(rows) < _DOCUMENTS_AT_ONCE:
            return
        after = rows[-1].id
