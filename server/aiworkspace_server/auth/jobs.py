"""Security notices: mails about changes of an account, in case its owner did not make them."""

from enum import StrEnum
from uuid import UUID

from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.mail import Mail, Mailer
from ..kit.postgres import Database, WriteSession
from . import store

_SEND = "auth.send_notice"


class Notice(StrEnum):
    """The kinds of notices."""

    PASSWORD_CHANGED = "password_changed"
    PASSWORD_RESET = "password_reset"
    TOKEN_REUSED = "token_reused"
    NEW_DEVICE = "new_device"
    API_KEY_CREATED = "api_key_created"
    ERASURE_REQUESTED = "erasure_requested"


# Subject, what happened, and what to do if it was somebody else.
_TEXTS = {
    Notice.PASSWORD_CHANGED: (
        "Your password was changed",
        "the password of your account was changed, and all other sessions were ended.",
        "ask for a new password at once.",
    ),
    Notice.PASSWORD_RESET: (
        "Your password was reset",
        "the password of your account was reset with a mail to this address, and all sessions were ended.",
        "secure your mailbox, then ask for a new password at once.",
    ),
    Notice.TOKEN_REUSED: (
        "A session was ended",
        "a refresh token of your account was used twice. Somebody may have a copy of it, so its session was ended.",
        "look through your sessions and change your password.",
    ),
    Notice.NEW_DEVICE: (
        "New sign-in",
        "somebody signed in to your account on a device that was not used before.",
        "revoke the session and change your password.",
    ),
    Notice.API_KEY_CREATED: (
        "An API key was created",
        "an API key was created in an organization that you own.",
        "look through the keys of its service accounts and revoke what should not be there.",
    ),
    Notice.ERASURE_REQUESTED: (
        "An organization will be erased",
        "an owner asked that an organization that you own be erased in seven days, with everything in it.",
        "keep it with CancelErasure (aiws data keep), and look through its owners and API keys.",
    ),
}
_MAIL = """\
Hello,

{what}

If that was expected, there is nothing to do. If it was not: {to_do}
"""


class Notices:
    """Enqueues and sends notices."""

    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer

    def register(self, jobs: Jobs) -> None:
        """Declare the job. Needed to enqueue it, too."""
        jobs.add(_SEND, self._send)

    async def notify(self, tx: WriteSession, user_id: UUID, notice: Notice) -> None:
        await self._jobs.enqueue(tx, _SEND, notice_id=new_id(), user_id=user_id, notice=notice)

    async def _send(self, notice_id: str, user_id: str, notice: str) -> None:
        async with self._db.read() as tx:
            user = await store.find_user(tx, UUID(user_id))
        if user and user.email:
            subject, what, to_do = _TEXTS[Notice(notice)]
            text = _MAIL.format(what=what, to_do=to_do)
            await self._mailer.send(Mail(UUID(notice_id), user.email, subject, text))
