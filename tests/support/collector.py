"""A collector of traces that speaks OTLP over HTTP."""

from collections.abc import Sequence
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import until_true


class Collector:
    """Keeps all spans that it gets, and the bytes of them."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.servers: dict[bytes, str] = {}  # by the ids of spans
        self.received = b""
        self.headers: list[dict[str, str]] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        self.received += body
        for resource in trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
            server = {each.key: each.value.string_value for each in resource.resource.attributes}["service.instance.id"]
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
                self.servers |= dict.fromkeys((span.span_id for span in scope.spans), server)
        return web.Response(body=b"", content_type="application/x-protobuf")

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    async def trace(self, trace_id: str, *names: str) -> Sequence[Span]:
        """The spans of a trace, once those with these names have come."""
        await until_true(lambda: {span.name for span in self.of(trace_id)} >= set(names))
        return self.of(trace_id)


def attributes_of(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}
