"""Rules of mailed tokens: their lifetime, their limits and their effects."""

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from ..auth import store as users
from ..auth.former_addresses import FormerAddresses
from ..auth.models import User
from ..auth.service import address_taken
from ..kit.errors import NotFound
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import is_over, now
from . import store
from .models import EmailToken

LIFETIMES = {"verify": timedelta(hours=24), "reset": timedelta(hours=1), "change": timedelta(hours=24)}
_MOST_PER_HOUR = 3  # mails of one purpose to one account, so that nobody can be flooded with them


# Called with an account before it gives up its address.
GiveUp = Callable[[WriteSession, User], Awaitable[None]]


class EmailTokens:
    """Makes tokens from the ids of their rows, so that only hashes have to be stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, token_id: UUID) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._key, token_id.bytes, "sha256")).rstrip(b"=").decode()


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


async def issue(
    tx: WriteSession, tokens: EmailTokens, token_id: UUID, user_id: UUID, purpose: str
) -> tuple[str, User] | None:
    """Return the token to send and its recipient, or None if nothing is to be sent. Idempotent while it is valid."""
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
    await _replace(tx, user, purpose, user.email, token_id, token, None)
    return token, user


async def ask_change(
    tx: WriteSession, tokens: EmailTokens, token_id: UUID, user: User, new_email: str, session_id: UUID | None
) -> bool:
    """Store a token for a new address of the account. Return False if no mail is to be sent."""
    hour_ago = now() - timedelta(hours=1)
    if await store.count_tokens(tx, user.id, "change", hour_ago) >= _MOST_PER_HOUR:
        return False
    if await users.find_user_by_email(tx, new_email):
        return False
    await _replace(tx, user, "change", new_email, token_id, tokens.make(token_id), session_id)
    return True


async def find_change(tx: ReadSession, token_id: UUID) -> tuple[EmailToken, User] | None:
    """Return a valid token for a new address, and its account."""
    row = await store.find_token(tx, token_id)
    user = await users.find_user(tx, row.user_id) if row else None
    if row is None or user is None or row.use_time or is_over(row.expire_time):
        return None
    return row, user


async def _replace(
    tx: WriteSession, user: User, purpose: str, email: str, token_id: UUID, token: str, session_id: UUID | None
) -> None:
    """Store a token and end earlier ones for the same purpose."""
    time = now()
    await store.end_tokens(tx, user.id, purpose)
    new = EmailToken(
        id=token_id,
        user_id=user.id,
        purpose=purpose,
        email=email,
        token_hash=token_hash(token),
        create_time=time,
        expire_time=time + LIFETIMES[purpose],
        session_id=session_id,
    )
    await store.add_token(tx, new)


async def find_token(tx: ReadSession, token: str, *purposes: str) -> tuple[EmailToken, User]:
    """Return a token, valid or not, and its account. Raises NotFound if it does not exist."""
    row = await store.find_token_by_hash(tx, token_hash(token), *purposes)
    user = await users.find_user(tx, row.user_id) if row else None
    if row is None or user is None:
        raise NotFound("token")
    return row, user


async def verify_email(tx: WriteSession, token: str, give_up: GiveUp, former: FormerAddresses) -> None:
    row, user = await _lock(tx, token, "verify", "change")
    if row.purpose == "change" and not row.use_time:
        if user.verify_time:  # an unverified address may have belonged to somebody else
            await give_up(tx, user)
        await former.note(tx, user)
        await _change_email(tx, row, user)
    elif row.email != user.email:
        raise NotFound("token")
    elif not row.use_time:  # if used, this call is a retry and changes nothing
        row.use_time = now()
        _mark_verified(user)


async def _change_email(tx: WriteSession, row: EmailToken, user: User) -> None:
    """Change the account's address to that of the token. Raises AlreadyExists if another account has it now."""
    row.use_time = time = now()
    user.email, user.verify_time = row.email, None
    _mark_verified(user)
    try:
        await tx.flush()
    except IntegrityError:  # only the address can violate a constraint here; the transaction ends
        raise address_taken() from None
    await store.end_tokens(tx, user.id, *LIFETIMES)
    await users.revoke_sessions(tx, user.id, time, kept=row.session_id)


async def delete_account(tx: WriteSession, user: User, former: FormerAddresses) -> None:
    """Erase everything of the locked account except its id and times."""
    await former.note(tx, user)
    user.email = user.password_hash = user.verify_time = user.request_id = None
    user.display_name = ""
    user.version += 1
    user.update_time = user.delete_time = now()
    await users.delete_sessions(tx, user.id)
    await store.delete_tokens(tx, user.id)


async def reset_password(tx: WriteSession, token: str, password_hash: str) -> None:
    """Set the password and end all sessions. Raises NotFound, also if a concurrent call used the token."""
    row, user = await _lock(tx, token, "reset")
    check_reset(row, user)
    row.use_time = time = now()
    user.password_hash = password_hash
    _mark_verified(user)
    await end_mailed(tx, user.id)
    await users.revoke_sessions(tx, user.id, time, kept=None)


async def end_mailed(tx: WriteSession, user_id: UUID) -> None:
    """End tokens that could undo a new password: those for another password or another address.

    The person who requested them may be the reason for the new password.
    """
    await store.end_tokens(tx, user_id, "reset", "change")


def check_reset(row: EmailToken, user: User) -> None:
    """Raise NotFound unless the token can still reset the password."""
    if row.use_time or row.email != user.email or is_over(row.expire_time):
        raise NotFound("token")


async def _lock(tx: WriteSession, token: str, *purposes: str) -> tuple[EmailToken, User]:
    """Lock a token that has not expired until the transaction ends, and return it with its account."""
    digest = token_hash(token)
    if (found := await store.find_token_by_hash(tx, digest, *purposes)) is None:
        raise NotFound("token")
    user = await users.lock_user(tx, found.user_id)
    row = await store.find_token_by_hash(tx, digest, *purposes)
    if row is None or is_over(row.expire_time):
        raise NotFound("token")
    return row, user


def _mark_verified(user: User) -> None:
    time = now()
    user.verify_time = user.verify_time or time
    user.version += 1
    user.update_time = time
