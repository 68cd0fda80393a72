"""Identifiers: UUIDv7, made by the server before the first write, in the order of their making."""

from uuid import UUID

from uuid_utils.compat import uuid7

from .errors import InvalidArgument


def new_id() -> UUID:
    return uuid7()


def parse_id(value: str, field: str) -> UUID:
    """The UUID in a request field; INVALID_ARGUMENT names the field when there is none."""
    try:
        return UUID(value)
    except ValueError:
        raise InvalidArgument({field: "must be a valid UUID"}) from None
