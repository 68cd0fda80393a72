"""The ZIP file of an export, made while it is read: its members, and the manifest as the last of them.

At a time there are one batch of rows or one part of a document in memory, and about 0.7 KB
for each document, of which a ZIP file has a directory at its end.
"""

import hashlib
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from stream_zip import ZIP_64, AsyncMemberFile

from ...documents.content import PIECE_BYTES, Files
from ...kit.mongo import Mongo
from ...kit.postgres import Database
from .catalog import TABLES, WITHHELD, WITHHELD_DOCUMENTS
from .chats import Chats
from .file_names import safe_name
from .rows import StoredDocument, list_documents, read_table
from .store import Counts
from .zipping import zip_members

FORMAT_VERSION = 1
_MODE = stat.S_IFREG | 0o600


class Archive:
    """The export of one organization."""

    def __init__(self, db: Database, mongo: Mongo, files: Files, org_id: UUID, export_id: UUID, time: datetime) -> None:
        """`time`: when the export begins."""
        self._db = db
        self._chats = Chats(mongo, org_id)
        self._content = files.of(org_id)
        self._org_id = org_id
        self._export_id = export_id
        self._time = time
        self._entries: list[bytes] = []  # of the manifest
        self._row_count = 0
        self._file_count = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the file, in pieces of PIECE_BYTES but for the last one."""
        rest = bytearray()
        async with aclosing(zip_members(self._members())) as parts:
            async for part in parts:
                rest += part
                while len(rest) >= PIECE_BYTES:
                    yield bytes(rest[:PIECE_BYTES])
                    del rest[:PIECE_BYTES]
        if rest:
            yield bytes(rest)

    def counts(self, size_bytes: int) -> Counts:
        """Return what is in it so far, of whose bytes `size_bytes` were taken."""
        return Counts(self._row_count, self._file_count, size_bytes)

    async def _members(self) -> AsyncGenerator[AsyncMemberFile, None]:
        for table in TABLES:
            yield self._rows(table.name, read_table(self._db, self._org_id, table))
        yield self._rows("conversations", self._chats.conversations())
        yield self._rows("messages", self._chats.messages())
        yield self._rows("runs", self._chats.runs())
        async for document in list_documents(self._db, self._org_id):
            yield self._document(document)
        yield self._member("manifest.json", self._manifest())
        self._file_count += 1

    def _member(self, name: str, parts: AsyncIterable[bytes]) -> AsyncMemberFile:
        return name, self._time, _MODE, ZIP_64, parts

    def _rows(self, name: str, batches: AsyncGenerator[list[bytes], None]) -> AsyncMemberFile:
        async def parts() -> AsyncGenerator[bytes, None]:
            rows, size, digest = 0, 0, hashlib.sha256()
            async for lines in batches:
                for part in _cut(b"".join(lines)):
                    digest.update(part)
                    size += len(part)
                    yield part
                rows += len(lines)
                self._row_count += len(lines)
            self._add({"name": f"{name}.jsonl", "rows": rows, "bytes": size, "sha256": digest.hexdigest()})

        return self._member(f"{name}.jsonl", parts())

    def _document(self, document: StoredDocument) -> AsyncMemberFile:
        name = f"documents/{document.id}/{safe_name(document.name)}"

        async def parts() -> AsyncGenerator[bytes, None]:
            size, digest = 0, hashlib.sha256()
            async for data in self._content.read(document.blob_id, 0, document.size_bytes):
                for part in _cut(data):
                    digest.update(part)
                    size += len(part)
                    yield part
            entry: dict[str, Any] = {"name": name, "bytes": size, "sha256": digest.hexdigest()}
            if size < document.size_bytes:  # it was deleted meanwhile
                entry["incomplete"] = True
            self._add(entry)

        return self._member(name, parts())

    def _add(self, entry: dict[str, Any]) -> None:
        self._entries.append(orjson.dumps(entry))
        self._file_count += 1

    async def _manifest(self) -> AsyncGenerator[bytes, None]:
        about = {
            "format_version": FORMAT_VERSION,
            "export_id": self._export_id,
            "org_id": self._org_id,
            "begin_time": self._time,
            "withheld": WITHHELD | WITHHELD_DOCUMENTS,
        }
        yield orjson.dumps(about, option=orjson.OPT_UTC_Z)[:-1] + b',"files":[\n'
        for number, entry in enumerate(self._entries):
            yield (b",\n" if number else b"") + entry
        yield b"\n]}\n"


def _cut(data: bytes) -> Iterator[bytes]:
    """Hashing more at once would hold the event loop."""
    for begin in range(0, len(data), PIECE_BYTES):
        yield data[begin : begin + PIECE_BYTES]
