"""Queries on mailed tokens."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, func, select, update

from ..kit.postgres import ReadSession, WriteSession
from .models import EmailToken

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


async def add_token(tx: WriteSession, token: EmailToken) -> None:
    tx.add(token)
    await tx.flush()


async def find_token(tx: ReadSession, token_id: UUID) -> EmailToken | None:
    return await tx.get(EmailToken, token_id)


async def find_token_by_hash(tx: ReadSession, token_hash: bytes, *purposes: str) -> EmailToken | None:
    """Return the token as it is now, even if the transaction has read it before."""
    query = select(EmailToken).where(EmailToken.token_hash == token_hash, EmailToken.purpose.in_(purposes))
    return (await tx.execute(query.execution_options(populate_existing=True))).scalar_one_or_none()


async def count_tokens(tx: ReadSession, user_id: UUID, purpose: str, since: datetime) -> int:
    made = EmailToken.user_id == user_id, EmailToken.purpose == purpose, EmailToken.create_time > since
    return (await tx.execute(select(func.count()).select_from(EmailToken).where(*made))).scalar_one()


async def end_tokens(tx: WriteSession, user_id: UUID, *purposes: str) -> None:
    """End the unused tokens of these purposes at once, without the leeway that expired ones have."""
    whose = EmailToken.user_id == user_id, EmailToken.purpose.in_(purposes), EmailToken.use_time.is_(None)
    await tx.execute(update(EmailToken).where(*whose).values(expire_time=_LONG_AGO))


async def delete_tokens(tx: WriteSession, user_id: UUID) -> None:
    await tx.execute(delete(EmailToken).where(EmailToken.user_id == user_id))


async def delete_old_tokens(tx: WriteSession, before: datetime) -> None:
    """Delete tokens of all accounts that were created before a time."""
    await tx.execute(delete(EmailToken).where(EmailToken.create_time < before))
