"""Rows that are deleted between two pages, that of the page token included: nothing that stays is missing or twice."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
    workspace_pb2,
)
from tests.people import PASSWORD, NewPerson, Place, make_conversation, make_org, make_place, make_workspace
from tests.spending import make_budget

COUNT, SIZE = 9, 3


@dataclass(frozen=True)
class Listed:
    """How rows of one kind are made, listed and deleted; `rows` and `id` are names of fields."""

    make: Callable[[Place, int], Awaitable[str]]
    list: Callable[[Place, str], Awaitable[Any]]  # with a page token
    delete: Callable[[Place, str], Awaitable[Any]]
    rows: str
    id: str


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


KINDS = {
    "conversations": Listed(
        lambda place, number: make_conversation(place.owner, place.workspace_id),
        lambda place, token: place.owner.chat.ListConversations(
            chat_pb2.ListConversationsRequest(workspace_id=place.workspace_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.chat.DeleteConversation(
            chat_pb2.DeleteConversationRequest(conversation_id=row_id)
        ),
        "conversations",
        "conversation_id",
    ),
    "workspaces": Listed(
        lambda place, number: make_workspace(place.owner, place.org_id),
        lambda place, token: place.owner.workspaces.ListWorkspaces(
            workspace_pb2.ListWorkspacesRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.workspaces.DeleteWorkspace(
            workspace_pb2.DeleteWorkspaceRequest(workspace_id=row_id)
        ),
        "workspaces",
        "workspace_id",
    ),
    "teams": Listed(
        _team,
        lambda place, token: place.owner.teams.ListTeams(
            team_pb2.ListTeamsRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.teams.DeleteTeam(
            team_pb2.DeleteTeamRequest(org_id=place.org_id, team_id=row_id)
        ),
        "teams",
        "team_id",
    ),
    "custom roles": Listed(
        _role,
        lambda place, token: place.owner.access.ListCustomRoles(
            access_pb2.ListCustomRolesRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.access.DeleteCustomRole(
            access_pb2.DeleteCustomRoleRequest(org_id=place.org_id, custom_role_id=row_id)
        ),
        "roles",
        "custom_role_id",
    ),
    "service accounts": Listed(
        _account,
        lambda place, token: place.owner.service_accounts.ListServiceAccounts(
            service_account_pb2.ListServiceAccountsRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.service_accounts.DeleteServiceAccount(
            service_account_pb2.DeleteServiceAccountRequest(org_id=place.org_id, user_id=row_id)
        ),
        "service_accounts",
        "user_id",
    ),
    "members": Listed(
        _account,
        lambda place, token: place.owner.orgs.ListMembers(
            org_pb2.ListMembersRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.orgs.RemoveMember(
            org_pb2.RemoveMemberRequest(org_id=place.org_id, user_id=row_id)
        ),
        "members",
        "user_id",
    ),
    "organizations": Listed(
        lambda place, number: make_org(place.owner),
        lambda place, token: place.owner.orgs.ListOrgs(org_pb2.ListOrgsRequest(page_size=SIZE, page_token=token)),
        lambda place, row_id: place.owner.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=row_id)),
        "orgs",
        "org_id",
    ),
    "budgets": Listed(
        _budget,
        lambda place, token: place.owner.budgets.ListBudgets(
            budget_pb2.ListBudgetsRequest(org_id=place.org_id, page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.budgets.DeleteBudget(
            budget_pb2.DeleteBudgetRequest(org_id=place.org_id, budget_id=row_id)
        ),
        "budgets",
        "budget_id",
    ),
    "sessions": Listed(
        _session,
        lambda place, token: place.owner.auth.ListSessions(
            auth_pb2.ListSessionsRequest(page_size=SIZE, page_token=token)
        ),
        lambda place, row_id: place.owner.auth.RevokeSession(auth_pb2.RevokeSessionRequest(session_id=row_id)),
        "sessions",
        "session_id",
    ),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_a_list_goes_on_after_rows_of_it_were_deleted(kind: Listed, new_person: NewPerson) -> None:
    place = await make_place(await new_person())
    made = [await kind.make(place, number) for number in range(COUNT)]
    page = await kind.list(place, "")
    seen = [getattr(row, kind.id) for row in getattr(page, kind.rows)]
    unseen = [row_id for row_id in made if row_id not in seen]
    gone = [*{seen[0], seen[-1]}.intersection(made), unseen[0], unseen[-1]]  # the last one is what the token names
    for row_id in gone:
        await kind.delete(place, row_id)
    while page.next_page_token:
        page = await kind.list(place, page.next_page_token)
        seen += [getattr(row, kind.id) for row in getattr(page, kind.rows)]
    assert len(seen) == len(set(seen)), "told twice"
    assert set(made) - set(gone) <= set(seen), "skipped"
    assert not {unseen[0], unseen[-1]} & set(seen), "told after its deletion"
