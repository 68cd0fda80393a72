from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.support.audit_log import Log
from tests.support.people import NewPerson, Person, make_org, people
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases


@dataclass(frozen=True)
class Company:
    """An organization of its own, whose log its owner reads."""

    owner: Person
    org_id: str

    @property
    def log(self) -> Log:
        return Log(self.owner, self.org_id)


@pytest.fixture
async def company(owner: Person) -> Company:
    return Company(owner, await make_org(owner))


@pytest.fixture(scope="module")
async def other_stores(stores: Stores) -> Stores:
    """Databases in which rights can be taken from the server without harm to other tests."""
    return await other_databases(stores, "audit")


@pytest.fixture(scope="module")
async def other_person(other_stores: Stores) -> AsyncIterator[NewPerson]:
    """Registers people at a server that works on them."""
    settings = Settings.model_validate(store_settings(other_stores))
    async with running(settings, migrating=True) as app, people(app.address) as new_person:
        yield new_person
