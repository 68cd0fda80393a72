"""Operators of the server: people whom its command line has appointed. They belong to no organization as such."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Row, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base, ReadSession, WriteSession
from ..kit.timestamps import now
from .models import User


class Operator(Base):
    """The server's role may read and delete rows. Only the owner of the table adds them."""

    __tablename__ = "operators"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), primary_key=True)
    create_time: Mapped[datetime]


# An operator whose account is deleted, or whose address is not verified, has no rights.
_ENTITLED = User.delete_time.is_(None), User.verify_time.is_not(None), User.kind == "person"


async def is_operator(tx: ReadSession, user_id: UUID) -> bool:
    """Return whether a person is an operator now."""
    query = select(Operator.user_id).join(User, User.id == Operator.user_id)
    return (await tx.execute(query.where(Operator.user_id == user_id, *_ENTITLED))).first() is not None


async def list_operators(tx: ReadSession) -> Sequence[Row[UUID, str, datetime]]:
    """Return account, email address and time of appointment of every operator, the first appointed first."""
    query = select(Operator.user_id, func.coalesce(User.email, "").label("email"), Operator.create_time)
    query = query.join(User, User.id == Operator.user_id).order_by(Operator.create_time)
    return (await tx.execute(query)).all()


async def add_operator(tx: WriteSession, user_id: UUID) -> bool:
    """Appoint a person. Return False if the person is an operator already."""
    new = insert(Operator).values(user_id=user_id, create_time=now()).on_conflict_do_nothing()
    return (await tx.execute(new.returning(Operator.user_id))).first() is not None


async def remove_operator(tx: WriteSession, user_id: UUID) -> bool:
    """Return False if the person was no operator."""
    gone = delete(Operator).where(Operator.user_id == user_id)
    return (await tx.execute(gone.returning(Operator.user_id))).first() is not None
