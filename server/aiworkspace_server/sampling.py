"""Measures what no call reports: the event loop and pools every second, the tables of jobs and documents every ten."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog

from .documents.models import State, Step
from .documents.versions import count_unready
from .kit.condition import Condition
from .kit.jobs import Jobs
from .kit.metrics import Metrics
from .kit.mongo import Mongo
from .kit.postgres import Database
from .kit.stores import STORE_UNAVAILABLE
from .kit.tasks import cancel_all
from .runs.build import RunEngine

_STEP_SECONDS = 0.1  # between two looks at how late the event loop is
_STEPS = 10  # for one sample
_TABLES_SECONDS = 10.0
_STUCK_SECONDS = 60.0  # that a job is due, and that no other was taken, until its queue counts as stuck
_JOB_STATES = "todo", "doing", "failed"

log = structlog.get_logger("sampling")


class Sampler:
    """Sets the gauges of one process and keeps its condition."""

    def __init__(
        self,
        metrics: Metrics,
        condition: Condition,
        db: Database,
        mongo: Mongo,
        jobs: Jobs,
        engine: RunEngine,
        providers: Iterable[str],
    ) -> None:
        """`providers`: names of those that the server has; organizations may have keys for others."""
        self._metrics = metrics
        self._condition = condition
        self._db = db
        self._mongo = mongo
        self._jobs = jobs
        self._engine = engine
        self._providers = set(providers)  # also those that have had a value, so that it goes back to 0

    @asynccontextmanager
    async def running(self, *, works_jobs: bool) -> AsyncIterator[None]:
        """Measure until the context ends. `works_jobs`: whether this process takes jobs from the queue."""
        tasks = [asyncio.create_task(self._measure_loop()), asyncio.create_task(self._read_tables(works_jobs))]
        try:
            yield
        finally:
            await cancel_all(tasks)

    async def _measure_loop(self) -> None:
        while True:
            self._condition.beat()
            latest = 0.0
            for _ in range(_STEPS):
                begin = time.perf_counter()
                await asyncio.sleep(_STEP_SECONDS)
                latest = max(latest, time.perf_counter() - begin - _STEP_SECONDS)
            self._metrics.loop_lag_seconds.set(latest)
            self._sample()

    def _sample(self) -> None:
        metrics, deps = self._metrics, self._engine.deps
        metrics.runs.set(self._engine.manager.run_count)
        metrics.pool_used.labels("postgres").set(self._db.used)
        metrics.pool_used.labels("mongo").set(self._mongo.used)
        waiting = deps.limiter.waiting_counts()
        opened = Counter[str]()
        for account, count in deps.breakers.count_open().items():
            opened[account.partition("/")[0]] += count
        self._providers.update(waiting, opened)
        for provider in self._providers:
            metrics.waiting.labels(provider).set(waiting[provider])
            metrics.breaker_open.labels(provider).set(opened[provider])

    async def _read_tables(self, works_jobs: bool) -> None:
        while True:
            try:
                async with self._db.read() as tx:
                    jobs, due = await self._jobs.count(tx), await self._jobs.list_due(tx)
                    documents = await count_unready(tx)
            except STORE_UNAVAILABLE:
                self._condition.stuck = ()  # the queue does not answer
            except Exception:
                log.exception("tables_not_read")
            else:
                self._report_tables(jobs, due, documents)
                self._condition.stuck = self._find_stuck(due) if works_jobs else ()
            await asyncio.sleep(_TABLES_SECONDS)

    def _report_tables(
        self,
        jobs: Mapping[tuple[str, str], int],
        due: Mapping[str, float],
        documents: Mapping[tuple[Step, State], int],
    ) -> None:
        for name in self._jobs.names:
            for job_state in _JOB_STATES:
                self._metrics.jobs.labels(name, job_state).set(jobs.get((name, job_state), 0))
        self._metrics.job_oldest_seconds.set(max(due.values(), default=0))
        for step in Step:
            for state in (State.PROCESSING, State.FAILED):
                self._metrics.documents.labels(step, state).set(documents.get((step, state), 0))

    def _find_stuck(self, due: Mapping[str, float]) -> list[str]:
        """Return the queues of which this process could take jobs that have long been due, and takes none."""
        last = time.monotonic() - _STUCK_SECONDS
        return [
            name
            for name, queue in self._jobs.queues.items()
            if due.get(name, 0) > _STUCK_SECONDS and queue.has_room and queue.taken_time < last
        ]
