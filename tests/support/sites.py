"""Web sites on this machine, for the client of other people's URLs."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Page = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Site:
    """A server that answers every path with its page, and keeps the requests."""

    def __init__(self, page: Page) -> None:
        self.port = 0
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self._page = page

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        return await self._page(request)


def replying(**fields: Any) -> Page:
    """A page that is always the same, and made anew for each request."""

    async def page(request: web.BaseRequest) -> web.Response:
        return web.Response(**fields)

    return page


@asynccontextmanager
async def site(page: Page, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    made = Site(page)
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    await web.TCPSite(runner, host, 0, ssl_context=tls).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()
