from collections.abc import AsyncIterator

import pytest

from aiworkspace_server.app import App
from tests.support.people import NewPerson, Person
from tests.support.service_accounts import NewBackend, backends
from tests.support.staff import Team, hire, make_team


@pytest.fixture(scope="session")
async def staff(new_person: NewPerson) -> dict[str, Person]:
    return await hire(new_person)


@pytest.fixture
async def team(staff: dict[str, Person]) -> Team:
    """A new organization of the same people."""
    return await make_team(staff)


@pytest.fixture(scope="session")
async def new_backend(app: App) -> AsyncIterator[NewBackend]:
    """Somebody who calls with a key: `new_backend(secret)`."""
    async with backends(app.address) as new_backend:
        yield new_backend
