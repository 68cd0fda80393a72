"""Queries on the conversations of one organization, and on the questions and answers in its runs."""

from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast
from uuid import UUID

from ..kit.ids import first_id_at, time_of
from ..kit.mongo import Change, Filter, Mongo
from ..kit.timestamps import now
from .models import Conversation, Exchange, Message, answer_of, question_of
from .proto import citations_size

_PAGE_BYTES = 1 << 20
_SCANNED_AT_ONCE = 1000  # documents; decoding them blocks the event loop
_EXCHANGE = list(Exchange.__annotations__)
_SAME_RUN = timedelta(seconds=1)  # the ids of a run and of its messages are made at the same time


async def find_conversation_among(
    mongo: Mongo, org_ids: Sequence[UUID], user_id: UUID, conversation_id: UUID
) -> Conversation | None:
    """Return the person's conversation, in one of these organizations."""
    where = {"_id": conversation_id, "user_id": user_id, "delete_time": None}
    return cast(Conversation | None, await mongo.find_among("conversations", org_ids, where))


async def list_unpurged(mongo: Mongo, before: datetime) -> AsyncIterator[tuple[UUID, UUID]]:
    """List organization and id of the conversations of all tenants that were deleted before and may have content."""
    where = {"delete_time": {"$type": "date", "$lte": before}, "purge_time": None}  # the first half chooses the index
    async for found in mongo.scan("conversations", where).batch_size(_SCANNED_AT_ONCE):
        yield found["org_id"], found["_id"]


async def list_orgs_of(mongo: Mongo, user_id: UUID) -> set[UUID]:
    """Return the organizations in which a person has conversations."""
    return {found["org_id"] async for found in mongo.scan("conversations", {"user_id": user_id})}


class EndedRun(NamedTuple):
    """What a conversation has to know of the end of a run."""

    org_id: UUID
    conversation_id: UUID
    run_id: UUID
    size: int  # of the answer in bytes


async def end_runs(mongo: Mongo, ended: Sequence[EndedRun]) -> list[None]:
    """End the active runs of conversations. Does nothing to a conversation in which another one is active."""
    await mongo.update_all("conversations", [_end_of(each) for each in ended])
    return [None] * len(ended)


def _end_of(ended: EndedRun) -> tuple[UUID, Filter, Change]:
    change = {"$set": {"active_run_id": None, "update_time": now()}, "$inc": {"size_bytes": ended.size}}
    return ended.org_id, {"_id": ended.conversation_id, "active_run_id": ended.run_id}, change


class ConversationStore:
    """The conversations of one organization."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._conversations = mongo.tenant("conversations", org_id)
        self._runs = mongo.tenant("runs", org_id)

    async def save(self, conversation: Conversation) -> None:
        await self._conversations.save(dict(conversation))

    async def find(self, conversation_id: UUID) -> Conversation | None:
        found = await self._conversations.find_one({"_id": conversation_id, "delete_time": None})
        return cast(Conversation | None, found)

    async def list_of(self, workspace_id: UUID, user_id: UUID, before: UUID | None, limit: int) -> list[Conversation]:
        """List a person's conversations in a workspace, the latest first."""
        where: dict[str, Any] = {"workspace_id": workspace_id, "user_id": user_id, "delete_time": None}
        if before:
            where["_id"] = {"$lt": before}
        found = await self._conversations.find(where).sort("_id", -1).limit(limit).to_list()
        return cast(list[Conversation], found)

    async def update(self, conversation_id: UUID, version: int | None, values: dict[str, Any]) -> bool:
        """Change a conversation. Return False if it is not at this version, or was deleted."""
        where: dict[str, Any] = {"_id": conversation_id, "delete_time": None}
        if version is not None:
            where["version"] = version
        change = {"$set": values | {"update_time": now()}, "$inc": {"version": 1}}
        return await self._conversations.update(where, change)

    async def begin_run(self, conversation: Conversation, run_id: UUID, size: int, title: str) -> bool:
        """Make a run the conversation's active one, and `title` its title if it has none.

        Return False if the conversation was deleted, or something was said in it since it was read.
        """
        unchanged = {"_id": conversation["_id"], "delete_time": None, "size_bytes": conversation["size_bytes"]}
        untitled = {"$eq": ["$title", ""]}
        fields: dict[str, Any] = {
            "active_run_id": run_id,
            "last_run_id": run_id,
            "update_time": now(),
            "size_bytes": {"$add": ["$size_bytes", size]},
        }
        if title and not conversation["title"]:  # somebody may have named it since it was read
            fields["title"] = {"$cond": [untitled, {"$literal": title}, "$title"]}
            fields["version"] = {"$cond": [untitled, {"$add": ["$version", 1]}, "$version"]}
        return await self._conversations.update(unchanged, [{"$set": fields}])

    async def mark_deleted(self, conversation_id: UUID) -> None:
        """Hide a conversation and its runs. Its content is erased next; a periodic job finds what a crash leaves."""
        await self._conversations.update({"_id": conversation_id, "delete_time": None}, _delete())

    async def list_unchanged(self, workspace_id: UUID, before: datetime, limit: int) -> list[UUID]:
        """List conversations of a workspace in which nothing was said or changed since, and no run is active."""
        where = {"workspace_id": workspace_id, "_id": {"$lt": first_id_at(before)}, **_unchanged(before)}
        return await self.some_ids(where, limit)

    async def mark_unchanged_deleted(self, conversation_id: UUID, before: datetime) -> bool:
        """Do what `mark_deleted` does, and return True, if nothing was said or changed since."""
        return await self._conversations.update({"_id": conversation_id, **_unchanged(before)}, _delete())

    async def some_ids(self, where: Filter, limit: int) -> list[UUID]:
        """List ids of conversations, deleted ones included."""
        return [conversation["_id"] async for conversation in self._conversations.find(where, ["_id"]).limit(limit)]

    async def delete(self, conversation_ids: Collection[UUID]) -> int:
        """Delete conversations whose runs have been deleted. Return how many there were."""
        return await self._conversations.delete({"_id": {"$in": list(conversation_ids)}})

    async def delete_all(self) -> int:
        return await self._conversations.delete_in_batches({})

    async def find_delete_time(self, conversation_id: UUID) -> datetime | None:
        """Return when a conversation was deleted whose purge has not been noted."""
        where = {"_id": conversation_id, "delete_time": {"$ne": None}, "purge_time": None}
        found = await self._conversations.find_one(where, ["delete_time"])
        return found["delete_time"] if found else None

    async def note_purge(self, conversation_id: UUID) -> None:
        await self._conversations.update({"_id": conversation_id}, {"$set": {"purge_time": now()}})

    async def list_messages(
        self, conversation_id: UUID, after: tuple[UUID, int] | None, limit: int
    ) -> tuple[list[Message], bool]:
        """Return messages, the oldest first, and whether there are more. Fewer than the limit if they are large.

        `after`: run and number of messages in it that come before the first one.
        """
        where: dict[str, Any] = {"conversation_id": conversation_id}
        run_id, skipped = after or (None, 0)
        if run_id:
            where["_id"] = {"$gte": run_id}
        messages: list[Message] = []
        size = 0
        async for found in self._runs.find(where, _EXCHANGE).sort("_id", 1).limit(limit + 2).batch_size(50):
            for message in messages_of(cast(Exchange, found))[skipped if found["_id"] == run_id else 0 :]:
                size += _size(message)
                if messages and (len(messages) == limit or size > _PAGE_BYTES):
                    return messages, True
                messages.append(message)
        return messages, False

    async def find_message(self, conversation_id: UUID, message_id: UUID) -> Message | None:
        made = time_of(message_id)
        where = {
            "conversation_id": conversation_id,
            "_id": {"$gte": first_id_at(made - _SAME_RUN), "$lte": first_id_at(made + _SAME_RUN)},
            "$or": [{"user_message_id": message_id}, {"message_id": message_id}],
        }
        found = await self._runs.find_one(where, _EXCHANGE)
        sides = messages_of(cast(Exchange, found)) if found else ()
        return next((message for message in sides if message["message_id"] == message_id), None)

    async def latest_exchanges(
        self, conversation_id: UUID, before: UUID | None, limit: int
    ) -> tuple[list[Exchange], bool]:
        """Return exchanges, the latest first, and whether there may be more; only those before this run, if given.

        Fewer than the limit if they are large.
        """
        where: dict[str, Any] = {"conversation_id": conversation_id}
        if before:
            where["_id"] = {"$lt": before}
        found, more = await self._runs.find_latest(where, ["question", "answer"], limit)
        return cast(list[Exchange], found), more


def _delete() -> Change:
    return {"$set": {"delete_time": now(), "title": "", "model": ""}}


def _unchanged(before: datetime) -> dict[str, Any]:
    return {"delete_time": None, "active_run_id": None, "update_time": {"$lt": before}}


def messages_of(exchange: Exchange) -> list[Message]:
    answer = answer_of(exchange)
    return [question_of(exchange), *([answer] if answer else [])]


def _size(message: Message) -> int:
    return sum(len(content["text"].encode()) for content in message["contents"]) + citations_size(message)
