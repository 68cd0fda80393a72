import pytest

from tests.support.people import NewPerson, Person
from tests.support.staff import Team, hire, make_team


@pytest.fixture(scope="session")
async def staff(new_person: NewPerson) -> dict[str, Person]:
    return await hire(new_person)


@pytest.fixture
async def team(staff: dict[str, Person]) -> Team:
    """A new organization of the same people."""
    return await make_team(staff)
