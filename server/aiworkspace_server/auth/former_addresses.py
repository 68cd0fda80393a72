"""Addresses that accounts gave up, with how many organizations were created with each.

An account that registers such an address continues that count. Otherwise a person could multiply the allowance by
deleting the account and registering again.
"""

import hmac
from datetime import datetime, timedelta

from sqlalchemy import LargeBinary, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base, ReadSession, WriteSession
from ..kit.timestamps import now
from .models import User

_KEPT = timedelta(days=62)  # longer than the month of an allowance


class FormerAddress(Base):
    __tablename__ = "former_addresses"

    address_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    created_org_count: Mapped[int]
    update_time: Mapped[datetime]


class FormerAddresses:
    """Stores and finds former addresses by a keyed hash."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    async def note(self, tx: WriteSession, user: User) -> None:
        """Remember the address of an account that is about to lose it. Unverified addresses prove nothing: ignored."""
        if user.email is None or user.verify_time is None or not user.created_org_count:
            return
        values = {"created_org_count": user.created_org_count, "update_time": now()}
        new = insert(FormerAddress).values(address_hash=self._hash(user.email), **values)
        greatest = func.greatest(FormerAddress.created_org_count, new.excluded.created_org_count)
        changes = {"created_org_count": greatest, "update_time": new.excluded.update_time}
        await tx.execute(new.on_conflict_do_update(index_elements=["address_hash"], set_=changes))

    async def created_org_count(self, tx: ReadSession, email: str) -> int:
        """Return how many organizations were created by accounts that recently had the address."""
        query = select(FormerAddress.created_org_count).where(
            FormerAddress.address_hash == self._hash(email), FormerAddress.update_time > now() - _KEPT
        )
        return (await tx.execute(query)).scalar_one_or_none() or 0

    def _hash(self, email: str) -> bytes:
        return hmac.digest(self._key, email.encode(), "sha256")


async def forget_former_addresses(tx: WriteSession) -> None:
    """Delete former addresses after their retention."""
    await tx.execute(delete(FormerAddress).where(FormerAddress.update_time <= now() - _KEPT))
