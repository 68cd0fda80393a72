"""Background jobs: rows in PostgreSQL, stored in the transaction of the change that needs them.

So a committed change never loses its job, and one that was rolled back never runs it. A job is retried for about a day,
and may run twice if a server dies during it. Its arguments are ids; it reads everything else when it runs, so that the
queue contains nothing confidential.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from psycopg.errors import RaiseException
from sqlalchemy import text

from .answers import AnsweringConnection, patience
from .connections import FEWEST, Connections, plain_url
from .passes import Pass
from .postgres import LOST_NETWORK, SESSION_OPTIONS, ReadSession, WriteSession
from .stores import STORE_UNAVAILABLE
from .tasks import cancel_all
from .tracing import Tracing

log = structlog.get_logger("jobs")

_POLL_SECONDS = 2.0  # new jobs are announced by NOTIFY; retries have to be polled
_RESTART_SECONDS = 2.0
_LATE_SECONDS = 5.0  # after the end of its jobs, in which a worker has to stop; then it is cancelled again
_HEARTBEAT_SECONDS, _STALLED_SECONDS = 5.0, 15.0
_ANSWER_SECONDS = 600  # of one statement of a job, which nobody waits for: indexing a large text takes long
_TEND, _TENDING = "jobs.tend", "* * * * * */5"  # every five seconds (the last field)
_KEPT_HOURS = 30 * 24  # of failed jobs; others are deleted when they have succeeded
_MOST_ATTEMPTS = 35  # after 1, 2, 4 … 2048 seconds, then every hour: about a day
_MOST_WAIT_SECONDS = 3600

_AT_WORK = text(
    "SELECT task_name, args - 'traceparent' AS args FROM procrastinate_jobs"
    " WHERE task_name = ANY(:names) AND status IN ('todo', 'doing')"
)

_OTHERS_WAIT = text("""
  SELECT EXISTS (
    SELECT FROM procrastinate_jobs j
    WHERE queue_name = :queue AND status = 'todo' AND lock IS DISTINCT FROM :lock
      AND (scheduled_at IS NULL OR scheduled_at <= now())
      AND NOT EXISTS (SELECT FROM procrastinate_jobs d WHERE d.lock = j.lock AND d.status = 'doing'))
""")
_COUNT = text("SELECT task_name, status::text, count(*) FROM procrastinate_jobs GROUP BY 1, 2")
# As procrastinate_fetch_job chooses: what waits for a job with the same lock is not due.
_DUE = text("""
  SELECT j.queue_name, CAST(extract(epoch FROM max(now() - coalesce(j.scheduled_at, e.at))) AS float) AS seconds
  FROM procrastinate_jobs j
  LEFT JOIN LATERAL (SELECT max(at) AS at FROM procrastinate_events WHERE job_id = j.id) e ON true
  WHERE j.status = 'todo' AND (j.scheduled_at IS NULL OR j.scheduled_at <= now())
    AND NOT EXISTS (
      SELECT FROM procrastinate_jobs o WHERE o.lock = j.lock
        AND (o.status = 'doing' OR (o.status = 'todo' AND (o.priority, -o.id) > (j.priority, -j.id))))
  GROUP BY 1
""")
_BUILTIN = "builtin"  # begins the names of procrastinate's own jobs
_SAVE, _RESTORE = text("SAVEPOINT enqueued"), text("ROLLBACK TO SAVEPOINT enqueued")

DEFAULT_QUEUE, SLOW_QUEUE, READING_QUEUE = "default", "slow", "reading"
SENDING_QUEUE, UNANSWERED_QUEUE = "sending", "unanswered"
# How many jobs of each a server runs at the same time. Those that send mostly wait for others' servers.
_QUEUES = {DEFAULT_QUEUE: 10, SLOW_QUEUE: 10, READING_QUEUE: 10, SENDING_QUEUE: 32, UNANSWERED_QUEUE: 32}

Function = Callable[..., Awaitable[None]]
Work = tuple[str, frozenset[tuple[str, str]]]  # name and arguments of a job


class Jobs:
    """The queue, and the worker that takes jobs from it. Any number of servers may work on one queue."""

    def __init__(self, url: str, connections: Connections = FEWEST, tracing: Tracing | None = None) -> None:
        """`url` leads to PostgreSQL itself, not to a pooler: each worker also has a connection on which it listens."""
        self._tracing = tracing or Tracing()
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = False
        self.queues = {queue: _Queue(many) for queue, many in _QUEUES.items()}
        self._app = App(
            connector=PsycopgConnector(
                conninfo=plain_url(url),
                connection_class=AnsweringConnection,
                kwargs={"options": SESSION_OPTIONS, "connect_timeout": 5, **LOST_NETWORK},
                min_size=1,
                max_size=connections.queue,
                timeout=5,
            )
        )
        # Without a lock, which a server that dies in `_tend` would hold until somebody ran `_tend`.
        tend = self._app.task(name=_TEND, queueing_lock=_TEND)(self._tend)
        self._app.periodic(cron=_TENDING)(tend)

    def add(self, name: str, function: Function, queue: str = DEFAULT_QUEUE, *, once: bool = False) -> None:
        """Declare a job. Its function is called with the enqueued arguments and must be idempotent.

        Jobs that may take long belong in the slow queue, so that others, such as mails, do not wait for them. Those
        that read documents, which are many, have a queue of their own, and so have those that send to others' servers,
        which may be slow: one queue for servers that answer, and one for the rest. `once` declares a job for
        `enqueue_once`.
        """
        if once:
            self._app.task(name=name, queue=queue)(self._watched(name, _logging(name, function), queue))
        else:
            self._app.task(name=name, queue=queue, retry=_Backoff())(self._watched(name, function, queue))

    def _watched(self, name: str, function: Function, queue: str = DEFAULT_QUEUE) -> Function:
        """Return a function that does the same, counted by its queue and as a part of the trace that enqueued it."""
        state = self.queues.get(queue, _Queue(0))  # this process works no other queues

        async def run(*, traceparent: str = "", **arguments: Any) -> None:
            state.in_progress, state.taken_time = state.in_progress + 1, time.monotonic()
            try:
                with self._tracing.span(name, parent=traceparent), patience(_ANSWER_SECONDS):
                    await function(**arguments)
            finally:
                state.in_progress -= 1

        return run

    async def enqueue(self, tx: WriteSession, name: str, **arguments: object) -> None:
        """Enqueue a job, which runs after the transaction commits. The arguments become strings."""
        await self.enqueue_in_line(tx, None, name, **arguments)

    async def enqueue_in_line(self, tx: WriteSession, line: str | None, name: str, **arguments: object) -> None:
        """Enqueue a job that waits for those before it in the same line, of which one runs at a time."""
        connection = (await (await tx.connection()).get_raw_connection()).driver_connection
        job = self._app.configure_task(name, allow_unknown=False, connection=connection, lock=line)
        await job.defer_async(**self._texts(arguments))

    def _texts(self, arguments: dict[str, object]) -> dict[str, str]:
        trace = {"traceparent": carried} if (carried := self._tracing.carried) else {}
        return trace | {key: str(value) for key, value in arguments.items()}

    async def others_wait(self, tx: ReadSession, queue: str, name: str, **arguments: object) -> bool:
        """Return whether a job waits for a worker of this queue, besides the one that `enqueue_once` enqueued.

        One that waits for the end of a running job with the same arguments does not count: no worker would help it.
        """
        values = {"queue": queue, "lock": _lock(name, arguments)}
        return bool((await tx.execute(_OTHERS_WAIT, values)).scalar_one())

    async def enqueue_once(self, tx: WriteSession, name: str, queue: str | None = None, **arguments: object) -> None:
        """Enqueue a job unless one with these arguments is pending. Two of them never run at the same time.

        It is not retried, since that would collide with a pending one: enqueue it again as long as there is work.
        `queue` replaces the declared one.
        """
        lock = _lock(name, arguments)
        connection = (await (await tx.connection()).get_raw_connection()).driver_connection
        options: dict[str, Any] = {"lock": lock, "queueing_lock": lock} | ({"queue": queue} if queue else {})
        job = self._app.configure_task(name, allow_unknown=False, connection=connection, **options)
        await tx.flush()
        await tx.execute(_SAVE)  # not `begin_nested`, which does nothing on a connection with autocommit
        try:
            await job.defer_async(**self._texts(arguments))
        except AlreadyEnqueued:
            await tx.execute(_RESTORE)

    def every(self, cron: str, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Declare periodic work, which one of the servers does. After a failure it runs again at the next time.

        It never runs twice at the same time, and a run that takes longer has at most one waiting for it.
        """

        async def work(timestamp: int) -> None:
            try:
                await function()
            except STORE_UNAVAILABLE as error:
                log.warning("job_failed", job=name, error=type(error).__name__, text=str(error))
            except Exception:
                log.exception("job_failed", job=name)

        task = self._app.task(name=name, lock=name, queueing_lock=name)
        self._app.periodic(cron=cron)(task(self._watched(name, work)))

    @property
    def names(self) -> list[str]:
        """The names of all declared jobs."""
        return sorted(name for name in self._app.tasks if not name.startswith(_BUILTIN))

    async def count(self, tx: ReadSession) -> dict[tuple[str, str], int]:
        """Return how many jobs of each name are in each state."""
        return {(name, state): count for name, state, count in await tx.execute(_COUNT)}

    async def list_due(self, tx: ReadSession) -> dict[str, float]:
        """Return for each queue how many seconds ago the oldest job became due that a worker could take."""
        return {row.queue_name: row.seconds for row in await tx.execute(_DUE)}

    async def at_work(self, tx: ReadSession, *names: str) -> set[Work]:
        """Return the jobs of these names that are running or pending, including failed ones that will be retried."""
        return {(row.task_name, frozenset(row.args.items())) for row in await tx.execute(_AT_WORK, {"names": [*names]})}

    @asynccontextmanager
    async def running(self, shutdown_seconds: float) -> AsyncIterator[None]:
        """Run jobs until the context ends. Jobs in progress then have `shutdown_seconds`; later they are retried."""
        async with self._app.open_async():
            work = (self._work(queue, many, shutdown_seconds) for queue, many in _QUEUES.items())
            self._workers = [asyncio.create_task(each) for each in work]
            try:
                yield
            finally:
                self.stop()
                await asyncio.wait(self._workers, timeout=shutdown_seconds + _LATE_SECONDS)
                await cancel_all(self._workers)

    @asynccontextmanager
    async def enqueuing(self) -> AsyncIterator[None]:
        """Enqueue jobs, which other processes work, until the context ends."""
        async with self._app.open_async():
            yield

    def stop(self) -> None:
        """Take no more jobs. Those in progress have until the end of the context, and `shutdown_seconds` at most."""
        if not self._stopped:
            self._stopped = True
            for worker in self._workers:
                worker.cancel()

    async def _work(self, queue: str, concurrency: int, shutdown_seconds: float) -> None:
        task = asyncio.current_task()
        while task and not task.cancelling():  # a cancelled worker without a database raises only a database error
            try:
                await self._app.run_worker_async(
                    queues=[queue],
                    concurrency=concurrency,
                    fetch_job_polling_interval=_POLL_SECONDS,
                    shutdown_graceful_timeout=shutdown_seconds,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                    update_heartbeat_interval=_HEARTBEAT_SECONDS,
                    stalled_worker_timeout=_STALLED_SECONDS,
                )
            except Exception as error:
                log.warning("database_unavailable", retry_in_seconds=_RESTART_SECONDS, error=type(error).__name__)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _tend(self, timestamp: int) -> None:
        """Retry jobs of dead servers, and delete old ones. One of the servers runs this periodically."""
        manager, this = self._app.job_manager, Pass(_TEND)
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=_STALLED_SECONDS):
            log.warning("job_orphaned", job=job.task_name, id=job.id)
            with this.item(orphan=job.task_name, id=job.id):
                try:
                    await manager.retry_job(job)
                except UniqueViolation:  # one with the same arguments is pending, and waits for this one to end
                    await manager.finish_job(job, Status.FAILED, delete_job=True)
                except ConnectorException as error:
                    if not isinstance(error.__cause__, RaiseException):
                        raise
                    # Another server was faster: it is not running any more.
        await manager.delete_old_jobs(
            nb_hours=_KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
        )


class _Queue:
    """What the worker of a queue in this process does."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.in_progress = 0
        self.taken_time = time.monotonic()  # of the last job, or of the start

    @property
    def has_room(self) -> bool:
        return self.in_progress < self._concurrency


def concurrency_of(queue: str) -> int:
    """Return how many jobs of a queue a server runs at the same time."""
    return _QUEUES[queue]


def _lock(name: str, arguments: dict[str, object]) -> str:
    return " ".join([name, *(str(value) for value in arguments.values())])


def _logging(name: str, function: Function) -> Function:
    """The function of a job that is not retried."""

    async def run(**arguments: str) -> None:
        try:
            await function(**arguments)
        except Exception as error:
            log.warning("job_failed", job=name, **arguments, error=type(error).__name__, text=str(error))

    return run


class _Backoff(BaseRetryStrategy):
    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if job.attempts >= _MOST_ATTEMPTS:
            return None
        seconds = min(2**job.attempts, _MOST_WAIT_SECONDS)
        fields: dict[str, Any] = {"job": job.task_name, "id": job.id, "attempts": job.attempts + 1}
        fields["retry_in_seconds"] = seconds
        log.warning("job_failed", **fields, error=type(exception).__name__, text=str(exception))
        return RetryDecision(retry_in={"seconds": seconds})
