"""AccountService: proto in and out, one transaction per call."""

from typing import Any

from aiworkspace.v1 import account_pb2 as pb
from aiworkspace.v1.account_pb2_grpc import AccountServiceServicer

from ..auth import store as users
from ..auth.jobs import Notice, Notices
from ..auth.models import User
from ..auth.passwords import Passwords
from ..auth.principal import Authenticator
from ..kit.context import caller_id, current
from ..kit.errors import Unauthenticated
from ..kit.postgres import Database
from . import service
from .jobs import TokenMails


class AccountServicer(AccountServiceServicer):
    def __init__(
        self, db: Database, passwords: Passwords, authenticator: Authenticator, mails: TokenMails, notices: Notices
    ) -> None:
        self._db = db
        self._passwords = passwords
        self._authenticator = authenticator
        self._mails = mails
        self._notices = notices

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
        user = await self._owner(request.token, "verify")
        async with self._db.write(user_id=user.id) as tx:
            await service.verify_email(tx, request.token)
        return pb.VerifyEmailResponse()

    async def RequestPasswordReset(
        self, request: pb.RequestPasswordResetRequest, context: Any
    ) -> pb.RequestPasswordResetResponse:
        async with self._db.write() as tx:
            await self._mails.ask_reset(tx, await users.find_user_by_email(tx, request.email.lower()))
        return pb.RequestPasswordResetResponse()

    async def ResetPassword(self, request: pb.ResetPasswordRequest, context: Any) -> pb.ResetPasswordResponse:
        user = await self._owner(request.token, "reset")
        known = user.email or "", user.display_name
        new_hash = await self._passwords.hash_new(request.new_password, "new_password", known)  # no connection is held
        async with self._db.write(user_id=user.id) as tx:
            await service.reset_password(tx, request.token, new_hash)
            await self._notices.notify(tx, user.id, Notice.PASSWORD_RESET)
        self._authenticator.forget(user.id)
        return pb.ResetPasswordResponse()

    async def _owner(self, token: str, purpose: str) -> User:
        """Whose token it is, and whose log has the call, refused or not."""
        async with self._db.read() as tx:
            user = await service.find_owner(tx, token, purpose)
        current.get().subject = user.id
        return user
