"""Identifiers: UUIDv7, made by the server before the first write, in the order of their making."""

from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid7

from .errors import InvalidArgument

_TEXT_LENGTH = 36  # of the usual spelling; others, which may be long, are not remembered
_LAST_MILLISECOND = 4102444800_000  # in 2100; callers may name any UUID


def new_id() -> UUID:
    return uuid7()


def new_id_text() -> str:
    """Return a new id as text, at a fraction of the cost of `str(new_id())`."""
    return str(uuid_utils.uuid7())


def time_of(made: UUID) -> datetime:
    """Return when an id of `new_id` was made, in milliseconds. Any UUID has some such time."""
    milliseconds = min(made.int >> 80, _LAST_MILLISECOND)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def first_id_at(time: datetime) -> UUID:
    """Return the least id that can be made at a time."""
    return UUID(int=max(0, int(time.timestamp() * 1000)) << 80)


_parse = lru_cache(4096)(UUID)  # authorization and the handler both read the ids of a request


def parse_id(value: str, field: str) -> UUID:
    """The UUID in a request field; INVALID_ARGUMENT names the field when there is none."""
    try:
        return _parse(value) if len(value) == _TEXT_LENGTH else UUID(value)
    except ValueError:
        raise InvalidArgument({field: "must be a valid UUID"}) from None
