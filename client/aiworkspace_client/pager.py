"""Lists that fetch their pages as they are read."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from aiworkspace_client.portal import Portal


class Page(Protocol):
    """The common part of all list responses."""

    next_page_token: str


ItemT = TypeVar("ItemT")
T = TypeVar("T")
PageT = TypeVar("PageT", bound=Page)


class Joiner(Protocol[ItemT]):
    """Joins items that are sent in parts."""

    def take(self, item: ItemT) -> ItemT | None:
        """Return the whole item, or None while parts of it are missing."""


class AsIs(Generic[ItemT]):
    """A joiner for items that are never sent in parts."""

    def take(self, item: ItemT) -> ItemT | None:
        return item


class AsyncPager(Generic[ItemT, PageT]):
    """The items of a list: `async for item in pager`. Every iteration starts again from the first page."""

    def __init__(
        self, fetch: Callable[[str], Awaitable[PageT]], items: Callable[[PageT], Sequence[ItemT]], page_token: str
    ) -> None:
        self._fetch = fetch
        self._page_token = page_token
        self.items = items
        self.joiner: Callable[[], Joiner[ItemT]] = AsIs
        """Returns the joiner for one iteration."""

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        joiner = self.joiner()
        async for page in self.pages():
            for item in self.items(page):
                if (whole := joiner.take(item)) is not None:
                    yield whole

    async def pages(self) -> AsyncIterator[PageT]:
        """Return the responses, one for each page. A page's next_page_token can be passed as page_token later."""
        page = await self.first_page()
        yield page
        while page.next_page_token:
            page = await self._fetch(page.next_page_token)
            yield page

    async def first_page(self) -> PageT:
        """Return only the first response."""
        return await self._fetch(self._page_token)


class Pager(Generic[ItemT, PageT]):
    """The items of a list: `for item in pager`. Every iteration starts again from the first page."""

    def __init__(self, portal: Portal, pager: AsyncPager[ItemT, PageT]) -> None:
        self._portal = portal
        self._pager = pager

    def __iter__(self) -> Iterator[ItemT]:
        joiner = self._pager.joiner()
        for page in self.pages():
            for item in self._pager.items(page):
                if (whole := joiner.take(item)) is not None:
                    yield whole

    def pages(self) -> Iterator[PageT]:
        """Return the responses, one for each page. A page's next_page_token can be passed as page_token later."""
        pages = self._pager.pages()
        while (page := self._portal.run(anext_or_none(pages))) is not None:
            yield page

    def first_page(self) -> PageT:
        """Return only the first response."""
        return self._portal.run(self._pager.first_page())


async def anext_or_none(items: AsyncIterator[T]) -> T | None:
    """Return the next item, or None after the last one."""
    return await anext(items, None)
