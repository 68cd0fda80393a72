"""Webhook endpoints and who receives what is sent to them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import web
from google.protobuf.field_mask_pb2 import FieldMask
from standardwebhooks import Webhook

from aiworkspace.v1 import webhook_pb2 as pb
from tests.support.people import Person
from tests.support.settings import WEBHOOK_HOST
from tests.support.sites import Page, Site, replying, site

PENDING = pb.WEBHOOK_DELIVERY_STATE_PENDING
SUCCEEDED = pb.WEBHOOK_DELIVERY_STATE_SUCCEEDED
FAILED = pb.WEBHOOK_DELIVERY_STATE_FAILED


class Receiver:
    """A server that keeps what is sent to it."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def url(self) -> str:
        return f"http://{WEBHOOK_HOST}:{self._site.port}/hook"

    @property
    def headers(self) -> list[dict[str, str]]:
        return [dict(request.headers) for request in self._site.requests]

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self._site.requests]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(body) for body in self._site.bodies]

    @property
    def types(self) -> list[str]:
        return [body["type"] for body in self.bodies]

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.headers]

    def verify(self, number: int, secret: str) -> Any:
        """What a receiver does with a request. Raises WebhookVerificationError."""
        return Webhook(secret).verify(self._site.bodies[number], self.headers[number])


@asynccontextmanager
async def receiver(page: Page | None = None) -> AsyncIterator[Receiver]:
    """One that answers with status 204, or with a page."""
    async with site(page or replying(status=204), WEBHOOK_HOST) as made:
        yield Receiver(made)


def statuses(*answers: int | dict[str, Any]) -> Page:
    """A page that answers with one after the other, and then with the last: a status, or status and headers."""
    left = [{"status": answer} if isinstance(answer, int) else answer for answer in answers]

    async def page(request: web.BaseRequest) -> web.Response:
        return web.Response(**(left.pop(0) if len(left) > 1 else left[0]))

    return page


@asynccontextmanager
async def silent() -> AsyncIterator[Receiver]:
    """One that takes every request and answers none."""
    end = asyncio.Event()

    async def page(request: web.BaseRequest) -> web.Response:
        await end.wait()
        return web.Response(status=500)

    async with receiver(page) as received:
        try:
            yield received
        finally:
            end.set()


async def make_endpoint(person: Person, org_id: str, url: str, **fields: Any) -> pb.CreateWebhookEndpointResponse:
    request = pb.CreateWebhookEndpointRequest(org_id=org_id, url=url, **fields)
    made: pb.CreateWebhookEndpointResponse = await person.webhooks.CreateWebhookEndpoint(request)
    return made


def named(endpoint: pb.WebhookEndpoint) -> dict[str, Any]:
    return {"org_id": endpoint.org_id, "webhook_endpoint_id": endpoint.webhook_endpoint_id}


async def get_endpoint(person: Person, endpoint: pb.WebhookEndpoint) -> pb.WebhookEndpoint:
    request = pb.GetWebhookEndpointRequest(**named(endpoint))
    found: pb.WebhookEndpoint = (await person.webhooks.GetWebhookEndpoint(request)).webhook_endpoint
    return found


async def update_endpoint(
    person: Person, endpoint: pb.WebhookEndpoint, *paths: str, **fields: Any
) -> pb.WebhookEndpoint:
    given = pb.WebhookEndpoint(**named(endpoint), **fields)
    request = pb.UpdateWebhookEndpointRequest(webhook_endpoint=given, update_mask=FieldMask(paths=paths))
    changed: pb.WebhookEndpoint = (await person.webhooks.UpdateWebhookEndpoint(request)).webhook_endpoint
    return changed


def delete_endpoint(person: Person, endpoint: pb.WebhookEndpoint) -> Any:
    return person.webhooks.DeleteWebhookEndpoint(pb.DeleteWebhookEndpointRequest(**named(endpoint)))


async def rotate(person: Person, endpoint: pb.WebhookEndpoint) -> str:
    """The new secret."""
    request = pb.RotateWebhookSecretRequest(**named(endpoint))
    return str((await person.webhooks.RotateWebhookSecret(request)).secret)


async def send_test(person: Person, endpoint: pb.WebhookEndpoint, **fields: Any) -> str:
    """The id of the event."""
    return str((await person.webhooks.SendTestEvent(pb.SendTestEventRequest(**named(endpoint), **fields))).event_id)


async def replay(person: Person, endpoint: pb.WebhookEndpoint, **fields: Any) -> pb.ReplayWebhookEventsResponse:
    request = pb.ReplayWebhookEventsRequest(**named(endpoint), **fields)
    response: pb.ReplayWebhookEventsResponse = await person.webhooks.ReplayWebhookEvents(request)
    return response


async def deliveries(person: Person, endpoint: pb.WebhookEndpoint) -> list[pb.WebhookDelivery]:
    """Newest event first."""
    request = pb.ListWebhookDeliveriesRequest(**named(endpoint), page_size=1000)
    return list((await person.webhooks.ListWebhookDeliveries(request)).deliveries)
