"""Authentication: the credentials of a call, their session or API key, and the owner's memberships."""

import hashlib
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

from ..kit.caches import TtlCache
from ..kit.call_limits import CallLimits
from ..kit.context import Call
from ..kit.errors import Unauthenticated
from ..kit.postgres import Database
from ..kit.timestamps import LEEWAY
from . import cookies, store
from .api_keys import KEY_PREFIX, is_key, secret_hash
from .authority import KeyScope, Principal, read_memberships
from .cookies import CsrfTokens
from .failures import Failures
from .tokens import Claims, TokenExpired, Tokens

_MOST_CACHED = 50_000
_FRESH_SECONDS = 1.0  # how long a revocation made by another process may go unnoticed
_CHECKED_SECONDS = 900.0  # after which the signature of a token is checked again
_LAST_USE = timedelta(minutes=1)


class Authenticator:
    """Finds the principal of a call.

    Verified signatures are cached by a hash of the whole token, principals for a second. Before a caller is refused
    on cached roles, they are read again, so that the cache never hides a new permission.
    """

    def __init__(
        self,
        db: Database,
        access_tokens: Tokens,
        csrf_tokens: CsrfTokens,
        failures: Failures,
        call_limits: CallLimits,
    ) -> None:
        self._db = db
        self._call_limits = call_limits
        self._tokens = access_tokens
        self._csrf_tokens = csrf_tokens
        self._failures = failures
        self._claims: TtlCache[bytes, Claims] = TtlCache(_MOST_CACHED, _CHECKED_SECONDS)
        self.remembered: TtlCache[UUID | bytes, Principal] = TtlCache(_MOST_CACHED, _FRESH_SECONDS)
        self._changes = 0  # counts invalidations of the caches

    async def authenticate(self, call: Call) -> None:
        """Set the call's principal. Raises Unauthenticated, or RateLimited after too many failures."""
        cookie = cookies.tokens(call).get(cookies.ACCESS)
        token = _bearer(call) if cookie is None else cookie
        if token.startswith(KEY_PREFIX) and cookie is None:
            await self._use_key(call, token)
            return
        claims = await self._check(call, token)
        if cookie is not None:
            self._csrf_tokens.check(call, claims.session_id)
        if self._failures.has_ended(claims.session_id):
            raise Unauthenticated
        principal = self.remembered.get(claims.session_id) or await self._load_session(call, claims.session_id)
        if principal.user_id != claims.user_id:
            raise Unauthenticated
        _identify(call, principal)

    async def refresh(self, call: Call) -> None:
        """Read the call's principal again. Raises Unauthenticated if its credentials have ended."""
        if call.session_id:
            _identify(call, await self._load_session(call, call.session_id))
        else:
            _identify(call, await self._load_key(call, secret_hash(_bearer(call))))

    async def recheck(self, call: Call) -> None:
        """Check the credentials of an ongoing call, with cached principals. Expiry of its token does not count."""
        principal = self.remembered.get(call.session_id or secret_hash(_bearer(call)))
        if principal:
            _identify(call, principal)
        else:
            await self.refresh(call)

    def forget(self, user_id: UUID) -> None:
        """Drop the cached principals of a person."""
        self._changes += 1
        self.remembered.remove_where(lambda _, principal: principal.user_id == user_id)

    def forget_org(self, org_id: UUID) -> None:
        """Drop the cached principals of everybody in an organization."""
        self._changes += 1
        self.remembered.remove_where(lambda _, principal: org_id in principal.memberships)

    async def _check(self, call: Call, token: str) -> Claims:
        key = hashlib.sha256(token.encode()).digest()
        claims = self._claims.get(key)
        if claims is None or claims.key_id not in self._tokens.keys:  # a retired key must not live on in the cache
            claims = self._claims[key] = await self._failures.checked(call.address, lambda: self._tokens.check(token))
        if claims.expire_time + LEEWAY.total_seconds() <= time.time():
            raise TokenExpired
        return claims

    async def _load_session(self, call: Call, session_id: UUID) -> Principal:
        changes = self._changes
        row = await store.find_principal(self._db, session_id)
        if row is None:
            self._failures.note_end(session_id)
            raise Unauthenticated
        if datetime.now(UTC) - row.last_use_time > _LAST_USE:
            async with self._db.write() as tx:
                await store.touch_session(tx, session_id, call.address)
        principal = Principal(row.user_id, session_id, None, read_memberships(row.memberships), row.verified)
        self._remember(session_id, principal, changes)
        return principal

    async def _use_key(self, call: Call, key: str) -> None:
        digest = secret_hash(key)
        principal = self.remembered.get(digest)
        if principal is None:
            async with self._failures.attempt(call.address, digest):
                if not is_key(key):
                    raise Unauthenticated
                principal = await self._load_key(call, digest)
        _identify(call, principal)

    async def _load_key(self, call: Call, digest: bytes) -> Principal:
        changes = self._changes
        row = await store.find_api_key(self._db, digest)
        if row is None:
            raise Unauthenticated
        if row.last_use_time is None or datetime.now(UTC) - row.last_use_time > _LAST_USE:
            async with self._db.write(row.org_id) as tx:
                await store.touch_api_key(tx, row.id, call.address)
        workspaces = None if row.workspace_ids is None else frozenset(row.workspace_ids)
        scope = KeyScope(row.id, frozenset(row.permissions), workspaces)
        membership = read_memberships(row.memberships)[row.org_id]  # a key works only in its own organization
        own = self._call_limits.resolve(row.call_ceilings, row.account_limits, row.key_limits, f"key {row.line_id}")
        principal = Principal(row.user_id, None, scope, {row.org_id: membership}, own_limits=own or None)
        self._remember(digest, principal, changes)
        return principal

    def _remember(self, key: UUID | bytes, principal: Principal, changes: int) -> None:
        if changes == self._changes:  # otherwise it may have been read before a change
            self.remembered[key] = principal


def _identify(call: Call, principal: Principal) -> None:
    call.user_id, call.session_id = principal.user_id, principal.session_id
    call.own_limits = principal.own_limits
    call.put(Principal, principal)


def _bearer(call: Call) -> str:
    """Return the token of the call's authorization header. Raises Unauthenticated unless there is exactly one."""
    values = call.metadata.get("authorization", ())
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise Unauthenticated
    return token
