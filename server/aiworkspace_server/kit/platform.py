"""The parts of kit that domains are built from."""

from dataclasses import dataclass

from ..settings import Settings
from .call_limits import CallLimits
from .idempotency import IdempotencyStore
from .jobs import Jobs
from .keys import derive
from .limits import Counters, Limits
from .mail import Mailer, make_mailer
from .mail_limits import LimitedMailer
from .metrics import Metrics
from .pages import Pages
from .postgres import Database
from .tasks import Tasks
from .tracing import Tracing


def lasting_key(settings: Settings, purpose: str) -> bytes:
    """Return the key for one purpose.

    It comes from the only secret that can never be replaced, because all password hashes depend on it.
    """
    return derive(settings.password_pepper.get_secret_value(), purpose)


@dataclass(frozen=True, slots=True)
class Platform:
    """The parts of kit that a `build` function passes on. Servicers get the parts they use, never the platform."""

    settings: Settings
    db: Database
    jobs: Jobs
    counters: Counters
    limits: Limits
    call_limits: CallLimits
    mailer: Mailer
    tasks: Tasks
    pages: Pages
    idempotency: IdempotencyStore
    metrics: Metrics
    tracing: Tracing

    @classmethod
    def make(
        cls, settings: Settings, db: Database, jobs: Jobs, counters: Counters, metrics: Metrics, tracing: Tracing
    ) -> "Platform":
        """Return the platform of a server. The caller closes the database and the counters."""
        return cls(
            settings,
            db,
            jobs,
            counters,
            Limits(counters, settings.rate_limit_factor),
            CallLimits(settings.rate_limit_factor, settings.call_ceiling_factor),
            LimitedMailer(make_mailer(settings), counters, lasting_key(settings, "mail limits")),
            Tasks(),
            Pages(lasting_key(settings, "pages")),
            IdempotencyStore(lasting_key(settings, "replies")),
            metrics,
            tracing,
        )
