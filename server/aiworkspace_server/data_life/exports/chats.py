"""Conversations, messages and runs as JSON lines, with the fields of the contract.

The scans follow indexes whose fields never change. A cursor returns what is there all the time exactly once.
"""

from collections.abc import AsyncGenerator
from typing import Any, cast
from uuid import UUID

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from ...conversations.models import Conversation, Exchange
from ...conversations.proto import conversation_to_proto, message_to_proto
from ...conversations.store import ConversationStore, messages_of
from ...kit.mongo import Document, Mongo
from ...runs.models import Run
from ...runs.proto import attempt_to_proto, run_to_proto
from .catalog import CONVERSATION_FIELDS, MESSAGE_FIELDS, RUN_FIELDS
from .rows import to_line

_AT_ONCE = 20  # documents of a batch; those of runs may be large


class Chats:
    """What was said in one organization, but for conversations that were deleted."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._conversations = mongo.tenant("conversations", org_id)
        self._runs = mongo.tenant("runs", org_id)
        self._store = ConversationStore(mongo, org_id)

    async def conversations(self) -> AsyncGenerator[list[bytes], None]:
        """Yield each conversation with the person whose it is."""
        order = [("workspace_id", 1), ("user_id", 1), ("_id", -1)]
        found = self._conversations.find({"delete_time": None}, CONVERSATION_FIELDS).sort(order)
        async with found.batch_size(_AT_ONCE) as cursor:
            async for each in cursor:
                conversation = cast(Conversation, each)
                fields = _fields(conversation_to_proto(conversation))
                yield [to_line(fields | {"user_id": conversation["user_id"]})]

    async def messages(self) -> AsyncGenerator[list[bytes], None]:
        """Yield the messages of each conversation in their order."""
        async for each in self._scan(MESSAGE_FIELDS):
            yield [to_line(_fields(message_to_proto(message))) for message in messages_of(cast(Exchange, each))]

    async def runs(self) -> AsyncGenerator[list[bytes], None]:
        """Yield each run with the person whose it is, its attempts and what it was allowed to do."""
        async for each in self._scan(RUN_FIELDS):
            run = cast(Run, each)
            attempts = [_fields(attempt_to_proto(run["_id"], attempt)) for attempt in run["attempts"]]
            more = {"user_id": run["user_id"], "plan": run["plan"], "retrieval": run.get("retrieval")}
            yield [to_line(_fields(run_to_proto(run)) | more | {"attempts": attempts})]

    async def _scan(self, fields: tuple[str, ...]) -> AsyncGenerator[Document, None]:
        """Yield runs, conversation by conversation."""
        conversation_id, is_live = None, False
        order = [("conversation_id", 1), ("_id", 1)]
        async with self._runs.find({}, fields).sort(order).batch_size(_AT_ONCE) as cursor:
            async for run in cursor:
                if run["conversation_id"] != conversation_id:
                    conversation_id = run["conversation_id"]
                    is_live = await self._store.find(conversation_id) is not None
                if is_live:
                    yield run


def _fields(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
