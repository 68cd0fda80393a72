"""Cookies for browsers: tokens that scripts cannot read, and CSRF tokens.

A browser sends cookies with every request, whichever page causes it. It does not send the CSRF token by itself, so the
token proves that the call comes from the page of the session.
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

# Browsers enforce the prefixes: set by this host, over TLS, and with __Host- for all of its paths.
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
    """Send all cookies of a response, ahead of it. Must be called once, after everything that can fail."""
    await call.context.send_initial_metadata(tuple(("set-cookie", str(cookie)) for cookie in cookies))


def tokens(call: Call) -> Mapping[str, str]:
    """Return the tokens that came as cookies, by the cookie's name.

    Raises Unauthenticated if one came twice, or together with a bearer token: the caller would be ambiguous.
    """
    found: dict[str, str] = {}
    if "cookie" not in call.metadata:
        return found
    for name, value in _pairs(call):
        if name in (ACCESS, REFRESH):
            if name in found or "authorization" in call.metadata:
                raise Unauthenticated
            found[name] = value
    return found


def device_token(call: Call) -> str:
    """Return the device token that came as a cookie, or an empty string."""
    return next((value for name, value in _pairs(call) if name == DEVICE), "")


def _pairs(call: Call) -> Iterator[tuple[str, str]]:
    for header in call.metadata.get("cookie", ()):
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            yield name, value


class CsrfTokens:
    """Makes and checks the token that a page sends beside its cookies."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, session_id: UUID) -> str:
        digest = hmac.digest(self._key, session_id.bytes, "sha256")
        return urlsafe_b64encode(digest).rstrip(b"=").decode()

    def check(self, call: Call, session_id: UUID) -> None:
        """Raise Unauthenticated unless the call has the CSRF token of the session."""
        given = call.metadata.get("x-csrf-token", ())
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self.of(session_id).encode()):
            raise Unauthenticated


def _seconds_until(time: datetime) -> int:
    return max(0, math.ceil((time - now()).total_seconds()))
