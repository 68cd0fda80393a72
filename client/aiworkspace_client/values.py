"""Python values as the contract's types."""

import uuid
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def new_request_id() -> str:
    """An id under which a call can be repeated without taking effect twice."""
    return str(uuid.uuid4())


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A point in time; one without a time zone is local time, as everywhere in Python."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp
