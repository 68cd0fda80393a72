"""Mails of organizations: invitations, and notices to owners."""

from uuid import UUID

from ..auth import store as users
from ..auth.jobs import Notice, Notices
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.mail import Links, Mail, Mailer, MailKind, quoted
from ..kit.postgres import Database, WriteSession
from . import store
from .models import Invitation
from .service import is_open
from .tokens import InvitationTokens

_SEND = "orgs.send_invitation"

_SUBJECT = "You are invited to an organization at AI Workspace"  # no text that a stranger chose
_INVITATION = """\
Hello,

{inviter} invites you to the organization {org} at AI Workspace. Sign in with this email address, or make an account
with it, and accept.
{how_to}

It works once, until {until:%d %B %Y, %H:%M} UTC. If you do not know what this is about, ignore this mail.
"""


class InvitationMails:
    """Enqueues and sends mails to invited people."""

    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer, links: Links, tokens: InvitationTokens) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer
        self._links = links
        self._tokens = tokens

    def register(self, jobs: Jobs) -> None:
        """Declare the job. Needed to enqueue it, too."""
        jobs.add(_SEND, self._send)

    async def ask(self, tx: WriteSession, invitation: Invitation) -> None:
        """Enqueue a mail. Nothing is sent if the invitation is closed by the time the job runs."""
        mail = {"org_id": invitation.org_id, "invitation_id": invitation.id, "mail_id": new_id()}
        await self._jobs.enqueue(tx, _SEND, **mail)

    async def _send(self, org_id: str, invitation_id: str, mail_id: str = "") -> None:
        """Send the mail. `mail_id` is empty in jobs that an earlier release enqueued."""
        async with self._db.read(UUID(org_id)) as tx:
            org = await store.find_org(tx, UUID(org_id))
            invitation = await store.find_invitation(tx, UUID(invitation_id))
            if org is None or invitation is None or not is_open(invitation):
                return
            inviter = await users.find_user(tx, invitation.inviter_id)
        token = self._tokens.make(invitation.org_id, invitation.id)
        text = _INVITATION.format(
            inviter=quoted(inviter.display_name if inviter else ""),
            org=quoted(org.name),
            how_to=self._links.how_to("invitation", "aiws orgs accept", token),
            until=invitation.expire_time,
        )
        await self._mailer.send(
            Mail(UUID(mail_id or invitation_id), invitation.email, _SUBJECT, text, MailKind.INVITATION)
        )


async def notify_owners(tx: WriteSession, notices: Notices, notice: Notice) -> None:
    """Enqueue a notice to every owner of the transaction's organization."""
    for owner_id in await store.list_owner_ids(tx):
        await notices.notify(tx, owner_id, notice)
