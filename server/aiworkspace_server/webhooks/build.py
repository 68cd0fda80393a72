"""Puts webhooks together."""

from dataclasses import dataclass

from ..events.outbox import FanOut
from ..kit.egress import Egress
from ..kit.jobs import SENDING_QUEUE, UNANSWERED_QUEUE, concurrency_of
from ..kit.platform import Platform
from ..policies.vault import Vault
from .deliveries import AT_ONCE, Deliveries
from .notices import Notices
from .secrets import Secrets
from .sender import Sender
from .servicer import WebhookServicer

# A lookup goes on in its thread after its attempt has timed out.
_LOOKUPS_PER_REQUEST = 2


@dataclass(frozen=True, slots=True)
class Webhooks:
    servicer: WebhookServicer
    fan_out: FanOut
    egress: Egress  # to be closed


def build(platform: Platform) -> Webhooks:
    settings, db, jobs = platform.settings, platform.db, platform.jobs
    # Its own client, with room for as many requests as the jobs send, so that none waits for another.
    requests = concurrency_of(SENDING_QUEUE) * AT_ONCE + concurrency_of(UNANSWERED_QUEUE)
    egress = Egress(
        settings.egress_allowed_networks or (), concurrency=requests, lookups=requests * _LOOKUPS_PER_REQUEST
    )
    secrets, notices = Secrets(Vault.from_settings(settings)), Notices(db, jobs, platform.mailer)
    deliveries = Deliveries(db, jobs, Sender(egress, secrets), notices)
    notices.register()
    deliveries.register()
    servicer = WebhookServicer(db, egress, secrets, deliveries, platform.pages, platform.idempotency)
    return Webhooks(servicer, deliveries.fan_out, egress)
