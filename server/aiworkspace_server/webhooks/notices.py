"""Mails to those who manage webhooks when the server has disabled an endpoint."""

from urllib.parse import urlsplit
from uuid import UUID, uuid5

from ..auth import store as users
from ..kit.ids import new_id
from ..kit.jobs import Jobs
from ..kit.mail import Mail, Mailer, quoted
from ..kit.postgres import Database, WriteSession
from ..orgs.store import find_org, list_people_with
from . import store
from .models import DisableReason

_NOTIFY, _SEND = "webhooks.notify", "webhooks.send_notice"
_MANAGE = "webhook.manage"

_SUBJECT = "A webhook endpoint was disabled"
_MAIL = """\
Hello,

events are no longer sent to the webhook endpoint {endpoint_id} at {host}: {why}.
When it works again, enable it with UpdateWebhookEndpoint, and send what it missed with ReplayWebhookEvents.

{org} at AI Workspace sends this to those who may manage its webhooks.
"""
_WHY = {
    DisableReason.FAILING: "every attempt failed for five days",
    DisableReason.GONE: "it answered with status 410, Gone",
}


class Notices:
    def __init__(self, db: Database, jobs: Jobs, mailer: Mailer) -> None:
        self._db = db
        self._jobs = jobs
        self._mailer = mailer

    def register(self) -> None:
        self._jobs.add(_NOTIFY, self._notify)
        self._jobs.add(_SEND, self._send)

    async def enqueue(self, tx: WriteSession, org_id: UUID, endpoint_id: UUID, reason: DisableReason) -> None:
        """Let mails be sent about an endpoint that the transaction disables."""
        about = {"webhook_endpoint_id": endpoint_id, "reason": reason, "notice_id": new_id()}
        await self._jobs.enqueue(tx, _NOTIFY, org_id=org_id, **about)

    async def _notify(self, org_id: str, webhook_endpoint_id: str, reason: str, notice_id: str) -> None:
        """Enqueue a mail for each person who manages webhooks."""
        which = {"org_id": org_id, "webhook_endpoint_id": webhook_endpoint_id, "reason": reason}
        async with self._db.write(UUID(org_id)) as tx:
            for user_id in await list_people_with(tx, _MANAGE):
                mail_id = uuid5(UUID(notice_id), str(user_id))  # the same if the job is repeated
                await self._jobs.enqueue(tx, _SEND, **which, user_id=user_id, mail_id=mail_id)

    async def _send(self, org_id: str, webhook_endpoint_id: str, reason: str, user_id: str, mail_id: str) -> None:
        """Send a mail, unless the endpoint was deleted meanwhile or the reader no longer manages webhooks."""
        async with self._db.read(UUID(org_id)) as tx:
            endpoint = await store.find_endpoint(tx, UUID(webhook_endpoint_id))
            reader = await users.find_user(tx, UUID(user_id))
            managers = await list_people_with(tx, _MANAGE)
            org = await find_org(tx, UUID(org_id))
        if endpoint is None or org is None or reader is None or not reader.email or reader.id not in managers:
            return
        text = _MAIL.format(
            endpoint_id=webhook_endpoint_id,
            host=quoted(urlsplit(endpoint.url).hostname or ""),
            why=_WHY[DisableReason(reason)],
            org=quoted(org.name),
        )
        await self._mailer.send(Mail(UUID(mail_id), reader.email, _SUBJECT, text))
