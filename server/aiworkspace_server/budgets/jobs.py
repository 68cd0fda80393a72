"""Alerts: mails to budget managers when a threshold is reached."""

from datetime import datetime
from uuid import UUID, uuid5

from aiworkspace.v1 import event_pb2

from ..auth import store as users
from ..events import store as events
from ..events.outbox import append
from ..kit.jobs import Jobs
from ..kit.mail import Mail, Mailer, quoted
from ..kit.postgres import Database, ReadSession
from ..llm.prices import usd
from ..orgs.store import find_member, find_org, list_people_with
from ..service_accounts.store import find_key
from ..usage.ledger import window_end
from ..workspaces.store import find_workspace
from . import store
from .models import Budget, BudgetCount
from .service import limit_of

_ALERT, _SEND = "budgets.alert", "budgets.send_alert"
_MANAGE = "budget.manage"

_SUBJECT = "{percent}% of a budget are spent"
_MAIL = """\
Hello,

{percent}% of the budget of {whose} for this {period} are spent: {settled} of {limit} USD since {start:%d %B %Y} UTC.
{then} The next {period} begins on {end:%d %B %Y} UTC.

{org} at AI Workspace sends this to those who may manage its budgets.
"""
_HARD = "When nothing is left, requests are refused."
_SOFT = "This budget is soft: requests are not refused."


class Alerts:
    """Mails those who manage budgets when a window reaches a threshold."""

    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs. The ledger enqueues the first in the transaction in which a window reaches a threshold."""
        jobs.add(_ALERT, self._alert)
        jobs.add(_SEND, self._send)

    async def _alert(self, org_id: str, budget_id: str, subject_id: str, start_time: str, percent: str) -> None:
        """Append the event, and enqueue a mail for each person who manages budgets."""
        which = {"org_id": org_id, "budget_id": budget_id, "subject_id": subject_id, "start_time": start_time}
        # As the ids of the mails: if the job is repeated, there is still one event.
        began = datetime.fromisoformat(start_time).timestamp()
        event_id = uuid5(UUID(budget_id), f"{subject_id} {began} {percent}")
        async with self._db.write(UUID(org_id)) as tx:
            if not await events.has_event(tx, event_id):
                reached, subject = event_pb2.EVENT_TYPE_BUDGET_THRESHOLD_REACHED, UUID(subject_id)
                append(tx, reached, event_id=event_id, budget_id=UUID(budget_id), subject_id=subject)
            for user_id in await list_people_with(tx, _MANAGE):
                # The same if the job is repeated: each person gets one mail.
                mail_id = uuid5(UUID(budget_id), f"{subject_id} {start_time} {percent} {user_id}")
                await self._jobs.enqueue(tx, _SEND, **which, percent=percent, user_id=user_id, mail_id=mail_id)

    async def _send(
        self, org_id: str, budget_id: str, subject_id: str, start_time: str, percent: str, user_id: str, mail_id: str
    ) -> None:
        """Send an alert, unless the budget was deleted meanwhile or the reader no longer manages budgets."""
        async with self._db.read(UUID(org_id)) as tx:
            window = await store.find_count(tx, UUID(budget_id), UUID(subject_id), datetime.fromisoformat(start_time))
            reader = await users.find_user(tx, UUID(user_id))
            managers = await list_people_with(tx, _MANAGE)
            if window is None or reader is None or not reader.email or reader.id not in managers:
                return
            text = await _text(tx, window[0], window[1], percent)
        await self._mailer.send(Mail(UUID(mail_id), reader.email, _SUBJECT.format(percent=percent), text))


async def _text(tx: ReadSession, budget: Budget, window: BudgetCount, percent: str) -> str:
    org = await find_org(tx, budget.org_id)
    return _MAIL.format(
        percent=percent,
        whose=await _whose(tx, budget.scope, window.subject_id),
        period=budget.period,
        settled=usd(window.settled_nanos),
        limit=usd(limit_of(budget, None)),
        start=window.start_time,
        then=_HARD if budget.hard else _SOFT,
        end=window_end(budget.period, window.start_time),
        org=quoted(org.name if org else ""),
    )


async def _whose(tx: ReadSession, scope: str, subject_id: UUID) -> str:
    if scope == "workspace":
        workspace = await find_workspace(tx, subject_id)
        return f"the workspace {quoted(workspace.name)}" if workspace else "a deleted workspace"
    if scope == "member":
        member = await find_member(tx, subject_id)
        return quoted(member[1].display_name) if member else "a former member"
    if scope == "api_key":
        key = await find_key(tx, subject_id)
        return f"the API key {quoted(key.name)}" if key else "a deleted API key"
    return "the organization"
