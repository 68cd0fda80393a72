"""Which documents answers in a workspace or conversation are based on: as it is stored, and in the contract."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypedDict, cast
from uuid import UUID

from aiworkspace.v1 import workspace_pb2 as pb

from ..kit.errors import NotFound
from ..kit.postgres import ReadSession

DEFAULT_PASSAGES = 8

# Returns whether all these collections are in a workspace of the tenant.
AreCollections = Callable[[ReadSession, UUID, Collection[UUID]], Awaitable[bool]]


class Retrieval(TypedDict):
    collection_ids: list[str]
    all_documents: bool
    max_passages: int  # 0: the default


def read_retrieval(owner: Any) -> Retrieval | None:
    """Return the retrieval in a message of the contract, a workspace for example. None if it is not set."""
    if not owner.HasField("retrieval"):
        return None
    given = owner.retrieval
    ids = list(dict.fromkeys(str(UUID(each)) for each in given.collection_ids))
    return Retrieval(collection_ids=ids, all_documents=given.all_documents, max_passages=given.max_passages)


def retrieval_to_proto(stored: Retrieval | dict[str, Any] | None) -> pb.Retrieval | None:
    return pb.Retrieval(**cast(dict[str, Any], stored)) if stored is not None else None


async def check_collections(
    are_collections: AreCollections, tx: ReadSession, workspace_id: UUID, retrieval: Retrieval | None, field: str
) -> None:
    """Raise NotFound, naming the field, if the retrieval names a collection that is not in the workspace."""
    ids = [UUID(each) for each in retrieval["collection_ids"]] if retrieval else []
    if ids and not await are_collections(tx, workspace_id, ids):
        raise NotFound(f"{field}.collection_ids")
