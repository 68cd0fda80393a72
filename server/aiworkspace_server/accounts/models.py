"""Table of tokens that were sent by mail."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class EmailToken(Base):
    """What proves that mail to an address arrived. The token itself is stored nowhere."""

    __tablename__ = "email_tokens"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    purpose: Mapped[str]  # verify, reset, change
    email: Mapped[str]  # the address that it was sent to
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    create_time: Mapped[datetime]
    expire_time: Mapped[datetime]
    use_time: Mapped[datetime | None]
    session_id: Mapped[UUID | None]  # that asked for a change of the address
