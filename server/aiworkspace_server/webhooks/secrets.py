"""The secrets with which requests to endpoints are signed."""

import base64
import secrets
from datetime import datetime, timedelta
from uuid import UUID

from standardwebhooks import Webhook

from ..policies.vault import Vault
from .models import WebhookEndpoint

OVERLAP = timedelta(hours=24)  # in which requests are also signed with the secret before a rotation

_PREFIX, _BYTES = "whsec_", 32


class Secrets:
    """Makes secrets, and signs with them. They are stored encrypted, and bound to their endpoint."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def new(self, org_id: UUID, endpoint_id: UUID) -> tuple[str, bytes]:
        """Return a secret, and how it is stored."""
        secret = _PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
        return secret, self._vault.seal(org_id, _name(endpoint_id), secret)

    def sign(self, endpoint: WebhookEndpoint, event_id: UUID, time: datetime, body: bytes) -> str:
        """Return the signatures of a request: one, or two for some time after a rotation. Raises SealBroken."""
        sealed = [endpoint.secret]
        expire_time = endpoint.previous_secret_expire_time
        if endpoint.previous_secret and expire_time and time < expire_time:
            sealed.append(endpoint.previous_secret)
        opened = [self._vault.open(endpoint.org_id, _name(endpoint.id), each) for each in sealed]
        return " ".join(Webhook(secret).sign(str(event_id), time, body.decode()) for secret in opened)


def _name(endpoint_id: UUID) -> str:
    return f"webhook/{endpoint_id}"
