"""What the engine of runs is built from."""

from dataclasses import dataclass
from uuid import UUID

from ..kit.concurrency import ConcurrencyLimiter
from ..kit.metrics import Metrics
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..kit.tracing import Tracing
from ..llm.breaker import Breakers
from ..usage.ledger import Ledger
from .citations.sources import DocumentAccess
from .group_commit import GroupCommit
from .leases import Lease
from .streams.coalescer import Load


@dataclass(frozen=True, slots=True)
class RunDeps:
    """One for all runs of a process."""

    db: Database
    mongo: Mongo
    ledger: Ledger
    breakers: Breakers
    limiter: ConcurrencyLimiter
    lease: Lease
    load: Load
    tasks: Tasks
    group_commit: GroupCommit
    documents: DocumentAccess
    metrics: Metrics
    tracing: Tracing
    run_seconds: float
    store_events_seconds: float = 0.5  # how much of an answer a killed server may lose
    tries_per_target: int = 3

    @property
    def server_id(self) -> UUID:
        """Names this process in the claims of its runs."""
        return self.lease.id
