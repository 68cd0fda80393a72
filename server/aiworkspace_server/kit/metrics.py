"""The metrics of a server, in the format of Prometheus. docs/metrics.md has a line for each.

With a directory, each process keeps its values in files that are named by its number. A process that replaces a dead
one continues its counters, and one scrape of the directory covers all processes. Labels come from closed sets, so
that no caller can make a new time series, and never name an organization or a person.
"""

import os
from functools import partial
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

# What a gauge of several processes is: the sum of those that live, the least, the most, or the one that was set last.
_OfAll = Literal["livesum", "livemin", "livemax", "livemostrecent"]

OTHER = "other"  # the label of what is in no closed set
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From a cached call to the longest answer.
_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_FIRST_TOKEN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 60)


def keep_in_files(directory: Path, number: int) -> None:
    """Keep the values of this process in files of the directory, from before the first `Metrics` on.

    `number`: of the process among those that share the directory. The files of one that died are continued.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)  # where the library looks for it
    values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


def forget_process(directory: Path, number: int) -> None:
    """Remove the gauges of a process that has ended. Its counters stay."""
    mark_process_dead(number, str(directory))  # type: ignore[no-untyped-call]


def read_files(directory: Path) -> bytes:
    """Return the metrics of all processes that share the directory, as a response to Prometheus."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.unary_calls = 0  # in progress, in this process alone: a stop waits for them

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str, of_all: _OfAll = "livesum") -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=of_all)

        # What every process reads from the database alike.
        latest = partial(gauge, of_all="livemostrecent")

        self.rpc_seconds = Histogram(
            "aiws_rpc_seconds",
            "Calls, by the time from their headers to their status.",
            ("method", "code"),
            registry=registry,
            buckets=_CALL_SECONDS,
        )
        self.streams = gauge("aiws_streams", "Calls in progress whose response is a stream.", "method")
        self.runs = gauge("aiws_runs", "Runs in progress.")
        attempt = "provider", "model"
        self.attempts = counter("aiws_attempts", "Requests to providers that have ended.", *attempt, "outcome")
        self.first_token_seconds = Histogram(
            "aiws_first_token_seconds",
            "Attempts, by the time from the request to the first content.",
            attempt,
            registry=registry,
            buckets=_FIRST_TOKEN_SECONDS,
        )
        self.tokens = counter("aiws_tokens", "Tokens of attempts, as they are charged.", *attempt, "kind")
        self.cost_nanos = counter("aiws_cost_nanos", "Cost of attempts in nano-units.", *attempt, "currency")
        self.breaker_open = gauge("aiws_breaker_open", "Circuits of accounts and models that are open.", "provider")
        self.waiting = gauge("aiws_waiting", "Attempts that wait for a slot.", "provider")
        self.taken_over = counter("aiws_taken_over", "Runs of other servers that this one took over.")
        self.jobs = latest("aiws_jobs", "Jobs in the queue; those that succeed leave it.", "task", "state")
        self.job_oldest_seconds = latest("aiws_job_oldest_seconds", "How long the job that waits longest is due.")
        self.documents = latest("aiws_documents", "Versions of documents that are not ready.", "step", "state")
        self.pool_used = gauge("aiws_pool_used", "Connections that are in use.", "store")
        text = "Whether the store answers: 0 if any process gets no answer."
        self.store_up = gauge("aiws_store_up", text, "store", of_all="livemin")
        text = "How late the event loop was at most in the last second, of the process where it was latest."
        self.loop_lag_seconds = gauge("aiws_loop_lag_seconds", text, of_all="livemax")
