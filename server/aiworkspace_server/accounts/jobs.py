"""Mails with tokens: to verify an address, reset a password, change an address."""

from uuid import UUID, uuid5

from ..auth.models import User
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.mail import Links, Mail, Mailer, MailKind
from ..kit.postgres import Database, WriteSession
from . import service
from .service import EmailTokens

_SEND, _SEND_CHANGE = "accounts.send_token", "accounts.send_change"

VERIFY_SUBJECT = "Please confirm your email address"
VERIFY = """\
Hello,

welcome to AI Workspace. Please confirm that this address is yours.
{how_to}

It works for 24 hours. If you did not make an account, ignore this mail.
"""
RESET_SUBJECT = "Set a new password"
RESET = """\
Hello,

somebody, probably you, asked for a new password for your account at AI Workspace.
{how_to}

It works once, for an hour, and signs you out everywhere. If you did not ask for it, ignore this mail: your password
stays as it is.
"""
CHANGE_SUBJECT = "Please confirm your new email address"
CHANGE = """\
Hello,

somebody, probably you, wants to use this email address for an account at AI Workspace. Please confirm that it is yours.
{how_to}

It works once, for 24 hours, and signs you out elsewhere. If you did not ask for it, ignore this mail.
"""
NOTICE_SUBJECT = "Your email address is to be changed"
NOTICE = """\
Hello,

somebody who knows the password of your account asked to use another email address for it. That takes effect when the
other address is confirmed.

If that was you, there is nothing to do. If it was not: change your password at once, and end all sessions.
"""


class TokenMails:
    """Enqueues and sends mails with tokens."""

    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer, links: Links, tokens: EmailTokens) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer
        self._links = links
        self._tokens = tokens

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs. Needed to enqueue them, too."""
        jobs.add(_SEND, self._send)
        jobs.add(_SEND_CHANGE, self._send_change)

    async def ask_verification(self, tx: WriteSession, user: User) -> None:
        """Enqueue a mail. Nothing is sent if the address is verified by then, or after too many mails."""
        await self._ask(tx, user.id, "verify")

    async def ask_reset(self, tx: WriteSession, user: User | None) -> None:
        """Enqueue a mail, or for a missing account the same work without one, so that both take the same time."""
        await self._ask(tx, user.id if user else new_id(), "reset")

    async def ask_change(self, tx: WriteSession, user: User, new_email: str, session_id: UUID | None) -> None:
        """Enqueue a mail to a new address of a locked account.

        Nothing is sent if the address has an account, or after too many mails.
        """
        token_id = new_id()
        if await service.ask_change(tx, self._tokens, token_id, user, new_email, session_id):
            await self._jobs.enqueue(tx, _SEND_CHANGE, token_id=token_id)

    async def _send_change(self, token_id: str) -> None:
        """Send a notice to the current address first, then the token to the new one."""
        async with self._db.read() as tx:
            found = await service.find_change(tx, UUID(token_id))
        if found:
            row, user = found
            assert user.email
            await self._mailer.send(Mail(uuid5(row.id, "notice"), user.email, NOTICE_SUBJECT, NOTICE))
            how_to = self._links.how_to("verify", "aiws verify", self._tokens.make(row.id))
            await self._mailer.send(
                Mail(row.id, row.email, CHANGE_SUBJECT, CHANGE.format(how_to=how_to), MailKind.CHANGE)
            )

    async def _ask(self, tx: WriteSession, user_id: UUID, purpose: str) -> None:
        await self._jobs.enqueue(tx, _SEND, token_id=new_id(), user_id=user_id, purpose=purpose)

    async def _send(self, token_id: str, user_id: str, purpose: str) -> None:
        async with self._db.write() as tx:
            issued = await service.issue(tx, self._tokens, UUID(token_id), UUID(user_id), purpose)
        if issued:
            await self._mailer.send(self._mail(UUID(token_id), purpose, *issued))

    def _mail(self, token_id: UUID, purpose: str, token: str, user: User) -> Mail:
        assert user.email
        if purpose == "verify":
            how_to = self._links.how_to("verify", "aiws verify", token)
            return Mail(token_id, user.email, VERIFY_SUBJECT, VERIFY.format(how_to=how_to), MailKind.VERIFICATION)
        how_to = self._links.how_to("reset", "aiws reset-password", token)
        return Mail(token_id, user.email, RESET_SUBJECT, RESET.format(how_to=how_to), MailKind.RESET)
