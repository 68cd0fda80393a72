"""What runs are carried out with."""

from dataclasses import dataclass
from uuid import UUID

from ..kit.concurrency import ConcurrencyLimiter
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..llm.breaker import Breakers
from ..usage.ledger import Ledger
from .leases import Lease


class LostRun(Exception):
    """The run is another server's by now, or has ended there: nothing of it may be touched any more."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One for all runs of a process."""

    db: Database
    mongo: Mongo
    ledger: Ledger
    breakers: Breakers
    limiter: ConcurrencyLimiter
    lease: Lease
    run_seconds: float

    @property
    def server_id(self) -> UUID:
        """Who works on the runs of this process, as their claims say."""
        return self.lease.id
