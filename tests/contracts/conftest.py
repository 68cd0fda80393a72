from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import App, running
from aiworkspace_server.audit.models import OPERATORS
from aiworkspace_server.settings import Settings
from tests.contracts.snapshot import Snapshots
from tests.standin import Standin
from tests.support.belongings import Belongings, furnish
from tests.support.operators import appoint
from tests.support.people import NewPerson, Person, people
from tests.support.postgres import Owner, as_owner
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.surface import Endpoint


@dataclass(frozen=True)
class Estate:
    """A server of its own with two organizations that have one of everything, and nobody else on it."""

    app: App
    new_person: NewPerson
    ours: Belongings
    theirs: Belongings
    snapshots: Snapshots
    standin: Standin
    postgres: Owner
    operator: Person

    def caller(self, endpoint: Endpoint) -> Person:
        """Our owner, or the operator for what only operators may."""
        return self.operator if endpoint.access.mode == options.ACCESS_MODE_OPERATOR else self.ours.owner


@pytest.fixture(scope="module")
async def estate(request: pytest.FixtureRequest, stores: Stores) -> AsyncIterator[Estate]:
    elsewhere = await other_databases(stores, f"estate_{request.module.__name__.rpartition('.')[2]}")
    async with Standin() as standin, as_owner(elsewhere) as owner:
        settings = Settings.model_validate(provider_settings(standin) | store_settings(elsewhere))
        async with running(settings, migrating=True) as app, people(app.address) as new_person:
            ours = await furnish(new_person, "openai/gpt-4o-mini")
            theirs = await furnish(new_person, "openai/gpt-4o-mini")
            callers = [ours.ids["org_id"], ours.owner.user_id, ours.member.user_id, str(OPERATORS)]
            operator = await appoint(elsewhere, new_person)
            yield Estate(app, new_person, ours, theirs, Snapshots(owner, app, callers), standin, owner, operator)
