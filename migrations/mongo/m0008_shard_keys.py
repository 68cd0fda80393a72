"""Each collection has an index that leads with the organization, and each unique index does: all can be sharded by it.

Pieces of documents stay unique: a file belongs to one organization.
"""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

compatible_with = "m0007_citations"

_INDEX_NOT_FOUND = 27


async def upgrade(database: AsyncDatabase[dict[str, Any]]) -> None:
    pieces = database["documents.chunks"]
    await pieces.create_index([("org_id", 1), ("files_id", 1), ("n", 1)], unique=True)
    for replaced in ("files_id_1_n_1", "org_id_1"):
        try:
            await pieces.drop_index(replaced)
        except OperationFailure as error:  # dropped before an interruption
            if error.code != _INDEX_NOT_FOUND:
                raise
    await database["documents.writes"].create_index([("org_id", 1)])
