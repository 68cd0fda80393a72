"""A role of an organization's own is never taken for a built-in one."""
# ruff: noqa: RUF001 - letters that look like others are what this is about

import pytest

from tests.support.custom_roles import create, make_role, update
from tests.support.outcomes import OK, named, outcome
from tests.support.people import Person, make_org

TAKEN = (
    "owner", "Owner", "OWNER", " owner ", "o w n e r", "Owner.", "own-er", "ＯＷＮＥＲ", "оwner", "0wner", "ownеr",
    "ówner",
    "admin", "Аdmin", "adm1n", "ADMIN!", "member", "viewer", "billing", "custom", "editor", "manager", "ᵒwner",
    "νiewer", "ɑdmin", "օwner", "оwոer", "օwոeг", "mеmbеr", "ADMIΝ", "øwner",
)  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
async def test_the_name_of_a_built_in_role_is_taken(name: str, owner: Person) -> None:
    org_id = await make_org(owner)
    assert await named(create(owner, org_id, "org.read", name=name)) == ("name",)
    role_id = await make_role(owner, org_id, "org.read")
    assert await named(update(owner, org_id, role_id, "name", name=name)) == ("role.name",)


@pytest.mark.parametrize(
    "name", ["Owner of models", "Co-owner", "Admins", "Team admin", "Владелец", "Админ", "Billing clerk", "管理者"]
)
async def test_other_names_are_free(name: str, owner: Person) -> None:
    assert await outcome(create(owner, await make_org(owner), "org.read", name=name)) == OK
