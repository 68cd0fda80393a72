"""Idempotency: a repeated request_id with the same content returns the stored reply and changes nothing.

The reply is stored in the transaction of the change itself, so that one never exists without the other. Of two
concurrent calls the second waits for the first. Sensitive fields are never stored, at any depth: those that the request
also has are copied from the repeated request, the others stay empty. Replies are kept for a week.
"""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from sqlalchemy import LargeBinary, Result, Select, delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from aiworkspace.v1 import common_pb2 as pb

from .context import caller_id, current
from .contract import clear_sensitive, restore_sensitive
from .errors import InvalidArgument
from .passes import Pass
from .postgres import Base, Database, ReadSession, WriteSession
from .timestamps import now

RETENTION = timedelta(days=7)

_PURGE_BATCH = 1000  # users, one transaction each
_LIST_EXPIRED = text("SELECT user_id FROM list_expired_replies(:before, :limit) AS expired(user_id)")

Response = TypeVar("Response", bound=Message)


class IdempotentReply(Base):
    __tablename__ = "replies"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    content_hash: Mapped[bytes] = mapped_column(LargeBinary)
    reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    create_time: Mapped[datetime]


class IdempotencyStore:
    """Finds and saves the replies to requests with a request_id."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def find(self, tx: WriteSession, request: Any, response: type[Response]) -> Response | None:
        """Return the reply to an earlier call with this request_id, or None if this is the first.

        Either way, other calls with the request_id wait until the transaction ends.

        Raises InvalidArgument if the earlier call had other content.
        """
        if not request.request_id:
            return None
        request_id, content_hash = UUID(request.request_id), self.content_hash(request)
        row = {"user_id": caller_id(), "request_id": request_id, "content_hash": content_hash, "create_time": now()}
        claim = insert(IdempotentReply).values(**row).on_conflict_do_nothing().returning(IdempotentReply.request_id)
        if (await tx.execute(claim)).first():
            return None
        return self._answer(await tx.execute(_select(request).with_for_update()), request, response)

    async def peek(self, tx: ReadSession, request: Any, response: type[Response]) -> Response | None:
        """Return the reply to an earlier call with this request_id, without claiming the id for this one."""
        if not request.request_id:
            return None
        return self._answer(await tx.execute(_select(request)), request, response)

    def _answer(self, rows: Result[bytes, bytes | None], request: Any, response: type[Response]) -> Response | None:
        if (known := rows.first()) is None:
            return None
        if known.content_hash != self.content_hash(request):
            raise request_id_reused()
        answer = current.get().answer = response.FromString(known.reply or b"")
        restore_sensitive(answer, request)
        return answer

    async def save(self, tx: WriteSession, request: Any, response: Response) -> Response:
        """Store the reply for calls that repeat the request, and return it."""
        current.get().answer = response
        if request.request_id:
            stored = type(response)()
            stored.CopyFrom(response)
            clear_sensitive(stored)
            await tx.execute(update(IdempotentReply).where(*_key(request)).values(reply=stored.SerializeToString()))
        return response

    def content_hash(self, request: Message) -> bytes:
        """Return a keyed hash of the method and the whole request. Keyed, because the request may hold a password."""
        plain = type(request)()
        plain.CopyFrom(request)
        plain.ClearField("request_id")  # the same UUID can be written in several ways
        content = plain.SerializeToString(deterministic=True)
        return hmac.digest(self._key, current.get().method.path.encode() + b"\0" + content, "sha256")


async def purge_idempotent_replies(db: Database, this: Pass) -> None:
    """Delete replies older than RETENTION, in a pass over their users."""
    before, failed = now() - RETENTION, 0
    while len(user_ids := await _list_expired(db, before)) > failed:
        had_failed = this.failed
        for user_id in user_ids:
            with this.item(user_id=user_id):
                async with db.write(user_id=user_id) as tx:
                    await tx.execute(delete(IdempotentReply).where(IdempotentReply.create_time < before))
        failed = this.failed - had_failed


async def _list_expired(db: Database, before: datetime) -> Sequence[UUID]:
    async with db.read() as tx:
        return (await tx.execute(_LIST_EXPIRED, {"before": before, "limit": _PURGE_BATCH})).scalars().all()


def request_id_reused() -> InvalidArgument:
    return InvalidArgument(
        {"request_id": "was used before for another request; make a new one"}, pb.ERROR_REASON_REQUEST_ID_REUSED
    )


def _select(request: Any) -> Select[bytes, bytes | None]:
    return select(IdempotentReply.content_hash, IdempotentReply.reply).where(*_key(request))


def _key(request: Any) -> tuple[Any, Any]:
    return IdempotentReply.user_id == caller_id(), IdempotentReply.request_id == UUID(request.request_id)
