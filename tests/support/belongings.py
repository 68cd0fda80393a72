"""An organization with one of everything in it, and the ids of that by the names of the fields that hold such an id."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from aiworkspace.v1 import (
    access_pb2,
    budget_pb2,
    common_pb2,
    data_pb2,
    document_pb2,
    model_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    workspace_pb2,
)
from tests.support.documents import begin, read
from tests.support.exports import export_org
from tests.support.people import NewPerson, Person, join, make_conversation, make_org, make_workspace
from tests.support.runs import say
from tests.support.settings import WEBHOOK_HOST
from tests.support.webhooks import make_endpoint, send_test, update_endpoint

Ids = Mapping[str, str]

# Fields that hold the id of a person, whatever they are called.
PEOPLE = ("user_id", "service_account_id")


@dataclass(frozen=True)
class Belongings:
    """`ids` are the owner's: of the organization, of its open workspace, and of a conversation there.

    The other ones are what is somebody's own within the organization.
    """

    owner: Person
    member: Person
    ids: Ids
    owners: Ids  # conversation, run, session and upload of the owner, in the open workspace
    members: Ids  # those of the member
    closed: Ids  # a workspace that is open to the owner alone, and their conversation and run in it
    secret: str  # of an API key for the open workspace


async def furnish(new_person: NewPerson, model: str = "") -> Belongings:
    owner, member, subject = await new_person(), await new_person(), await new_person()
    org_id = await make_org(owner)
    for person in (member, subject):
        await join(owner, org_id, person, org_pb2.ROLE_MEMBER)
    workspace_id = await make_workspace(owner, org_id)
    owners = await _talk(owner, workspace_id, model)
    ids = {"org_id": org_id, "workspace_id": workspace_id, "user_id": subject.user_id, **owners}
    ids["invitation_id"] = await _invite(owner, org_id)
    ids |= await _make_role(owner, org_id) | await _make_team(owner, org_id, workspace_id, subject)
    ids |= await _make_budget(owner, org_id) | await keep_documents(owner, workspace_id)
    ids |= await _make_webhook(owner, org_id) | await _make_erasure(owner, org_id)
    keys, secret = await _make_key(owner, org_id, workspace_id)
    hidden = await make_workspace(owner, org_id, visibility=workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS)
    closed = {**await _talk(owner, hidden, model), **await keep_documents(owner, hidden), "workspace_id": hidden}
    del closed["session_id"]
    ids["job_id"] = f"{UUID(int=1)}"  # of nobody: only operators may name one
    await _regulate(owner, org_id, workspace_id)
    members = await _talk(member, workspace_id, model)
    ids["export_id"] = (await export_org(owner, org_id)).export_id
    return Belongings(owner, member, ids | keys, owners, members, closed, secret)


async def _talk(person: Person, workspace_id: str, model: str) -> dict[str, str]:
    conversation_id = await make_conversation(person, workspace_id, model)
    events = await say(person, conversation_id, "hello")
    run = events[-1].run_completed.run
    assert run.run_id, events
    return {
        "conversation_id": conversation_id,
        "run_id": run.run_id,
        "active_run_id": run.run_id,
        "message_id": run.message_id,
        "user_message_id": run.user_message_id,
        "session_id": person.tokens.session_id,
        "upload_id": await begin(person, workspace_id, b"on its way"),
    }


async def keep_documents(owner: Person, workspace_id: str) -> dict[str, str]:
    """Put a document into a collection. Return the ids of both, and of the document's version."""
    make = document_pb2.CreateCollectionRequest(workspace_id=workspace_id, name="Papers")
    collection_id = (await owner.documents.CreateCollection(make)).collection.collection_id
    data = f"kept in {workspace_id}".encode()
    document = await read(owner, workspace_id, data, collection_ids=[collection_id])
    ids = {"document_id": document.document_id, "version_id": document.version_id}
    return ids | {"collection_id": collection_id}


async def _invite(owner: Person, org_id: str) -> str:
    request = org_pb2.CreateInvitationRequest(org_id=org_id, email="i@example.com", role=org_pb2.ROLE_VIEWER)
    return str((await owner.orgs.CreateInvitation(request)).invitation.invitation_id)


async def _make_role(owner: Person, org_id: str) -> dict[str, str]:
    request = access_pb2.CreateCustomRoleRequest(org_id=org_id, name="Reader", permissions=["org.read"])
    return {"custom_role_id": (await owner.access.CreateCustomRole(request)).role.custom_role_id}


async def _make_team(owner: Person, org_id: str, workspace_id: str, subject: Person) -> dict[str, str]:
    team_id = (await owner.teams.CreateTeam(team_pb2.CreateTeamRequest(org_id=org_id, name="Team"))).team.team_id
    whose = {"org_id": org_id, "team_id": team_id, "user_id": subject.user_id}
    await owner.teams.AddTeamMember(team_pb2.AddTeamMemberRequest(**whose))
    for who in ({"team_id": team_id}, {"user_id": subject.user_id}):
        request = workspace_pb2.SetWorkspaceMemberRequest(
            workspace_id=workspace_id, role=workspace_pb2.WORKSPACE_ROLE_EDITOR, **who
        )
        await owner.workspaces.SetWorkspaceMember(request)
    return {"team_id": team_id}


async def _regulate(owner: Person, org_id: str, workspace_id: str) -> None:
    """Policies that forbid and delete nothing, and a key at a provider that is not asked."""
    policy = model_pb2.ModelPolicy(limits=[model_pb2.ModelLimit(model="echo/*")])
    await owner.models.SetOrgModelPolicy(model_pb2.SetOrgModelPolicyRequest(org_id=org_id, policy=policy))
    there = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=workspace_id, policy=policy)
    await owner.models.SetWorkspaceModelPolicy(there)
    key = model_pb2.SetProviderKeyRequest(org_id=org_id, provider="deepseek", secret=f"sk-of-{org_id}")
    await owner.models.SetProviderKey(key)
    retention = data_pb2.Retention(conversation_days=36500)
    await owner.data.SetRetention(data_pb2.SetRetentionRequest(org_id=org_id, retention=retention))


async def _make_budget(owner: Person, org_id: str) -> dict[str, str]:
    limit = common_pb2.Money(currency_code="USD", nanos=10**12)
    scope, window = budget_pb2.BUDGET_SCOPE_ORG, budget_pb2.BUDGET_WINDOW_DAY
    request = budget_pb2.CreateBudgetRequest(org_id=org_id, scope=scope, window=window, limit=limit, hard=True)
    return {"budget_id": (await owner.budgets.CreateBudget(request)).budget.budget_id}


async def _make_webhook(owner: Person, org_id: str) -> dict[str, str]:
    """An endpoint at which nobody listens, with a delivery. It is disabled, so that nothing else is sent."""
    endpoint = (await make_endpoint(owner, org_id, f"https://{WEBHOOK_HOST}/")).webhook_endpoint
    await send_test(owner, endpoint)
    await update_endpoint(owner, endpoint, "enabled")
    return {"webhook_endpoint_id": endpoint.webhook_endpoint_id}


async def _make_erasure(owner: Person, org_id: str) -> dict[str, str]:
    """One that erases nothing: it is cancelled."""
    erasure = (await owner.data.EraseOrg(data_pb2.EraseOrgRequest(org_id=org_id))).erasure
    request = data_pb2.CancelErasureRequest(org_id=org_id, erasure_id=erasure.erasure_id)
    await owner.data.CancelErasure(request)
    return {"erasure_id": erasure.erasure_id}


async def _make_key(owner: Person, org_id: str, workspace_id: str) -> tuple[dict[str, str], str]:
    """A service account with the powers of an admin, and a key for one workspace."""
    accounts = owner.service_accounts
    request = service_account_pb2.CreateServiceAccountRequest(org_id=org_id, name="Robot", role=org_pb2.ROLE_ADMIN)
    user_id = (await accounts.CreateServiceAccount(request)).service_account.user_id
    permissions = ["workspace.read", "workspace.update", "chat.read", "chat.send", "document.read", "document.write"]
    key = await accounts.CreateApiKey(
        service_account_pb2.CreateApiKeyRequest(
            org_id=org_id, user_id=user_id, name="Key", permissions=permissions, workspace_ids=[workspace_id]
        )
    )
    return {"service_account_id": user_id, "api_key_id": key.api_key.api_key_id}, key.secret
