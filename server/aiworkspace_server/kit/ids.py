"""Identifiers: UUIDv7, created by the server before the first write, and ordered by creation time."""

from datetime import UTC, datetime
from functools import lru_cache
from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid7

from .errors import InvalidArgument

_TEXT_LENGTH = 36  # of the usual spelling; others, which may be long, are not remembered
_TIME_SHIFT = 80  # below the milliseconds are version, variant and chance
_BELOW_TIME = (1 << _TIME_SHIFT) - 1
_LAST_MILLISECOND = 4102444800_000  # in 2100; callers may name any UUID


def new_id() -> UUID:
    return uuid7()


def id_after(earlier: UUID | None) -> UUID:
    """Return a new id that is greater than an earlier one, though the clock that made that may have been ahead."""
    made = new_id()
    if earlier is None or made.int > earlier.int:
        return made
    return UUID(int=(earlier.int >> _TIME_SHIFT) + 1 << _TIME_SHIFT | made.int & _BELOW_TIME)


def new_id_text() -> str:
    """Return a new id as text, at a fraction of the cost of `str(new_id())`."""
    return str(uuid_utils.uuid7())


def time_of(made: UUID) -> datetime:
    """Return when an id of `new_id` was created, to the millisecond. Any other UUID has some such time too."""
    milliseconds = min(made.int >> _TIME_SHIFT, _LAST_MILLISECOND)
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def first_id_at(time: datetime) -> UUID:
    """Return the lowest id that can be created at a time."""
    return UUID(int=max(0, int(time.timestamp() * 1000)) << _TIME_SHIFT)


_parse = lru_cache(4096)(UUID)  # authorization and the handler both read the ids of a request


def parse_id(value: str, field: str) -> UUID:
    """Parse the UUID in a request field. Raises InvalidArgument, naming the field, if it is not one."""
    try:
        return _parse(value) if len(value) == _TEXT_LENGTH else UUID(value)
    except ValueError:
        raise InvalidArgument({field: "must be a valid UUID"}) from None
