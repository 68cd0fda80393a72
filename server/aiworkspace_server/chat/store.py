"""Queries on conversations, messages, runs and their events, as one organization sees them."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from pymongo.errors import DuplicateKeyError

from ..kit.mongo import Filter, Mongo
from ..kit.timestamps import now
from .models import Attempt, Conversation, EventBatch, Message, Run

_PAGE_BYTES = 1 << 20
_SCANNED_AT_ONCE = 1000  # documents; decoding them blocks the event loop


async def find_conversation_among(
    mongo: Mongo, org_ids: Sequence[UUID], user_id: UUID, conversation_id: UUID
) -> Conversation | None:
    """The person's conversation, in one of these organizations."""
    where = {"_id": conversation_id, "user_id": user_id, "delete_time": None}
    return cast(Conversation | None, await mongo.find_among("conversations", org_ids, where))


async def find_run_among(mongo: Mongo, org_ids: Sequence[UUID], user_id: UUID, run_id: UUID) -> Run | None:
    """The person's run, while its conversation was not deleted."""
    found = await mongo.find_among("runs", org_ids, {"_id": run_id, "user_id": user_id})
    if found is None:
        return None
    home = await find_conversation_among(mongo, [found["org_id"]], user_id, found["conversation_id"])
    return cast(Run, found) if home else None


async def list_unpurged(mongo: Mongo, before: datetime) -> AsyncIterator[tuple[UUID, UUID]]:
    """Organization and id of every conversation, of any tenant, that was deleted before and may have content left."""
    where = {"delete_time": {"$type": "date", "$lte": before}, "purge_time": None}  # the first half chooses the index
    async for found in mongo.scan("conversations", where).batch_size(_SCANNED_AT_ONCE):
        yield found["org_id"], found["_id"]


async def list_orgs_of(mongo: Mongo, user_id: UUID) -> set[UUID]:
    """The organizations in which a person has conversations."""
    return {found["org_id"] async for found in mongo.scan("conversations", {"user_id": user_id})}


class ChatStore:
    """The chat documents of one organization."""

    def __init__(self, mongo: Mongo, org_id: UUID) -> None:
        self._conversations = mongo.tenant("conversations", org_id)
        self._messages = mongo.tenant("messages", org_id)
        self._runs = mongo.tenant("runs", org_id)
        self._events = mongo.tenant("run_events", org_id)
        self._attempts = mongo.tenant("attempts", org_id)

    async def save_conversation(self, conversation: Conversation) -> None:
        await self._conversations.save(dict(conversation))

    async def find_conversation(self, conversation_id: UUID) -> Conversation | None:
        found = await self._conversations.find_one({"_id": conversation_id, "delete_time": None})
        return cast(Conversation | None, found)

    async def list_conversations(
        self, workspace_id: UUID, user_id: UUID, before: UUID | None, limit: int
    ) -> list[Conversation]:
        """A person's conversations in a workspace, the one created last first."""
        where: dict[str, Any] = {"workspace_id": workspace_id, "user_id": user_id, "delete_time": None}
        if before:
            where["_id"] = {"$lt": before}
        found = await self._conversations.find(where).sort("_id", -1).limit(limit).to_list()
        return cast(list[Conversation], found)

    async def update_conversation(self, conversation_id: UUID, version: int | None, values: dict[str, Any]) -> bool:
        """False when the conversation is no longer at this version, or was deleted."""
        where: dict[str, Any] = {"_id": conversation_id, "delete_time": None}
        if version is not None:
            where["version"] = version
        change = {"$set": values | {"update_time": now()}, "$inc": {"version": 1}}
        return await self._conversations.update(where, change)

    async def set_title(self, conversation_id: UUID, title: str) -> None:
        """Gives the conversation a title, unless it has one."""
        change = {"$set": {"title": title}, "$inc": {"version": 1}}
        await self._conversations.update({"_id": conversation_id, "title": "", "delete_time": None}, change)

    async def begin_run(self, conversation: Conversation, run_id: UUID, size: int) -> bool:
        """Notes the run in its conversation. False when that was deleted, or something was said since it was read."""
        unchanged = {"_id": conversation["_id"], "delete_time": None, "size_bytes": conversation["size_bytes"]}
        change = {"$set": {"active_run_id": run_id, "update_time": now()}, "$inc": {"size_bytes": size}}
        return await self._conversations.update(unchanged, change)

    async def end_run(self, conversation_id: UUID, run_id: UUID, size: int) -> None:
        change = {"$set": {"active_run_id": None, "update_time": now()}, "$inc": {"size_bytes": size}}
        await self._conversations.update({"_id": conversation_id, "active_run_id": run_id}, change)

    async def delete_conversation(self, conversation_id: UUID) -> None:
        """Hide the conversation with its runs. Its content is erased next; a periodic job finds what a crash leaves."""
        deleted = {"delete_time": now(), "title": "", "model": ""}
        await self._conversations.update({"_id": conversation_id, "delete_time": None}, {"$set": deleted})

    async def delete_runs(self, run_ids: Collection[UUID]) -> int:
        """What is stored of these runs, but for their messages. Returns how many documents there were."""
        of_runs = {"run_id": {"$in": list(run_ids)}}
        deleted = await self._events.delete(of_runs) + await self._attempts.delete(of_runs)
        return deleted + await self._runs.delete({"_id": {"$in": list(run_ids)}})

    async def delete_contents(self, conversation_ids: Collection[UUID]) -> int:
        """All that was said in these conversations. Returns how many documents there were."""
        inside = {"conversation_id": {"$in": list(conversation_ids)}}
        runs = [run["_id"] async for run in self._runs.find(inside, ["_id"])]
        return await self.delete_runs(runs) + await self._messages.delete(inside)

    async def some_conversation_ids(self, where: Filter, limit: int) -> list[UUID]:
        """Of conversations, deleted ones included."""
        return [conversation["_id"] async for conversation in self._conversations.find(where, ["_id"]).limit(limit)]

    async def delete_conversations(self, conversation_ids: Collection[UUID]) -> int:
        """Without their contents, which go first."""
        return await self._conversations.delete({"_id": {"$in": list(conversation_ids)}})

    async def delete_all(self) -> int:
        """Everything of the organization. Returns how many documents there were."""
        parts = self._events, self._attempts, self._messages, self._runs, self._conversations
        return sum([await part.delete_in_batches({}) for part in parts])

    async def find_deleted(self, conversation_id: UUID) -> datetime | None:
        """When a conversation was deleted whose purge has not been noted."""
        where = {"_id": conversation_id, "delete_time": {"$ne": None}, "purge_time": None}
        found = await self._conversations.find_one(where, ["delete_time"])
        return found["delete_time"] if found else None

    async def note_purge(self, conversation_id: UUID) -> None:
        await self._conversations.update({"_id": conversation_id}, {"$set": {"purge_time": now()}})

    async def save_message(self, message: Message) -> None:
        await self._messages.save(dict(message))

    async def delete_messages_of(self, run_id: UUID) -> None:
        await self._messages.delete({"run_id": run_id})

    async def list_messages(
        self, conversation_id: UUID, after: UUID | None, limit: int, *, only: UUID | None = None, again: bool = False
    ) -> tuple[list[Message], bool]:
        """Messages, the oldest first, and whether there are more. Fewer than the limit when they are large.

        `only`: no other message than this. `again`: the message `after` too.
        """
        where: dict[str, Any] = {"conversation_id": conversation_id}
        if after:
            where["_id"] = {"$gte" if again else "$gt": after}
        if only:
            where["_id"] = where.get("_id", {}) | {"$eq": only}
        messages: list[Message] = []
        size = 0
        async for found in self._messages.find(where).sort("_id", 1).limit(limit + 1).batch_size(50):
            message = cast(Message, found)
            size += _size(message)
            if messages and (len(messages) == limit or size > _PAGE_BYTES):
                return messages, True
            messages.append(message)
        return messages, False

    async def latest_messages(self, conversation_id: UUID, before: UUID | None) -> AsyncGenerator[Message, None]:
        """Messages before this one or, without one, all; the newest first."""
        where: dict[str, Any] = {"conversation_id": conversation_id}
        if before:
            where["_id"] = {"$lt": before}
        async with self._messages.find(where, ["role", "contents"]).sort("_id", -1).batch_size(20) as found:
            async for message in found:
                yield cast(Message, message)

    async def save_run(self, run: Run) -> None:
        await self._runs.save(dict(run))

    async def find_run(self, run_id: UUID) -> Run | None:
        return cast(Run | None, await self._runs.find_one({"_id": run_id}))

    async def finish_run(self, run: Run) -> bool:
        """Stores how the run ended. False when somebody else has done so: the end that was stored first counts."""
        ended = ("state", "finish_reason", "failure", "usage", "cost", "attempt_count", "end_time", "endings", "end_id")
        values = {name: run[name] for name in ended}  # type: ignore[literal-required]
        if await self._runs.update({"_id": run["_id"], "state": "running"}, {"$set": values}):
            return True
        return await self._runs.find_one({"_id": run["_id"], "end_id": run["end_id"]}, ["_id"]) is not None

    async def delete_run(self, run_id: UUID) -> None:
        """With its events, of which the first may have been stored before the run itself."""
        await self._events.delete({"run_id": run_id})
        await self._runs.delete({"_id": run_id})

    async def save_events(self, batch: EventBatch) -> bool:
        """False when other events have their place."""
        try:
            await self._events.save(dict(batch))
        except DuplicateKeyError:
            return await self._events.find_one({"_id": batch["_id"]}, ["_id"]) is not None
        return True

    async def last_event(self, run_id: UUID) -> bytes | None:
        batches = await self._events.find({"run_id": run_id}).sort("first", -1).limit(1).to_list()
        return batches[0]["events"][-1] if batches else None

    async def events_after(self, run_id: UUID, sequence: int) -> list[bytes]:
        """All stored events of the run that follow this one."""
        events: list[bytes] = []
        async for found in self._events.find({"run_id": run_id}).sort("first", 1):
            skip = max(0, sequence + 1 - found["first"])
            events.extend(found["events"][skip:])
        return events

    async def save_attempt(self, attempt: Attempt) -> None:
        names = Attempt.__annotations__  # what was read has the organization too
        await self._attempts.save({name: attempt[name] for name in names})  # type: ignore[literal-required]

    async def end_attempt(self, attempt: Attempt) -> None:
        """Stores how an attempt ended, and that there was one if nobody had the time to; once."""
        told = ("state", "failure", "error", "status", "usage", "cost", "first_content_time", "end_time")
        values = {name: attempt[name] for name in (*told, "provider_response_id")}  # type: ignore[literal-required]
        if not await self._attempts.update({"_id": attempt["_id"], "state": "running"}, {"$set": values}):
            await self.save_attempt(attempt)

    async def list_attempts(self, run_id: UUID, after: int, limit: int) -> list[Attempt]:
        """The attempts of a run in order, from the one that follows number `after`."""
        cursor = self._attempts.find({"run_id": run_id, "number": {"$gt": after}}).sort("number", 1)
        return cast(list[Attempt], await cursor.limit(limit).to_list())


def _size(message: Message) -> int:
    return sum(len(content["text"].encode()) for content in message["contents"])
