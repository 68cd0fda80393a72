"""AccountService: proto in and out, one transaction per call."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

from aiworkspace.v1 import account_pb2 as pb
from aiworkspace.v1.account_pb2_grpc import AccountServiceServicer

from ..auth import cookies
from ..auth import service as sign_in
from ..auth import store as users
from ..auth.credentials import Credentials
from ..auth.jobs import Notice, Notices
from ..auth.models import User
from ..kit.context import caller_id, caller_session_id, current
from ..kit.errors import Unauthenticated
from ..kit.idempotency import IdempotencyStore
from ..kit.postgres import Database, WriteSession
from . import service
from .jobs import TokenMails
from .models import EmailToken
from .service import GiveUp

# Ends all memberships of a person in the transaction that deletes the account, and returns the organizations.
Leave = Callable[[WriteSession, User], Awaitable[Sequence[UUID]]]
# Called with an organization in which the person has lost all rights.
Left = Callable[[UUID], Awaitable[None]]
# Called in the transaction of a deletion, to enqueue the erasure of what the person wrote.
Erase = Callable[[WriteSession, UUID], Awaitable[None]]


class AccountServicer(AccountServiceServicer):
    def __init__(
        self,
        db: Database,
        credentials: Credentials,
        mails: TokenMails,
        notices: Notices,
        give_up: GiveUp,
        leave: Leave,
        left: Left,
        erase: Erase,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._passwords = credentials.passwords
        self._throttle = credentials.throttle
        self._authenticator = credentials.authenticator
        self._former_addresses = credentials.former_addresses
        self._mails = mails
        self._notices = notices
        self._give_up = give_up
        self._leave = leave
        self._left = left
        self._erase = erase
        self._idempotency = idempotency

    async def RequestEmailVerification(
        self, request: pb.RequestEmailVerificationRequest, context: Any
    ) -> pb.RequestEmailVerificationResponse:
        async with self._db.write() as tx:
            user = await users.find_user(tx, caller_id())
            if user is None:
                raise Unauthenticated
            await self._mails.ask_verification(tx, user)
        return pb.RequestEmailVerificationResponse()

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: Any) -> pb.VerifyEmailResponse:
        _, user = await self._find(request.token, "verify", "change")
        async with self._db.write(user_id=user.id) as tx:
            await service.verify_email(tx, request.token, self._give_up, self._former_addresses)
        self._authenticator.forget(user.id)
        return pb.VerifyEmailResponse()

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Any
    ) -> pb.RequestPasswordResetResponse:
        async with self._db.write() as tx:
            await self._mails.ask_reset(tx, await users.find_user_by_email(tx, request.email))
        return pb.RequestPasswordResetResponse()

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.ResetPasswordResponse:
        token, user = await self._find(request.token, "reset")
        service.check_reset(token, user)
        inputs = user.email or "", user.display_name
        # No database connection is held while hashing. Only holders of an unused mailed token get this far.
        new_hash = await self._passwords.hash_new(request.new_password, "new_password", inputs, known=True)
        async with self._db.write(user_id=user.id) as tx:
            await service.reset_password(tx, request.token, new_hash)
            await self._notices.notify(tx, user.id, Notice.PASSWORD_RESET)
        self._authenticator.forget(user.id)
        await self._throttle.lift(user.email or "")
        return pb.ResetPasswordResponse()

    async def ChangeEmail(self, request: pb.ChangeEmailRequest, context: Any) -> pb.ChangeEmailResponse:
        checked = await self._check_password(request.password)
        async with self._db.write(user_id=checked.id) as tx:
            user = await sign_in.lock_checked(tx, checked)
            await self._mails.ask_change(tx, user, request.new_email, caller_session_id())
        return pb.ChangeEmailResponse()

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Any) -> pb.DeleteAccountResponse:
        call, checked = current.get(), await self._check_password(request.password)
        async with self._db.write(user_id=checked.id) as tx:
            user = await users.lock_for_deletion(tx, checked.id)
            if reply := await self._idempotency.find(tx, request, pb.DeleteAccountResponse):
                return reply
            if user.password_hash != checked.password_hash:
                raise Unauthenticated if user.delete_time else sign_in.wrong_password()
            left = call.also_in = await self._leave(tx, user)
            await service.delete_account(tx, user, self._former_addresses)
            await self._erase(tx, user.id)
            reply = await self._idempotency.save(tx, request, pb.DeleteAccountResponse())
        self._authenticator.forget(user.id)
        for org_id in left:
            await self._left(org_id)
        if cookies.tokens(call):
            await cookies.send(call, cookies.SIGNED_OUT)
        return reply

    async def _check_password(self, password: str) -> User:
        """Check the password and return the caller's account. No connection is held while hashing."""
        session_id = caller_session_id()
        async with self._db.read() as tx:
            user = await users.find_user(tx, caller_id())
        if user is None:
            raise Unauthenticated
        whose = self._throttle.of_session(session_id)
        known = await self._throttle.goes_first(session_id)
        async with self._throttle.attempt(whose):
            if not await self._passwords.matches(password, user.password_hash, known=known):
                raise sign_in.wrong_password()
        return user

    async def _find(self, token: str, *purposes: str) -> tuple[EmailToken, User]:
        """Return a token and its account. The call, refused or not, goes into that account's audit log."""
        async with self._db.read() as tx:
            row, user = await service.find_token(tx, token, *purposes)
        current.get().subject = user.id
        return row, user
