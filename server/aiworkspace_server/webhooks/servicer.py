"""WebhookService: proto in and out, one transaction per call."""

from collections.abc import Iterable
from typing import Any

from aiworkspace.v1 import webhook_pb2 as pb
from aiworkspace.v1.webhook_pb2_grpc import WebhookServiceServicer

from ..events.types import name_of
from ..kit.context import caller_id, tenant_id
from ..kit.egress import Egress
from ..kit.errors import InvalidArgument
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import parse_timestamp
from . import service, store
from .deliveries import Deliveries
from .proto import delivery_to_proto, endpoint_to_proto
from .secrets import Secrets
from .store import Range

_CHANGEABLE = {"url", "description", "event_types", "enabled"}


class WebhookServicer(WebhookServiceServicer):
    def __init__(
        self,
        db: Database,
        egress: Egress,
        secrets: Secrets,
        deliveries: Deliveries,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._egress = egress
        self._secrets = secrets
        self._deliveries = deliveries
        self._pages = pages
        self._idempotency = idempotency

    async def CreateWebhookEndpoint(
        self, request: pb.CreateWebhookEndpointRequest, context: Any
    ) -> pb.CreateWebhookEndpointResponse:
        await service.check_url(self._egress, request.url, "url")
        values = {"url": request.url, "description": request.description, "event_types": _names(request.event_types)}
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateWebhookEndpointResponse):
                return reply
            endpoint, secret = await service.create_endpoint(tx, tenant_id(), values, self._secrets)
            reply = pb.CreateWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(endpoint), secret=secret)
            return await self._idempotency.save(tx, request, reply)

    async def GetWebhookEndpoint(
        self, request: pb.GetWebhookEndpointRequest, context: Any
    ) -> pb.GetWebhookEndpointResponse:
        async with self._db.read(tenant_id()) as tx:
            endpoint = await service.get_endpoint(tx, parse_id(request.webhook_endpoint_id, "webhook_endpoint_id"))
        return pb.GetWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(endpoint))

    async def ListWebhookEndpoints(
        self, request: pb.ListWebhookEndpointsRequest, context: Any
    ) -> pb.ListWebhookEndpointsResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_endpoints(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda endpoint: [endpoint.id])
        endpoints = map(endpoint_to_proto, rows)
        return pb.ListWebhookEndpointsResponse(webhook_endpoints=endpoints, next_page_token=more)

    async def UpdateWebhookEndpoint(
        self, request: pb.UpdateWebhookEndpointRequest, context: Any
    ) -> pb.UpdateWebhookEndpointResponse:
        given = request.webhook_endpoint
        values = changes(given, request.update_mask, _CHANGEABLE)
        endpoint_id = parse_id(given.webhook_endpoint_id, "webhook_endpoint.webhook_endpoint_id")
        if "event_types" in values:
            values["event_types"] = _names(values["event_types"])
        if "url" in values:
            if not given.url:
                raise InvalidArgument({"webhook_endpoint.url": "must not be empty"})
            await service.check_url(self._egress, given.url, "webhook_endpoint.url")
        async with self._db.write(tenant_id()) as tx:
            endpoint = await service.update_endpoint(tx, endpoint_id, given.etag, values)
        return pb.UpdateWebhookEndpointResponse(webhook_endpoint=endpoint_to_proto(endpoint))

    async def DeleteWebhookEndpoint(
        self, request: pb.DeleteWebhookEndpointRequest, context: Any
    ) -> pb.DeleteWebhookEndpointResponse:
        async with self._db.write(tenant_id()) as tx:
            await service.delete_endpoint(tx, parse_id(request.webhook_endpoint_id, "webhook_endpoint_id"))
        return pb.DeleteWebhookEndpointResponse()

    async def RotateWebhookSecret(
        self, request: pb.RotateWebhookSecretRequest, context: Any
    ) -> pb.RotateWebhookSecretResponse:
        endpoint_id = parse_id(request.webhook_endpoint_id, "webhook_endpoint_id")
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.RotateWebhookSecretResponse):
                return reply
            endpoint, secret = await service.rotate_secret(tx, endpoint_id, self._secrets)
            reply = pb.RotateWebhookSecretResponse(webhook_endpoint=endpoint_to_proto(endpoint), secret=secret)
            return await self._idempotency.save(tx, request, reply)

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Any
    ) -> pb.ListWebhookDeliveriesResponse:
        endpoint_id, key = parse_id(request.webhook_endpoint_id, "webhook_endpoint_id"), self._pages.after(request)
        async with self._db.read(tenant_id()) as tx:
            await service.get_endpoint(tx, endpoint_id)
            before, limit = key[0] if key else None, self._pages.limit(request)
            rows = await store.list_deliveries(tx, endpoint_id, before, limit)
        rows, more = self._pages.cut(request, rows, lambda row: [row[1].sequence])
        deliveries = [delivery_to_proto(*row) for row in rows]
        return pb.ListWebhookDeliveriesResponse(deliveries=deliveries, next_page_token=more)

    async def ReplayWebhookEvents(
        self, request: pb.ReplayWebhookEventsRequest, context: Any
    ) -> pb.ReplayWebhookEventsResponse:
        endpoint_id, wanted = parse_id(request.webhook_endpoint_id, "webhook_endpoint_id"), _range(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ReplayWebhookEventsResponse):
                return reply
            endpoint, sequences, more = await service.replay(tx, endpoint_id, wanted)
            if sequences:
                await self._deliveries.enqueue(tx, tenant_id(), endpoint_id, endpoint.answering)
            reply = pb.ReplayWebhookEventsResponse(
                event_count=len(sequences), after_sequence=sequences[-1] if sequences else 0, more=more
            )
            return await self._idempotency.save(tx, request, reply)

    async def SendTestEvent(self, request: pb.SendTestEventRequest, context: Any) -> pb.SendTestEventResponse:
        endpoint_id = parse_id(request.webhook_endpoint_id, "webhook_endpoint_id")
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.SendTestEventResponse):
                return reply
            event_id = await service.send_test(tx, endpoint_id)
            return await self._idempotency.save(tx, request, pb.SendTestEventResponse(event_id=str(event_id)))


def _names(types: Iterable[Any]) -> list[str]:
    return sorted(map(name_of, types))


def _range(request: pb.ReplayWebhookEventsRequest) -> Range:
    start = parse_timestamp(request.start_time, "start_time") if request.HasField("start_time") else None
    end = parse_timestamp(request.end_time, "end_time") if request.HasField("end_time") else None
    return Range((), request.after_sequence, request.last_sequence, start, end)
