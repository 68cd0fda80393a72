"""One attempt: a signed POST to an endpoint, and what came of it."""

import time as clock
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from ..events.models import Event
from ..kit.egress import Egress
from ..kit.egress_policy import EgressError, EgressReason
from ..kit.timestamps import now
from ..policies.vault import SealBroken
from .models import Failure, WebhookEndpoint
from .secrets import Secrets

SECONDS = 15.0

_FAILURES = {
    EgressReason.TIMEOUT: Failure.TIMEOUT,
    EgressReason.UNREACHABLE: Failure.UNREACHABLE,
    EgressReason.TLS_FAILED: Failure.TLS,
    EgressReason.UNREADABLE: Failure.UNREADABLE,
}
_GONE = 410


@dataclass(frozen=True, slots=True)
class Attempt:
    create_time: datetime
    duration_ms: int
    status: int  # 0: none came
    failure: Failure | None
    retry_after: str = ""  # the header of the response

    @property
    def gone(self) -> bool:
        return self.status == _GONE

    def stored(self) -> dict[str, Any]:
        """Return what is kept of it: nothing that the endpoint said."""
        return {
            "create_time": self.create_time.isoformat(),
            "duration_ms": self.duration_ms,
            "status": self.status,
            "failure": self.failure,
        }


class Sender:
    """Sends events. `present` is the clock of the signatures and of what is recorded."""

    def __init__(self, egress: Egress, secrets: Secrets, present: Callable[[], datetime] = now) -> None:
        self._egress = egress
        self._secrets = secrets
        self._present = present

    async def send(self, endpoint: WebhookEndpoint, event: Event) -> Attempt:
        time, began = self._present(), clock.perf_counter()
        status, failure, retry_after = 0, None, ""
        try:
            body = body_of(event)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": str(event.id),
                "webhook-timestamp": str(int(time.timestamp())),
                "webhook-signature": self._secrets.sign(endpoint, event.id, time, body),
            }
            reply = await self._egress.post(endpoint.url, body, headers, SECONDS)
            status, retry_after = reply.status, reply.retry_after
            failure = None if 200 <= status < 300 else Failure.STATUS
        except EgressError as error:
            failure = _FAILURES.get(error.reason, Failure.REFUSED)
        except SealBroken:
            failure = Failure.SECRET
        duration_ms = int((clock.perf_counter() - began) * 1000)
        return Attempt(time, duration_ms, status, failure, retry_after if failure else "")


def body_of(event: Event) -> bytes:
    """Return the body of a request: the same for each attempt."""
    content = {
        "id": str(event.id),
        "type": event.type,
        "timestamp": event.create_time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "org_id": str(event.org_id),
        "sequence": event.sequence,
        "data": dict(sorted(event.resources.items())),
    }
    return orjson.dumps(content)
