"""Who calls: the access token, the session behind it, and the roles of the person."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cachetools import LRUCache, TTLCache

from ..kit.context import Call
from ..kit.errors import Unauthenticated
from ..kit.postgres import Database
from . import store
from .tokens import Claims, Tokens

_MOST_CACHED = 50_000
_FRESH_SECONDS = 1.0  # how long a revocation made by another process may go unnoticed
_LAST_USE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Principal:
    """A person's session and their role in each organization, as it was a moment ago."""

    user_id: UUID
    session_id: UUID
    roles: Mapping[UUID, str]


class Authenticator:
    """Finds the principal of a call.

    Both look-ups are cached: the check of a signature by a hash of the whole token, sessions and roles for a second. A
    caller that is refused on cached roles asks for `fresh` ones first, so that the cache never hides a new permission.
    """

    def __init__(self, db: Database, access_tokens: Tokens) -> None:
        self._db = db
        self._tokens = access_tokens
        self._claims: LRUCache[bytes, Claims] = LRUCache(_MOST_CACHED)
        self._principals: TTLCache[UUID, Principal] = TTLCache(_MOST_CACHED, _FRESH_SECONDS)
        self._changes = 0  # how often something had to be forgotten

    async def authenticate(self, call: Call) -> None:
        """Sets the call's principal. Raises Unauthenticated."""
        claims = self._check(call)
        principal = self._principals.get(claims.session_id) or await self._load(call, claims.session_id)
        if principal.user_id != claims.user_id:
            raise Unauthenticated
        self._set(call, principal)

    async def refresh(self, call: Call) -> None:
        """Reads the call's principal anew."""
        assert call.session_id is not None
        self._set(call, await self._load(call, call.session_id))

    def forget(self, user_id: UUID) -> None:
        """Makes the next call of this person read sessions and roles anew."""
        self._changes += 1
        for session_id, principal in list(self._principals.items()):
            if principal.user_id == user_id:
                self._principals.pop(session_id, None)

    def forget_org(self, org_id: UUID) -> None:
        """The same for everybody in an organization."""
        self._changes += 1
        for session_id, principal in list(self._principals.items()):
            if org_id in principal.roles:
                self._principals.pop(session_id, None)

    def _check(self, call: Call) -> Claims:
        values = call.metadata.get("authorization", ())
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        key = hashlib.sha256(token.encode()).digest()
        claims = self._claims.get(key)
        if claims is None:
            claims = self._claims[key] = self._tokens.check(token)
        if claims.expire_time <= time.time():
            raise Unauthenticated
        return claims

    async def _load(self, call: Call, session_id: UUID) -> Principal:
        changes = self._changes
        async with self._db.read() as tx:
            row = await store.find_principal(tx, session_id)
        if row is None:
            raise Unauthenticated
        if datetime.now(UTC) - row.last_use_time > _LAST_USE:
            async with self._db.write() as tx:
                await store.touch_session(tx, session_id, call.peer)
        principal = Principal(row.user_id, session_id, dict(zip(row.org_ids, row.roles, strict=True)))
        if changes == self._changes:  # else it may have been read before the change
            self._principals[session_id] = principal
        return principal

    @staticmethod
    def _set(call: Call, principal: Principal) -> None:
        call.principal = principal
        call.user_id = principal.user_id
        call.session_id = principal.session_id
