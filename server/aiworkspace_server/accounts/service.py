"""Rules of mailed tokens: what one is, how long it counts, and what it does."""

import base64
import hashlib
import hmac
from datetime import timedelta
from uuid import UUID

from ..auth import store as users
from ..auth.models import User
from ..kit.errors import NotFound
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import is_over, now
from . import store
from .models import EmailToken

LIFETIMES = {"verify": timedelta(hours=24), "reset": timedelta(hours=1)}
_MOST_PER_HOUR = 3  # mails of one purpose to one account, so that nobody can be flooded with them


class EmailTokens:
    """Tokens made from the ids of their rows. The rows have their hashes alone."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, token_id: UUID) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._key, token_id.bytes, "sha256")).rstrip(b"=").decode()


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def issue(
    tx: WriteSession, tokens: EmailTokens, token_id: UUID, user_id: UUID, purpose: str
) -> tuple[str, User] | None:
    """The token to send, and to whom. None when there is nothing to send. The same each time while it is good."""
    if await users.find_user(tx, user_id) is None:
        return None
    user, time = await users.lock_user(tx, user_id), now()
    if user.email is None or (purpose == "verify" and user.verify_time):
        return None
    token, issued = tokens.make(token_id), await store.find_token(tx, token_id)
    if issued:
        return None if issued.use_time or is_over(issued.expire_time) else (token, user)
    if await store.count_tokens(tx, user_id, purpose, time - timedelta(hours=1)) >= _MOST_PER_HOUR:
        return None
    await store.end_tokens(tx, user_id, purpose)
    new = EmailToken(
        id=token_id,
        user_id=user_id,
        purpose=purpose,
        email=user.email,
        token_hash=token_hash(token),
        create_time=time,
        expire_time=time + LIFETIMES[purpose],
    )
    await store.add_token(tx, new)
    return token, user


async def find_owner(tx: ReadSession, token: str, purpose: str) -> User:
    """Whose token it is, whether it is still good or not. Raises NotFound."""
    row = await store.find_token_by_hash(tx, token_hash(token), purpose)
    user = await users.find_user(tx, row.user_id) if row else None
    if user is None:
        raise NotFound("token")
    return user


async def verify_email(tx: WriteSession, token: str) -> None:
    row, user = await _lock(tx, token, "verify")
    if not row.use_time:  # else it is a repeated call, whose first reply may have been lost
        row.use_time = now()
        _mark_verified(user)


async def reset_password(tx: WriteSession, token: str, password_hash: str) -> None:
    """Sets the password and ends all sessions. Raises NotFound, also when another call was faster."""
    row, user = await _lock(tx, token, "reset")
    if row.use_time:
        raise NotFound("token")
    row.use_time = time = now()
    user.password_hash = password_hash
    _mark_verified(user)
    await users.revoke_sessions(tx, user.id, time, kept=None)


async def _lock(tx: WriteSession, token: str, purpose: str) -> tuple[EmailToken, User]:
    """A token that has not expired, and whose it is, with nobody else using it until the transaction ends."""
    digest = token_hash(token)
    if (found := await store.find_token_by_hash(tx, digest, purpose)) is None:
        raise NotFound("token")
    user = await users.lock_user(tx, found.user_id)
    row = await store.find_token_by_hash(tx, digest, purpose)
    if row is None or is_over(row.expire_time) or row.email != user.email:
        raise NotFound("token")
    return row, user


def _mark_verified(user: User) -> None:
    time = now()
    user.verify_time = user.verify_time or time
    user.version += 1
    user.update_time = time
