"""Structured logs: JSON for machines, columns for a terminal."""

import logging
import sys

import orjson
import structlog


def configure(form: str, level: str, **always: object) -> None:
    """`form` is "json", "console", or "auto": console when standard error is a terminal. `always` is in every line."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        lambda logger, method, fields: {**always, **fields},
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, *(_console() if console else _json())],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
        if console
        else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("grpc._cython.cygrpc").addFilter(_matters)


def _console() -> list[structlog.typing.Processor]:
    # Plain tracebacks: the others print local variables, which hold what must not be logged.
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]


def _json() -> list[structlog.typing.Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=orjson.dumps)]


# Of gRPC: that a header, which may hold a credential and is quoted, is not UTF-8, and that a caller has gone who was
# being answered.
_IMMATERIAL = "Invalid encoding", "ExecuteBatchError raised in core"


def _matters(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_IMMATERIAL)
