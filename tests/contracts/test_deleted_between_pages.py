"""Rows that are deleted between two pages, that of the page token included: nothing that stays is missing or twice."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from aiworkspace.v1 import (
    access_pb2,
    auth_pb2,
    budget_pb2,
    chat_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    webhook_pb2,
    workspace_pb2,
)
from tests.support.budgets import make_budget
from tests.support.people import PASSWORD, NewPerson, Place, make_conversation, make_org, make_place, make_workspace
from tests.support.settings import WEBHOOK_HOST
from tests.support.webhooks import make_endpoint

COUNT, SIZE = 9, 3


@dataclass(frozen=True)
class Listed:
    """How rows of one kind are made, listed and deleted. All but `make` and `contract` are names in the contract."""

    make: Callable[[Place, int], Awaitable[str]]
    contract: ModuleType
    stub: str
    list_method: str
    delete_method: str
    rows: str
    id: str

    async def list(self, place: Place, page_token: str) -> Any:
        return await self._call(place, self.list_method, page_size=SIZE, page_token=page_token)

    async def delete(self, place: Place, row_id: str) -> None:
        await self._call(place, self.delete_method, **{self.id: row_id})

    async def _call(self, place: Place, method: str, **fields: Any) -> Any:
        """Call the method with these fields, in the place as far as its request has fields for one."""
        request = getattr(self.contract, f"{method}Request")
        where = {"org_id": place.org_id, "workspace_id": place.workspace_id}
        there = {name: value for name, value in where.items() if name in request.DESCRIPTOR.fields_by_name}
        return await getattr(getattr(place.owner, self.stub), method)(request(**(there | fields)))


async def _conversation(place: Place, number: int) -> str:
    return await make_conversation(place.owner, place.workspace_id)


async def _workspace(place: Place, number: int) -> str:
    return await make_workspace(place.owner, place.org_id)


async def _org(place: Place, number: int) -> str:
    return await make_org(place.owner)


async def _team(place: Place, number: int) -> str:
    made = await place.owner.teams.CreateTeam(team_pb2.CreateTeamRequest(org_id=place.org_id, name=f"T{number}"))
    return str(made.team.team_id)


async def _role(place: Place, number: int) -> str:
    request = access_pb2.CreateCustomRoleRequest(org_id=place.org_id, name=f"R{number}", permissions=["org.read"])
    return str((await place.owner.access.CreateCustomRole(request)).role.custom_role_id)


async def _account(place: Place, number: int) -> str:
    request = service_account_pb2.CreateServiceAccountRequest(
        org_id=place.org_id, name=f"S{number}", role=org_pb2.ROLE_MEMBER
    )
    return str((await place.owner.service_accounts.CreateServiceAccount(request)).service_account.user_id)


async def _session(place: Place, number: int) -> str:
    request = auth_pb2.LoginRequest(email=place.owner.email, password=PASSWORD, device_name=f"D{number}")
    return str((await place.owner.auth.Login(request)).tokens.session_id)


async def _budget(place: Place, number: int) -> str:
    return (await make_budget(place.owner, place.org_id, 10**12 + number)).budget_id


async def _webhook(place: Place, number: int) -> str:
    made = await make_endpoint(place.owner, place.org_id, f"https://{WEBHOOK_HOST}/{number}")
    return made.webhook_endpoint.webhook_endpoint_id


KINDS = [
    Listed(
        _conversation,
        chat_pb2, "chat", "ListConversations", "DeleteConversation", "conversations", "conversation_id",
    ),
    Listed(
        _workspace,
        workspace_pb2, "workspaces", "ListWorkspaces", "DeleteWorkspace", "workspaces", "workspace_id",
    ),
    Listed(_team, team_pb2, "teams", "ListTeams", "DeleteTeam", "teams", "team_id"),
    Listed(_role, access_pb2, "access", "ListCustomRoles", "DeleteCustomRole", "roles", "custom_role_id"),
    Listed(
        _account,
        service_account_pb2, "service_accounts", "ListServiceAccounts", "DeleteServiceAccount", "service_accounts",
        "user_id",
    ),
    Listed(_account, org_pb2, "orgs", "ListMembers", "RemoveMember", "members", "user_id"),
    Listed(_org, org_pb2, "orgs", "ListOrgs", "DeleteOrg", "orgs", "org_id"),
    Listed(_budget, budget_pb2, "budgets", "ListBudgets", "DeleteBudget", "budgets", "budget_id"),
    Listed(
        _webhook,
        webhook_pb2, "webhooks", "ListWebhookEndpoints", "DeleteWebhookEndpoint", "webhook_endpoints",
        "webhook_endpoint_id",
    ),
    Listed(_session, auth_pb2, "auth", "ListSessions", "RevokeSession", "sessions", "session_id"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.rows)
async def test_a_list_goes_on_after_rows_of_it_were_deleted(kind: Listed, new_person: NewPerson) -> None:
    place = await make_place(await new_person())
    made = [await kind.make(place, number) for number in range(COUNT)]
    page = await kind.list(place, "")
    seen = [getattr(row, kind.id) for row in getattr(page, kind.rows)]
    unseen = [row_id for row_id in made if row_id not in seen]
    gone = [*{seen[0], seen[-1]}.intersection(made), unseen[0], unseen[-1]]  # the token names the last that was seen
    for row_id in gone:
        await kind.delete(place, row_id)
    while page.next_page_token:
        page = await kind.list(place, page.next_page_token)
        seen += [getattr(row, kind.id) for row in getattr(page, kind.rows)]
    assert len(seen) == len(set(seen)), "told twice"
    assert set(made) - set(gone) <= set(seen), "skipped"
    assert not {unseen[0], unseen[-1]} & set(seen), "told after its deletion"
