"""Conversion of Python values to the contract's types."""

import uuid
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def new_request_id() -> str:
    """Return a new request_id, with which a call can be repeated without taking effect twice."""
    return str(uuid.uuid4())


def timestamp(moment: datetime | None) -> Timestamp | None:
    """Convert a time. One without a time zone is local time, as everywhere in Python."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(UTC))
    return stamp
