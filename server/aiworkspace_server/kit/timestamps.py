"""Times, and their conversion between Python and protobuf."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from .errors import InvalidArgument

# How much clocks of servers may differ: a server accepts a token of another one for so much longer.
LEEWAY = timedelta(seconds=60)
_EPOCH = datetime.fromtimestamp(0, UTC)
_END = datetime.max.replace(tzinfo=UTC)


def now() -> datetime:
    """Return the current time in UTC, in whole milliseconds, which both databases can store."""
    present = datetime.now(UTC)
    return present.replace(microsecond=present.microsecond // 1000 * 1000)


def is_over(time: datetime) -> bool:
    """Return whether the end of a token has passed by the clock of any server."""
    return now() >= time + LEEWAY


def after(time: datetime, duration: timedelta) -> datetime:
    """Return the time after an interval, at most the last time that exists."""
    return time + duration if duration < _END - time else _END


def timestamp(time: datetime) -> Timestamp:
    passed = time - _EPOCH  # a third of the cost of FromDatetime
    return Timestamp(seconds=passed.days * 86_400 + passed.seconds, nanos=passed.microseconds * 1000)


def parse_timestamp(value: Timestamp, field: str) -> datetime:
    """Return the time in a request field. Raises InvalidArgument, naming the field, if it is out of range."""
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument({field: "must be a time between the years 1 and 9999"}) from None
