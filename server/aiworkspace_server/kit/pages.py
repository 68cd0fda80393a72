"""Page tokens: signed, and bound to the caller, the method and every other parameter of the request."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import orjson
from google.protobuf.message import Message

from .context import current
from .errors import InvalidArgument

DEFAULT_SIZE = 50
_MAC_BYTES = 16

Row = TypeVar("Row")


class Pages:
    """Makes and checks page tokens. A token holds the sort key of the last row of its page, and grants no access."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def limit(self, request: Any) -> int:
        """Return how many rows to read: one more than a page has, which shows whether there is another page."""
        return (request.page_size or DEFAULT_SIZE) + 1

    def after(self, request: Any) -> list[Any] | None:
        """Return the sort key after which this page begins, None for the first page."""
        if not request.page_token:
            return None
        try:
            token = base64.urlsafe_b64decode(request.page_token + "=" * (-len(request.page_token) % 4))
        except (binascii.Error, ValueError):
            raise self.refused() from None
        mac, position = token[:_MAC_BYTES], token[_MAC_BYTES:]
        if _encode(token) != request.page_token:
            raise self.refused()  # the decoder ignores unknown characters, so that other spellings would be accepted
        if not hmac.compare_digest(mac, self._mac(request, position)):
            raise self.refused()
        key: list[Any] = orjson.loads(position)
        return key

    def after_id(self, request: Any) -> UUID | None:
        """Return the same for lists that are sorted by id."""
        key = self.after(request)
        return UUID(key[0]) if key else None

    def cut(
        self, request: Any, rows: Sequence[Row], key: Callable[[Row], Sequence[object]]
    ) -> tuple[Sequence[Row], str]:
        """Return the rows of the page, and the token of the next page or an empty string.

        `key` returns the sort key of a row: strings, integers and UUIDs.
        """
        size = self.limit(request) - 1
        if len(rows) <= size:
            return rows, ""
        return rows[:size], self.token(request, key(rows[size - 1]))

    def token(self, request: Any, key: Sequence[object]) -> str:
        position = orjson.dumps(key)
        return _encode(self._mac(request, position) + position)

    def _mac(self, request: Message, position: bytes) -> bytes:
        bound = type(request)()
        bound.CopyFrom(request)
        bound.ClearField("page_token")
        bound.ClearField("page_size")
        call = current.get()
        scope = f"{call.user_id}{call.method.path}".encode()
        content = bound.SerializeToString(deterministic=True)
        return hmac.digest(self._key, scope + hashlib.sha256(content).digest() + position, "sha256")[:_MAC_BYTES]

    def refused(self) -> InvalidArgument:
        """Return the error for a token that does not belong to this list."""
        return InvalidArgument({"page_token": "is not a token of this list; start again without one"})


def _encode(token: bytes) -> str:
    return base64.urlsafe_b64encode(token).rstrip(b"=").decode()
