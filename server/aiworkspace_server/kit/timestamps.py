"""Times between Python and protobuf."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from .errors import InvalidArgument

# How far apart the clocks of servers may be. What one of them signs, none of the others takes for expired or early.
LEEWAY = timedelta(seconds=60)
_END = datetime.max.replace(tzinfo=UTC)


def now() -> datetime:
    """The present in UTC, in whole milliseconds: what both databases can hold."""
    present = datetime.now(UTC)
    return present.replace(microsecond=present.microsecond // 1000 * 1000)


def is_over(time: datetime) -> bool:
    """Whether the end of a token has passed by the clock of any server."""
    return now() >= time + LEEWAY


def after(time: datetime, duration: timedelta) -> datetime:
    """The time after so long, or the last one that there is."""
    return time + duration if duration < _END - time else _END


def timestamp(time: datetime) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result


def parse_timestamp(value: Timestamp, field: str) -> datetime:
    """The time in a request field; INVALID_ARGUMENT names the field when no calendar has it."""
    try:
        return value.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument({field: "must be a time between the years 1 and 9999"}) from None
