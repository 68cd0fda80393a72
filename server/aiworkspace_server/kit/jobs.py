"""Background jobs: rows in PostgreSQL, stored in the transaction of the change that needs them.

So a committed change never loses its job, and one that was rolled back never runs it. A job is retried for about a day,
and may run twice if a server dies during it. Its arguments are ids; it reads everything else when it runs, so that the
queue contains nothing confidential.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from psycopg.errors import RaiseException
from sqlalchemy import make_url, text

from .passes import Pass
from .postgres import APP_ROLE, ReadSession, WriteSession
from .stores import STORE_UNAVAILABLE
from .tasks import cancel_all

log = structlog.get_logger("jobs")

_POLL_SECONDS = 2.0  # new jobs are announced by NOTIFY; retries have to be polled
_RESTART_SECONDS = 2.0
_LATE_SECONDS = 5.0  # after the end of its jobs, in which a worker has to stop; then it is cancelled again
_HEARTBEAT_SECONDS, _STALLED_SECONDS = 5.0, 15.0
_TEND, _TENDING = "jobs.tend", "* * * * * */5"  # every five seconds (the last field)
_KEPT_HOURS = 30 * 24  # of failed jobs; others are deleted when they have succeeded
_MOST_ATTEMPTS = 35  # after 1, 2, 4 … 2048 seconds, then every hour: about a day
_MOST_WAIT_SECONDS = 3600

_AT_WORK = text(
    "SELECT task_name, args FROM procrastinate_jobs WHERE task_name = ANY(:names) AND status IN ('todo', 'doing')"
)

_OTHERS_WAIT = text("""
  SELECT EXISTS (
    SELECT FROM procrastinate_jobs j
    WHERE queue_name = :queue AND status = 'todo' AND lock IS DISTINCT FROM :lock
      AND (scheduled_at IS NULL OR scheduled_at <= now())
      AND NOT EXISTS (SELECT FROM procrastinate_jobs d WHERE d.lock = j.lock AND d.status = 'doing'))
""")
_SAVE, _RESTORE = text("SAVEPOINT enqueued"), text("ROLLBACK TO SAVEPOINT enqueued")

DEFAULT_QUEUE, SLOW_QUEUE, READING_QUEUE = "default", "slow", "reading"
SENDING_QUEUE, UNANSWERED_QUEUE = "sending", "unanswered"
# How many jobs of each a server runs at the same time. Those that send mostly wait for others' servers.
_QUEUES = {DEFAULT_QUEUE: 10, SLOW_QUEUE: 10, READING_QUEUE: 10, SENDING_QUEUE: 32, UNANSWERED_QUEUE: 32}

Function = Callable[..., Awaitable[None]]
Work = tuple[str, frozenset[tuple[str, str]]]  # name and arguments of a job


class Jobs:
    """The queue, and the worker that takes jobs from it. Any number of servers may work on one queue."""

    def __init__(self, url: str) -> None:
        self._app = App(
            connector=PsycopgConnector(
                conninfo=make_url(url).set(drivername="postgresql").render_as_string(hide_password=False),
                kwargs={"options": f"-c role={APP_ROLE} -c timezone=UTC", "connect_timeout": 5},
                min_size=1,
                max_size=10,  # each worker needs one to listen
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
            self._app.task(name=name, queue=queue)(_logging(name, function))
        else:
            self._app.task(name=name, queue=queue, retry=_Backoff())(function)

    async def enqueue(self, tx: WriteSession, name: str, **arguments: object) -> None:
        """Enqueue a job, which runs after the transaction commits. The arguments become strings."""
        connection = (await (await tx.connection()).get_raw_connection()).driver_connection
        job = self._app.configure_task(name, allow_unknown=False, connection=connection)
        await job.defer_async(**{key: str(value) for key, value in arguments.items()})

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
            await job.defer_async(**{key: str(value) for key, value in arguments.items()})
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

        self._app.periodic(cron=cron)(self._app.task(name=name, lock=name, queueing_lock=name)(work))

    async def at_work(self, tx: ReadSession, *names: str) -> set[Work]:
        """Return the jobs of these names that are running or pending, including failed ones that will be retried."""
        return {(row.task_name, frozenset(row.args.items())) for row in await tx.execute(_AT_WORK, {"names": [*names]})}

    @asynccontextmanager
    async def running(self, shutdown_seconds: float) -> AsyncIterator[None]:
        """Run jobs until the context ends. Jobs in progress then have `shutdown_seconds`; later they are retried."""
        async with self._app.open_async():
            workers = [asyncio.create_task(self._work(*queue, shutdown_seconds)) for queue in _QUEUES.items()]
            try:
                yield
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.wait(workers, timeout=shutdown_seconds + _LATE_SECONDS)
                await cancel_all(workers)

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
