"""What the release before wrote, in the form in which it stored runs, and what people saw of it.

The file was made with commit fe18ee7: its server in a process of its own, the stand-in for the providers, and the calls
of two people. It has the documents, the rows that takeover needs, and the answers of ListMessages, GetRun, ListAttempts
and StreamRun as bytes. The last answer was seen while it was in progress; then the server was killed.
"""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import bson
from bson.codec_options import CodecOptions
from psycopg.types.json import Jsonb

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.kit.mongo import Mongo
from tests.support.postgres import as_owner
from tests.support.stores import Stores, migrated_databases

_FILE = Path(__file__).parents[1] / "fixtures" / "runs_before_m0004.bson.gz"
_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=4, tz_aware=True)

Document = dict[str, Any]


@dataclass(frozen=True)
class ReleaseBefore:
    documents: Mapping[str, list[Document]]  # by collection
    rows: Mapping[str, list[Document]]  # by table, in the order of their foreign keys
    messages: Mapping[str, Sequence[pb.Message]]  # by conversation
    runs: Mapping[str, pb.Run]
    attempts: Mapping[str, Sequence[pb.Attempt]]  # by run
    events: Mapping[str, Sequence[pb.ChatEvent]]  # by run; of those that had ended
    orphan: UUID  # the run whose server was killed
    deleted: UUID  # a conversation

    @property
    def org_of(self) -> Mapping[UUID, UUID]:
        """The organization of each conversation and run."""
        known = [*self.documents["conversations"], *self.documents["runs"]]
        return {each["_id"]: each["org_id"] for each in known}


def read_release_before() -> ReleaseBefore:
    whole = bson.decode(gzip.decompress(_FILE.read_bytes()), _OPTIONS)
    seen = whole["seen"]
    return ReleaseBefore(
        whole["documents"],
        whole["rows"],
        {key: [pb.Message.FromString(each) for each in found] for key, found in seen["messages"].items()},
        {key: pb.Run.FromString(found) for key, found in seen["runs"].items()},
        {key: [pb.Attempt.FromString(each) for each in found] for key, found in seen["attempts"].items()},
        {key: [pb.ChatEvent.FromString(each) for each in found] for key, found in seen["events"].items()},
        whole["orphan"],
        whole["deleted"],
    )


async def restored(stores: Stores, name: str, release: ReleaseBefore) -> Stores:
    """Databases as that release left them. The only migration that is due is the one of the runs."""
    where = await migrated_databases(stores, name)
    mongo = Mongo(where.mongo)
    for collection, documents in release.documents.items():
        await mongo.database[collection].insert_many(documents)
    await mongo.database["migrations"].delete_one({"_id": "m0004_runs"})
    await mongo.close()
    async with as_owner(where) as owner:
        for table, rows in release.rows.items():
            found = await owner.execute(b"SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass", [table])
            known = {str(name) for (name,) in await found.fetchall()}
            columns = ", ".join(name for name in rows[0] if name in known)  # newer ones get their defaults
            insert = (
                f"INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s)"
            )
            await owner.execute(insert.encode(), [Jsonb(rows)])
    return where
