"""Mails with tokens."""

from uuid import UUID

from ..auth.models import User
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.mail import Links, Mail, Mailer
from ..kit.postgres import Database, WriteSession
from . import service
from .service import EmailTokens

_SEND = "accounts.send_token"

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


class TokenMails:
    """Asks for mails with tokens, and sends them."""

    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer, links: Links, tokens: EmailTokens) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer
        self._links = links
        self._tokens = tokens
        jobs.add(_SEND, self._send)

    async def ask_verification(self, tx: WriteSession, user: User) -> None:
        """Nothing is sent when the address is verified by then, or when there were too many mails."""
        await self._ask(tx, user.id, "verify")

    async def ask_reset(self, tx: WriteSession, user: User | None) -> None:
        """The same work whether there is an account or not."""
        await self._ask(tx, user.id if user else new_id(), "reset")

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
            return Mail(token_id, user.email, VERIFY_SUBJECT, VERIFY.format(how_to=how_to))
        how_to = self._links.how_to("reset", "aiws reset-password", token)
        return Mail(token_id, user.email, RESET_SUBJECT, RESET.format(how_to=how_to))
