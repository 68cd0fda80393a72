"""Puts budgets together."""

from collections.abc import Mapping

from ..kit.contract import Method
from ..kit.jobs import Jobs
from ..kit.mail import Mailer
from ..kit.platform import Platform
from ..kit.postgres import Database
from ..policies.plan import Plans
from .jobs import Alerts
from .servicer import BudgetServicer


def build(platform: Platform, plans: Plans, methods: Mapping[str, Method]) -> BudgetServicer:
    return BudgetServicer(
        platform.db,
        plans,
        platform.limits,
        methods,
        platform.pages,
        platform.idempotency,
        platform.settings.allowance_nanos,
    )


def build_alerts(db: Database, jobs: Jobs, mailer: Mailer) -> Alerts:
    """Return the alerts that the ledger triggers, for commands that write to it too."""
    alerts = Alerts(db, jobs, mailer)
    alerts.register(jobs)
    return alerts
