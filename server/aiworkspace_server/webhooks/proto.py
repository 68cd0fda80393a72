"""Mapping of endpoints and deliveries to the contract."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import webhook_pb2 as pb

from ..events.models import Event
from ..events.types import type_of
from ..kit.timestamps import now, timestamp
from .models import WebhookDelivery, WebhookEndpoint


def endpoint_to_proto(endpoint: WebhookEndpoint) -> pb.WebhookEndpoint:
    expire_time = endpoint.previous_secret_expire_time
    return pb.WebhookEndpoint(
        org_id=str(endpoint.org_id),
        webhook_endpoint_id=str(endpoint.id),
        url=endpoint.url,
        description=endpoint.description,
        event_types=map(type_of, endpoint.event_types),
        enabled=endpoint.enabled,
        disable_reason=pb.WebhookDisableReason.Value(
            f"WEBHOOK_DISABLE_REASON_{(endpoint.disable_reason or 'unspecified').upper()}"
        ),
        fail_time=_timestamp(endpoint.fail_time),
        previous_secret_expire_time=_timestamp(expire_time if expire_time and expire_time > now() else None),
        create_time=timestamp(endpoint.create_time),
        update_time=timestamp(endpoint.update_time),
        etag=str(endpoint.version),
    )


def delivery_to_proto(delivery: WebhookDelivery, event: Event) -> pb.WebhookDelivery:
    return pb.WebhookDelivery(
        event_id=str(event.id),
        sequence=event.sequence,
        event_type=type_of(event.type),
        state=pb.WebhookDeliveryState.Value(f"WEBHOOK_DELIVERY_STATE_{delivery.state.upper()}"),
        attempt_count=delivery.attempt_count,
        next_attempt_time=_timestamp(delivery.next_attempt_time),
        attempts=[
            pb.WebhookAttempt(
                create_time=timestamp(datetime.fromisoformat(attempt["create_time"])),
                duration_ms=attempt["duration_ms"],
                status_code=attempt["status"],
                failure=pb.WebhookFailure.Value(f"WEBHOOK_FAILURE_{(attempt['failure'] or 'unspecified').upper()}"),
            )
            for attempt in delivery.attempts
        ],
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    return timestamp(time) if time else None
