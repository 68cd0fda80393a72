"""Access and refresh tokens: JWTs. Each kind has its own keys, type and audience."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

from ..kit.errors import Unauthenticated
from ..kit.ids import new_id
from ..kit.timestamps import LEEWAY
from .keys import Key

ISSUER = "aiworkspace"
_HEADERS = {"alg", "typ", "kid"}  # our tokens have no others; some would bring a key along or change the format
_CLAIMS = ["iss", "aud", "sub", "sid", "jti", "iat", "exp"]


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a verified token."""

    user_id: UUID
    session_id: UUID
    token_id: UUID
    expire_time: float  # seconds since the epoch
    key_id: str  # key that verified it


@dataclass(frozen=True, slots=True)
class Issued:
    """A new token."""

    token: str
    expire_time: datetime


class TokenExpired(Unauthenticated):
    """The token is valid but has expired."""


class Tokens:
    """Signs and checks tokens of one kind."""

    def __init__(self, keys: Sequence[Key], kind: str, seconds: int) -> None:
        self._type = f"{kind}+jwt"
        self._audience = f"{ISSUER}/{kind}"
        self.lifetime = timedelta(seconds=seconds)
        # Not of refresh tokens: setting a clock back would end the sessions of tokens that were issued before.
        self._checks_issue_time = kind == "access"
        self.use(keys)

    def use(self, keys: Sequence[Key]) -> None:
        """Sign with the first of these keys from now on, and accept only tokens of these keys."""
        self._signing = keys[0]
        self.keys = {key.id: key for key in keys}

    def issue(self, user_id: UUID, session_id: UUID, time: datetime, token_id: UUID | None = None) -> Issued:
        """Return a token. Equal arguments, including `token_id`, give the same token, except for ES256 signatures."""
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
        key = self._signing
        assert key.signing is not None
        headers = {"typ": self._type, "kid": key.id}
        return Issued(jwt.encode(payload, key.signing, key.algorithm, headers), expire_time)

    def check(self, token: str) -> Claims:
        """Return the claims of a valid token of this kind.

        Raises TokenExpired if the token is otherwise valid, else Unauthenticated.
        """
        try:
            header = jwt.get_unverified_header(token)
            key = self.keys.get(header.get("kid", ""))
            if key is None or header.keys() != _HEADERS or header["typ"] != self._type:
                raise Unauthenticated
            claims = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                audience=self._audience,
                issuer=ISSUER,
                leeway=LEEWAY,
                options={"require": _CLAIMS, "strict_aud": True, "verify_iat": self._checks_issue_time},
            )
            ids = UUID(claims["sub"]), UUID(claims["sid"]), UUID(claims["jti"])
            return Claims(*ids, float(claims["exp"]), key.id)
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError):
            raise Unauthenticated from None
