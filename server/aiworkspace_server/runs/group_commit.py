"""What many runs write at the same time goes out together: the cost of a run falls as the load grows."""

from collections.abc import Sequence
from functools import partial
from uuid import UUID

from ..conversations.store import EndedRun, end_runs
from ..kit.batches import Batcher
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from . import store, transactions
from .models import EventBatch, Run
from .transactions import OpenReservation, UnsettledRun

_MOST = 100  # writes of one kind that go out together


class GroupCommit:
    """One batcher for each kind of write. Each write is acknowledged when it is on disk, and fails by itself."""

    def __init__(self, db: Database, mongo: Mongo) -> None:
        self.events: Batcher[tuple[UUID, EventBatch], bool] = Batcher(partial(store.save_events, mongo), _MOST)
        self.ends: Batcher[tuple[UUID, Run], bool] = Batcher(partial(store.finish, mongo), _MOST)
        self.conversations: Batcher[EndedRun, None] = Batcher(partial(end_runs, mongo), _MOST)
        self.ledger: Batcher[UnsettledRun, Sequence[OpenReservation]] = Batcher(
            partial(transactions.end_runs, db), _MOST
        )
