"""Lists, page by page."""

from typing import Any

from hypothesis import HealthCheck, settings

# For tests that try page sizes: each of them makes calls, on fixtures that do not change.
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def read_all(method: Any, request: Any, rows: str, size: int) -> list[Any]:
    """All rows of a list, in pages of this size. `rows` is the name of their field in the response."""
    found: list[Any] = []
    asked = type(request)()
    asked.CopyFrom(request)
    asked.page_size = size
    while True:
        page = await method(asked)
        on_page = getattr(page, rows)
        found += on_page
        assert len(on_page) <= size
        if not page.next_page_token:
            return found
        assert len(on_page) == size, "a page with another one after it is full"
        asked.page_token = page.next_page_token
