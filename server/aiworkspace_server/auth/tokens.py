"""Access and refresh tokens: JWTs, each kind with a key, a type and an audience of its own."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import jwt

from ..kit.errors import Unauthenticated
from ..kit.ids import new_id

ISSUER = "aiworkspace"
_ALGORITHM = "HS256"
_CLAIMS = ["iss", "aud", "sub", "sid", "jti", "iat", "exp"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token that was checked says."""

    user_id: UUID
    session_id: UUID
    token_id: UUID
    expire_time: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token."""

    token: str
    expire_time: datetime


class Tokens:
    """Signs and checks tokens of one kind."""

    def __init__(self, secret: str, kind: str, seconds: int) -> None:
        self._secret = secret
        self._type = f"{kind}+jwt"
        self._audience = f"{ISSUER}/{kind}"
        self._key_id = sha256(f"{self._type}:{secret}".encode()).hexdigest()[:8]
        self.lifetime = timedelta(seconds=seconds)

    def issue(self, user_id: UUID, session_id: UUID, time: datetime, token_id: UUID | None = None) -> Issued:
        """The same arguments, token_id included, give the same token."""
        expire_time = time + self.lifetime
        payload: dict[str, Any] = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": str(user_id),
            "sid": str(session_id),
            "jti": str(token_id or new_id()),
            "iat": time,
            "exp": expire_time,
        }
        headers = {"typ": self._type, "kid": self._key_id}
        return Issued(jwt.encode(payload, self._secret, _ALGORITHM, headers), expire_time)

    def check(self, token: str) -> Claims:
        """The claims of a token that is ours, of this kind, and not expired. Raises Unauthenticated otherwise."""
        try:
            checked = jwt.decode_complete(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                audience=self._audience,
                issuer=ISSUER,
                options={"require": _CLAIMS, "strict_aud": True},
            )
            header, claims = checked["header"], checked["payload"]
            if (header.get("typ"), header.get("kid")) != (self._type, self._key_id):
                raise Unauthenticated
            return Claims(UUID(claims["sub"]), UUID(claims["sid"]), UUID(claims["jti"]), float(claims["exp"]))
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError):
            raise Unauthenticated from None
