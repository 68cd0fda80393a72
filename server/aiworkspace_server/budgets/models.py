"""Tables of budgets. The ledger counts what is spent of them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Integer
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from ..kit.postgres import Base


class Budget(Base):
    __tablename__ = "budgets"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    scope: Mapped[str]  # org, workspace, member, api_key, allowance
    subject_id: Mapped[UUID | None]  # workspace, member or first key of a line; None: a budget for each separately
    named_id: Mapped[UUID | None]  # the key that was named when the budget was created; any of the line
    period: Mapped[str]  # day, month
    limit_nanos: Mapped[int | None]  # None only for an allowance: the server's default
    hard: Mapped[bool]
    alert_percents: Mapped[list[int]] = mapped_column(ARRAY(Integer()))
    version: Mapped[int]
    create_time: Mapped[datetime]
    update_time: Mapped[datetime]


class BudgetCount(Base):
    """What is spent and reserved of a budget in one window."""

    __tablename__ = "budget_windows"

    org_id: Mapped[UUID] = mapped_column(primary_key=True)
    budget_id: Mapped[UUID] = mapped_column(primary_key=True)
    subject_id: Mapped[UUID] = mapped_column(primary_key=True)  # organization, workspace, member or key
    start_time: Mapped[datetime] = mapped_column(primary_key=True)
    settled_nanos: Mapped[int]
    reserved_nanos: Mapped[int]
    alerted_percent: Mapped[int] = mapped_column(Integer())  # the greatest threshold about which mails were sent
