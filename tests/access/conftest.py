from collections.abc import AsyncIterator

import pytest

from aiworkspace_server.app import App
from tests.support.people import NewPerson, Person
from tests.support.staff import Team, hire, make_team


@pytest.fixture(scope="session")
async def staff(new_person: NewPerson) -> dict[str, Person]:
    return await hire(new_person)


@pytest.fixture
async def team(staff: dict[str, Person]) -> Team:
    """A new organization of the same people."""
    return await make_team(staff)


@pytest.fixture
async def stranger(app: App) -> AsyncIterator[Person]:
    """Somebody without an account."""
    person = Person(app.address)
    yield person
    await person.channel.close()
