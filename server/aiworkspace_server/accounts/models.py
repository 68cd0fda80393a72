"""The table of mailed tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class EmailToken(Base):
    """A token that was mailed to prove ownership of an address. Only its hash is stored."""

    __tablename__ = "email_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    purpose: Mapped[str]  # verify, reset, change
    email: Mapped[str]  # the address to which it was sent
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    use_time: Mapped[datetime | None]
    session_id: Mapped[UUID | None]  # session that requested a change of the address
