"""Traces: what a call, a run or a job did, and how long each part took. Off unless a collector is configured.

`otel.py` has the real thing, which is imported only then: OpenTelemetry is an extra.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from ..settings import Settings, SettingsError
from .contract import Method
from .interceptors import Handler

Value = str | int | float | bool


class Span:
    """A span that nobody records."""

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes, never content or secrets."""

    def fail(self, kind: str) -> None:
        """Mark it as failed. `kind` is one of few words, such as a reason of the contract."""


_NOBODYS = nullcontext(Span())


class Tracing:
    """Traces nothing."""

    def step(self, method: Method, proceed: Handler) -> Handler:
        """The step that makes the span of a call."""
        return proceed

    def span(
        self, name: str, attributes: Mapping[str, Value] | None = None, *, client: bool = False, parent: str = ""
    ) -> AbstractContextManager[Span]:
        """A span inside the current one or inside `parent`, which `carried` returned elsewhere. Without one, nothing.

        `client`: it is a request to another server.
        """
        return _NOBODYS

    @property
    def carried(self) -> str:
        """The current span as text, to go on from in another process. Empty if nobody records it."""
        return ""

    async def aclose(self) -> None:
        """Send what is left."""


def make_tracing(settings: Settings) -> Tracing:
    """Return what the settings want. To be called before any database is connected, since that is instrumented."""
    endpoint, headers = settings.otel_exporter_otlp_endpoint, settings.otel_exporter_otlp_headers
    if endpoint is None:
        return Tracing()
    try:
        from .otel import OtelTracing
    except ImportError:
        advice = "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry: pip install 'aiworkspace[otel]'"
        raise SettingsError([advice]) from None
    pairs = (pair.partition("=") for pair in headers.get_secret_value().split(",")) if headers else ()
    named = {name.strip(): value.strip() for name, _, value in pairs}
    return OtelTracing(endpoint, named, settings.otel_traces_sampler_arg, settings.otel_service_name)
