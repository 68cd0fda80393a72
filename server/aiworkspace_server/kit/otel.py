"""Traces by OpenTelemetry, sent to a collector. Statements, content and texts of errors stay here.

A trace begins with a call: by chance, or because its caller, who has signed in, records one of its own. Calls that are
not recorded cost next to nothing: the instrumentation of the databases is told to do nothing meanwhile.
"""

import asyncio
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import Span as Recorded
from opentelemetry.util.types import Attributes

from aiworkspace.v1.options_pb2 import ACCESS_MODE_PUBLIC

from .context import Call, current_trace_id
from .contract import Method
from .ids import new_id_text
from .interceptors import Handler, outcome_of
from .tracing import Span, Tracing, Value

_TRACEPARENT = re.compile("00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_EXPORT_SECONDS = 2.0
# Codes that are the server's fault, as the conventions for servers have it.
_FAULTS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
_STATEMENTS = {"db.statement", "db.statement.parameters", "db.query.text"}


class OtelTracing(Tracing):
    """Sends spans to a collector until it is closed."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], ratio: float, service_name: str) -> None:
        """`endpoint`: of OTLP over HTTP, without a path. `ratio`: of the calls that are recorded by chance."""
        resource = Resource({"service.name": service_name, "service.instance.id": new_id_text()})
        self._ratio = ratio
        self._provider = TracerProvider(sampler=_Inside(), resource=resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", headers=dict(headers), timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(_Reticent(exporter)))
        self._tracer = self._provider.get_tracer("aiworkspace")
        self._instrumentors = PsycopgInstrumentor(), PymongoInstrumentor(), RedisInstrumentor()
        self._connects = {kind: vars(kind)["connect"] for kind in (psycopg.Connection, psycopg.AsyncConnection)}
        for instrumentor in self._instrumentors:
            instrumentor.instrument(tracer_provider=self._provider)
        with suppress_instrumentation():
            self._unrecorded = contexts.get_current()

    def step(self, method: Method, proceed: Handler) -> Handler:
        public = method.access.mode == ACCESS_MODE_PUBLIC

        async def traced(call: Call, request: Any, parent: SpanContext | None) -> Any:
            about: dict[str, Value] = {"rpc.system.name": "grpc", "rpc.method": method.path[1:]}
            with self._record(method.path[1:], _inside(parent), SpanKind.SERVER, about) as span:
                code = "OK"
                try:
                    return await proceed(call, request)
                except BaseException as error:
                    code, reason = outcome_of(error)
                    if code in _FAULTS:
                        _Span(span).fail(reason or code)
                    raise
                finally:
                    span.set_attribute("rpc.status_code", code)

        async def handler(call: Call, request: Any) -> Any:
            parent = _parse(given) if (given := call.header("traceparent")) else None
            if parent:
                current_trace_id.set(f"{parent.trace_id:032x}")
            if public or parent is None:  # a caller without credentials decides nothing
                recorded, parent = random.random() < self._ratio, None  # nosec B311 - nobody gains by a guess
            else:
                recorded = parent.trace_flags.sampled
            if recorded:
                return await traced(call, request, parent)
            token = contexts.attach(self._unrecorded)
            try:
                return await proceed(call, request)
            finally:
                contexts.detach(token)

        return handler

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, client: bool = False, parent: str = ""
    ) -> Iterator[Span]:
        inside = _inside(_parse(parent)) if parent else contexts.get_current()
        if not get_current_span(inside).get_span_context().trace_flags.sampled:
            yield Span()
            return
        kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
        with self._record(name, inside, kind, attributes or {}) as span:
            yield _Span(span)

    @contextmanager
    def _record(
        self, name: str, inside: Context, kind: SpanKind, attributes: Mapping[str, Value]
    ) -> Iterator[Recorded]:
        span = self._tracer.start_span(name, inside, kind, dict(attributes), record_exception=False)
        token = contexts.attach(set_span_in_context(span, inside))
        current_trace_id.set(f"{span.get_span_context().trace_id:032x}")
        try:
            yield span
        finally:
            contexts.detach(token)
            span.end()

    @property
    def carried(self) -> str:
        span = get_current_span().get_span_context()
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-01" if span.is_valid and span.trace_flags.sampled else ""

    async def aclose(self) -> None:
        for instrumentor in self._instrumentors:
            instrumentor.uninstrument()
        for kind, connect in self._connects.items():  # else subclasses, such as ours, would connect as this class
            kind.connect = connect  # type: ignore[method-assign]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), 2 * _EXPORT_SECONDS)


class _Span(Span):
    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def set(self, attributes: Mapping[str, Value]) -> None:
        self._recorded.set_attributes(dict(attributes))

    def fail(self, kind: str) -> None:
        self._recorded.set_attribute("error.type", kind)
        self._recorded.set_status(StatusCode.ERROR)


class _Inside(Sampler):
    """Records what is inside a recorded span, and the calls that were chosen. Not what the server does of its own."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        parent = get_current_span(parent_context).get_span_context()
        recorded = parent.trace_flags.sampled if parent.is_valid else kind == SpanKind.SERVER
        return SamplingResult(Decision.RECORD_AND_SAMPLE if recorded else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "inside recorded calls"


class _Reticent(SpanExporter):
    """Leaves out what may hold what people wrote, or who they are: statements, and texts of errors."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([_reticent(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def _reticent(span: ReadableSpan) -> ReadableSpan:
    attributes = {name: value for name, value in (span.attributes or {}).items() if name not in _STATEMENTS}
    for event in span.events:
        if event.attributes and (kind := event.attributes.get("exception.type")):
            attributes["error.type"] = kind
    return ReadableSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        attributes,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _parse(text: str) -> SpanContext | None:
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))


def _inside(parent: SpanContext | None) -> Context:
    return set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
