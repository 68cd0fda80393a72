"""Rules of accounts, sign-in and sessions."""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb

from ..kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unauthenticated, check_etag
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import is_over, now
from ..setting_types import Registration
from . import store
from .models import Session, User
from .tokens import Claims, Issued, Tokens

# How long a used refresh token returns the same tokens again. By the clock of PostgreSQL: clocks of two servers may
# differ by more, and a repeated exchange would look like a stolen token.
_REPEAT_WINDOW = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Device:
    """The device from which somebody signs in."""

    name: str
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The tokens of a session."""

    session_id: UUID
    access: Issued
    refresh: Issued


class Sessions:
    """Sessions and their tokens."""

    def __init__(self, access_tokens: Tokens, refresh_tokens: Tokens, lineage_key: bytes) -> None:
        self._access = access_tokens
        self._refresh = refresh_tokens
        self._lineage_key = lineage_key

    def start(self, tx: WriteSession, user: User, device: Device) -> Pair:
        time = now()
        session = Session(
            id=new_id(),
            user_id=user.id,
            device_name=device.name,
            address=device.address,
            user_agent=device.user_agent,
            refresh_id=new_id(),
            refresh_time=time,
            issue_time=time,
            create_time=time,
            last_use_time=time,
            expire_time=time + self._refresh.lifetime,
        )
        tx.add(session)
        return self._pair(session)

    def check(self, refresh_token: str) -> Claims:
        """Return the claims of a refresh token. `refresh` checks whether it is the session's latest."""
        return self._refresh.check(refresh_token)

    async def refresh(self, tx: WriteSession, claims: Claims, address: str) -> tuple[UUID, Pair | None]:
        """Return the session's owner and next tokens, None if the session was ended because an old token was reused.

        Raises SessionEnded.
        """
        found = await store.lock_session(tx, claims.session_id)
        if found is None or found[0].revoke_time or is_over(found[0].expire_time):
            raise SessionEnded
        session, database_time = found
        if claims.token_id == session.refresh_id:
            self._rotate(session, database_time, address)
        elif claims.token_id != session.previous_refresh_id or database_time - session.refresh_time > _REPEAT_WINDOW:
            session.revoke_time = now()
            return session.user_id, None
        return session.user_id, self._pair(session)

    def _rotate(self, session: Session, database_time: datetime, address: str) -> None:
        time = now()
        session.previous_refresh_id = session.refresh_id
        session.refresh_id = new_id()
        session.refresh_time = database_time
        session.issue_time = session.last_use_time = time
        session.address = address
        session.expire_time = time + self._refresh.lifetime

    def _pair(self, session: Session) -> Pair:
        """Return the session's current tokens: the same each time until the session is refreshed."""
        whose = session.user_id, session.id, session.issue_time
        access_id = UUID(bytes=hmac.digest(self._lineage_key, session.refresh_id.bytes, "sha256")[:16])
        return Pair(session.id, self._access.issue(*whose, access_id), self._refresh.issue(*whose, session.refresh_id))


async def add_user(tx: WriteSession, values: dict[str, Any]) -> User | None:
    """Create an account, or return None if the email address has one."""
    time = now()
    return await store.add_user(tx, {**values, "version": 1, "create_time": time, "update_time": time})


async def lock_checked(tx: WriteSession, checked: User) -> User:
    """Lock and return the account whose password was checked.

    Raises Unauthenticated if the password was changed since: a session started with the old one would survive the
    change.
    """
    user = await store.lock_user(tx, checked.id)
    if user.password_hash != checked.password_hash:
        raise wrong_password()
    return user


async def set_password(tx: WriteSession, checked: User, session_id: UUID, password_hash: str) -> None:
    """Replace the password that was checked, and end all sessions except this one."""
    user = await lock_checked(tx, checked)
    user.password_hash = password_hash
    user.version += 1
    user.update_time = now()
    await store.revoke_sessions(tx, user.id, user.update_time, kept=session_id)


async def update_user(tx: WriteSession, user_id: UUID, etag: str, values: dict[str, Any]) -> User:
    if "display_name" in values and not values["display_name"]:
        raise InvalidArgument({"user.display_name": "must not be empty"})
    user = await store.lock_user(tx, user_id)
    check_etag(etag, user.version, "user.etag")
    user.display_name = values.get("display_name", user.display_name)
    user.version += 1
    user.update_time = now()
    return user


async def revoke_session(tx: WriteSession, user_id: UUID, session_id: UUID) -> None:
    if not await store.revoke_session(tx, user_id, session_id):
        raise NotFound("session_id")


async def revoke_all_sessions(tx: WriteSession, user_id: UUID, kept: UUID | None) -> int:
    """End all sessions except `kept`. Return how many were ended."""
    await store.lock_user(tx, user_id)  # otherwise two calls could deadlock on the sessions
    return await store.revoke_sessions(tx, user_id, now(), kept)


async def check_may_register(tx: ReadSession, registration: Registration, email: str) -> None:
    """Raise FailedPrecondition if this address must not be registered, whether or not it has an account."""
    if registration == "open" or (registration == "invited" and await store.is_invited(tx, email)):
        return
    how = (
        "an open invitation to this address is required"
        if registration == "invited"
        else "only the server's operator creates accounts"
    )
    raise FailedPrecondition(pb.ERROR_REASON_REGISTRATION_CLOSED, f"Registration is closed: {how}.")


class SessionEnded(Unauthenticated):
    """The session of a refresh token has ended. Metadata distinguishes this from an invalid token."""

    def __init__(self) -> None:
        message = "The session has ended: sign in again."
        super().__init__(pb.ERROR_REASON_CREDENTIALS_INVALID, message, metadata={"session": "ended"})


def email_unverified() -> FailedPrecondition:
    return FailedPrecondition(
        pb.ERROR_REASON_EMAIL_UNVERIFIED, "Verify your email address first, with the token that was mailed to it."
    )


def wrong_password() -> Unauthenticated:
    return Unauthenticated(pb.ERROR_REASON_PASSWORD_WRONG, "The email address or the password is wrong.")


def address_taken() -> AlreadyExists:
    return AlreadyExists("This email address already has an account: log in.", "email")
