"""Device tokens: they make a device known at its next sign-in, also after its sessions have ended.

A token is valid for one account and proves an earlier sign-in. It does not replace the password.
"""

import base64
import binascii
import hmac
import struct
from datetime import timedelta
from uuid import UUID

from ..kit.ids import new_id
from ..kit.timestamps import LEEWAY, now

LIFETIME = timedelta(days=400)  # the longest that browsers keep a cookie
_CONTENT = struct.Struct(">B16s16sQ")  # version, user id, device id, issue time in seconds since the epoch
_VERSION = 1


class Devices:
    """Signs and checks device tokens."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, user_id: UUID, device_id: UUID | None) -> str:
        """Return a token of the device, or of a new device."""
        device = (device_id or new_id()).bytes
        content = _CONTENT.pack(_VERSION, user_id.bytes, device, int(now().timestamp()))
        return base64.urlsafe_b64encode(content + self._sign(content)).rstrip(b"=").decode()

    def check(self, token: str, user_id: UUID) -> UUID | None:
        """Return the device of a token; None if the token is forged, expired or of another account."""
        try:
            decoded = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            return None
        content, signature = decoded[: _CONTENT.size], decoded[_CONTENT.size :]
        if not hmac.compare_digest(signature, self._sign(content)):
            return None
        version, user, device, seconds = _CONTENT.unpack(content)
        expired = now().timestamp() - seconds >= (LIFETIME + LEEWAY).total_seconds()
        return None if (version, user) != (_VERSION, user_id.bytes) or expired else UUID(bytes=device)

    def _sign(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")
