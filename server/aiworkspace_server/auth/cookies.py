"""Cookies of browsers: tokens where no script can read them, and the proof that a call comes from the page itself.

A browser sends cookies along with whatever it is told to send, by whichever page; the CSRF token it does not.
"""

import hmac
import math
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from ..kit.context import Call
from ..kit.errors import Unauthenticated
from ..kit.timestamps import now
from . import devices
from .tokens import Issued

# The prefixes are promises that browsers enforce: set by this host, over TLS, and with __Host- for all of its paths.
ACCESS = "__Host-aiws_access"
REFRESH = "__Secure-aiws_refresh"
DEVICE = "__Host-aiws_device"
_REFRESH_PATH = "/aiworkspace.v1.AuthService/Refresh"


@dataclass(frozen=True, slots=True)
class Cookie:
    name: str
    value: str
    seconds: int  # 0 makes the browser forget it
    path: str = "/"

    def __str__(self) -> str:
        rules = f"Path={self.path}; Max-Age={self.seconds}; HttpOnly; Secure; SameSite=Strict"
        return f"{self.name}={self.value}; {rules}"


def access_cookie(issued: Issued) -> Cookie:
    return Cookie(ACCESS, issued.token, _seconds_until(issued.expire_time))


def refresh_cookie(issued: Issued) -> Cookie:
    return Cookie(REFRESH, issued.token, _seconds_until(issued.expire_time), _REFRESH_PATH)


def device_cookie(token: str) -> Cookie:
    return Cookie(DEVICE, token, int(devices.LIFETIME.total_seconds()))


SIGNED_OUT = Cookie(ACCESS, "", 0), Cookie(REFRESH, "", 0, _REFRESH_PATH)


async def send(call: Call, cookies: Iterable[Cookie]) -> None:
    """Sends all cookies of an answer. They go ahead of it, so this is for once, when nothing can fail any more."""
    await call.context.send_initial_metadata(tuple(("set-cookie", str(cookie)) for cookie in cookies))


def tokens(call: Call) -> Mapping[str, str]:
    """The tokens that came as cookies, by the cookie's name.

    Raises Unauthenticated when one came twice, or together with a bearer token: then it is not clear who calls.
    """
    found: dict[str, str] = {}
    for name, value in _pairs(call):
        if name in (ACCESS, REFRESH):
            if name in found or "authorization" in call.metadata:
                raise Unauthenticated
            found[name] = value
    return found


def device_token(call: Call) -> str:
    """The device token that came as a cookie, or nothing."""
    return next((value for name, value in _pairs(call) if name == DEVICE), "")


def _pairs(call: Call) -> Iterator[tuple[str, str]]:
    for header in call.metadata.get("cookie", ()):
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            yield name, value


class CsrfTokens:
    """What a page shows, besides its cookies, to call for its session."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, session_id: UUID) -> str:
        digest = hmac.digest(self._key, session_id.bytes, "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    def check(self, call: Call, session_id: UUID) -> None:
        """Raises Unauthenticated unless the call shows the one of the session."""
        given = call.metadata.get("x-csrf-token", ())
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self.of(session_id).encode()):
            raise Unauthenticated


def _seconds_until(time: datetime) -> int:
    return max(0, math.ceil((time - now()).total_seconds()))
