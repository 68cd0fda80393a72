"""Tables of webhook endpoints, and of what is sent to them."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, ForeignKeyConstraint, LargeBinary, Text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class DisableReason(StrEnum):
    REQUESTED = "requested"
    FAILING = "failing"
    GONE = "gone"


class DeliveryState(StrEnum):
    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Failure(StrEnum):
    """Why an attempt failed."""

    STATUS = "status"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    REFUSED = "refused"
    UNREADABLE = "unreadable"
    SECRET = "secret"


class WebhookEndpoint(Base):
    __tablename__ = "webhook_endpoints"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    url: Mapped[str]
    description: Mapped[str]
    event_types: Mapped[list[str]] = mapped_column(ARRAY(Text()))  # names; empty: all
    enabled: Mapped[bool]
    disable_reason: Mapped[str | None]  # a DisableReason
    answering: Mapped[bool]  # whether the last attempt succeeded
    fail_time: Mapped[datetime | None]  # of the first attempt that failed since the last success
    resume_time: Mapped[datetime | None]  # the endpoint has asked for no calls before this
    secret: Mapped[bytes] = mapped_column(LargeBinary)  # encrypted by the vault
    previous_secret: Mapped[bytes | None] = mapped_column(LargeBinary)
    previous_secret_expire_time: Mapped[datetime | None]
    version: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class WebhookDelivery(Base):
    """The sending of one event to one endpoint: its state and its attempts."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        ForeignKeyConstraint(
            ["org_id", "webhook_endpoint_id"],
            ["webhook_endpoints.org_id", "webhook_endpoints.id"],
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(["org_id", "sequence"], ["events.org_id", "events.sequence"], ondelete="CASCADE"),
    )

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    webhook_endpoint_id: Mapped[UUID] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str]  # a DeliveryState
    attempt_count: Mapped[int]  # since the event happened or was replayed
    next_attempt_time: Mapped[datetime | None]  # exactly while it is pending
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB())  # the last ones: see `Attempt`
