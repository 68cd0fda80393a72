"""After a deletion nothing that was written is stored: every field of the contract, every place of the stores."""

import asyncio
import uuid
from dataclasses import replace

import pytest

from aiworkspace.v1 import account_pb2, auth_pb2, chat_pb2, document_pb2, org_pb2, workspace_pb2
from tests.erasure.canaries import IN_ORG, IN_WORKSPACE, endpoints, new_canary, write
from tests.erasure.conftest import Site
from tests.standin import Script, Standin
from tests.support.belongings import furnish
from tests.support.documents import begin, read, upload
from tests.support.mailbox import CHANGE, Mailbox
from tests.support.people import Person, Place, join, make_conversation, make_place
from tests.support.postgres import sql, until_no_jobs
from tests.support.runs import OPENAI, events_of, messages_of, play, say, send, talk
from tests.support.sources import citations_of, read_all, until_cited
from tests.support.waiting import until

pytestmark = pytest.mark.waits


async def store_events(site: Site, standin: Standin, place: Place) -> None:
    """Lets an answer last until some of its events are stored apart from the run."""
    enough = talk(standin)
    reading = asyncio.create_task(say(place.owner, place.conversation_id, "hello", model=OPENAI))
    await until(lambda: site.count("run_events", org_id=place.org_id))
    enough.set()
    await reading


async def test_a_deleted_organization_leaves_no_text(site: Site, standin: Standin) -> None:
    canary, estate = new_canary(), await furnish(site.person)
    org_id, workspace_id = estate.ids["org_id"], estate.ids["workspace_id"]
    conversation_id = await make_conversation(estate.owner, workspace_id)
    await store_events(site, standin, Place(estate.owner, org_id, workspace_id, conversation_id))
    taken = await write(estate.owner, endpoints(*IN_ORG), estate.ids, canary)
    assert {
        "OrgService.UpdateOrg.org.name",
        "OrgService.CreateInvitation.email",
        "TeamService.CreateTeam.name",
        "AccessService.CreateCustomRole.name",
        "ServiceAccountService.CreateServiceAccount.name",
        "ServiceAccountService.CreateApiKey.name",
        "WorkspaceService.CreateWorkspace.system_prompt",
        "WorkspaceService.UpdateWorkspace.workspace.system_prompt",
        "ChatService.CreateConversation.title",
        "ChatService.UpdateConversation.conversation.title",
        "ChatService.SendMessage.content",
        "ModelService.SetProviderKey.secret",
        "DocumentService.CreateUpload.name",
        "DocumentService.UpdateDocument.document.name",
        "DocumentService.CreateCollection.description",
        "WebhookService.UpdateWebhookEndpoint.webhook_endpoint.description",
    } <= taken.keys()
    await upload(estate.owner, workspace_id, canary.encode(), name=canary)
    places = await site.find(canary)
    assert {"orgs", "invitations", "teams", "custom_roles", "users", "api_keys", "workspaces"} <= places.keys()
    assert {"conversations", "runs", "redis"} <= places.keys()
    assert {"documents", "collections", "uploads", "documents.chunks"} <= places.keys()
    assert "replies" not in places, "kept answers have no text, whatever was deleted"
    await estate.owner.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=estate.ids["org_id"]))
    await site.first_pass(estate.ids["org_id"])
    await until_no_jobs(site.stores)  # mails as well
    assert await site.find(canary) == {}
    await _check_only_ids_are_left(site, estate.ids["org_id"])
    await site.last_pass("org", estate.ids["org_id"])
    assert await site.find(canary) == {}


# Where ids of a deleted organization stay, as DeleteOrg says.
_KEPT = {
    "orgs",
    "workspaces",
    "run_claims",
    "ledger_entries",
    "usage_rollups",
    "audit_heads",
    "audit_events",
    "audit_resources",
    "audit_origins",
    "erasures",
    "replies",  # for a week, without any text
    "redis",  # counters of limits, for as long as these last
    "procrastinate_jobs",
    "log",
}


async def _check_only_ids_are_left(site: Site, org_id: str) -> None:
    places = await site.find(org_id)
    assert places.keys() <= _KEPT
    assert {"orgs", "ledger_entries", "usage_rollups", "audit_events"} <= places.keys()
    for collection in ("conversations", "runs", "run_events"):
        assert await site.count(collection, org_id=org_id) == 0
    for table in ("events", "event_heads", "webhook_endpoints", "webhook_deliveries"):
        assert await sql(site.stores, f"SELECT * FROM {table} WHERE org_id = %s", org_id) == []
    for table in ("provider_keys", "api_keys", "invitations", "memberships", "teams", "budgets", "budget_windows"):
        assert await sql(site.stores, f"SELECT * FROM {table} WHERE org_id = %s", org_id) == []


async def test_a_deleted_workspace_leaves_no_text(site: Site) -> None:
    canary, estate = new_canary(), await furnish(site.person)
    taken = await write(estate.owner, endpoints(*IN_WORKSPACE), estate.ids, canary)
    assert {
        "WorkspaceService.UpdateWorkspace.workspace.name",
        "ChatService.CreateConversation.title",
        "ChatService.SendMessage.content",
    } <= taken.keys()
    workspace_id = estate.ids["workspace_id"]
    await say(estate.member, await make_conversation(estate.member, workspace_id), canary)
    await upload(estate.member, workspace_id, canary.encode(), name=canary)
    places = await site.find(canary)
    assert {"workspaces", "conversations", "runs", "documents", "collections", "documents.chunks"} <= places.keys()
    await estate.owner.workspaces.DeleteWorkspace(workspace_pb2.DeleteWorkspaceRequest(workspace_id=workspace_id))
    await site.first_pass(workspace_id)
    assert await site.find(canary) == {}
    for collection in ("conversations", "runs"):
        assert await site.count(collection, workspace_id=workspace_id) == 0
    closed = estate.closed["conversation_id"]
    assert await site.count("runs", conversation_id=closed) == 1, "that of another workspace stays"
    await site.last_pass("workspace", workspace_id)


async def test_a_deleted_conversation_leaves_no_text(site: Site, standin: Standin) -> None:
    canary, place = new_canary(), await make_place(await site.person())
    request = chat_pb2.CreateConversationRequest(
        workspace_id=place.workspace_id, title=canary, request_id=str(uuid.uuid4())
    )
    conversation_id = (await place.owner.chat.CreateConversation(request)).conversation.conversation_id
    ids = {"conversation_id": conversation_id}
    taken = await write(place.owner, endpoints("conversation_id"), ids, canary)
    assert {"ChatService.UpdateConversation.conversation.title", "ChatService.SendMessage.content"} <= taken.keys()
    assert {"conversations", "runs", "redis"} <= (await site.find(canary)).keys()
    await store_events(site, standin, replace(place, conversation_id=conversation_id))
    await place.owner.chat.DeleteConversation(chat_pb2.DeleteConversationRequest(conversation_id=conversation_id))
    assert await site.find(canary) == {}
    assert await site.count("runs", conversation_id=conversation_id) == 0
    assert await site.count("run_events", org_id=place.org_id) == 0


async def test_a_deleted_document_leaves_no_text(site: Site, standin: Standin) -> None:
    canary, place = new_canary(), await make_place(await site.person())
    later = replace(place, conversation_id=await make_conversation(place.owner, place.workspace_id))
    for each in (place, later):
        await read_all(each)
    text = f"# {canary}\n\nThe {canary} is blue."
    document = await read(place.owner, place.workspace_id, text.encode(), name=f"{canary}.md")
    enough, blue = asyncio.Event(), ("The sea is blue", " [1]", ". ")
    lasting = Script(tokens=(*blue, *("word ",) * 600), seconds_per_token=0.1, enough=enough)
    model = play(standin, OPENAI, Script(tokens=blue), lasting)
    (citation,) = citations_of(await say(place.owner, place.conversation_id, "What is blue?", model=model))
    assert canary in citation.quote
    stream = send(later, "What is blue?", model=model)
    await until_cited(stream)
    await until(lambda: site.count("run_events", org_id=place.org_id))
    assert {"documents", "chunks", "postings", "document_texts", "runs"} <= (await site.find(canary)).keys()
    await place.owner.documents.DeleteDocument(document_pb2.DeleteDocumentRequest(document_id=document.document_id))
    await until(lambda: no_text_but_of_runs(site, canary))
    enough.set()
    await events_of(stream)
    await until(lambda: nothing_of(site, canary))
    for message in [(await messages_of(each))[-1] for each in (place, later)]:
        (left,) = message.citations
        assert (left.document_id, left.quote, left.document_name) == (document.document_id, "", "")
        assert (left.end, left.version_id, left.HasField("place")) == (citation.end, citation.version_id, True)


# Where the events of a run stay for a minute after its end.
EVENTS = {"redis"}


async def no_text_but_of_runs(site: Site, text: str) -> bool:
    return (await site.find(text)).keys() <= {"runs", "run_events"} | EVENTS


async def nothing_of(site: Site, text: str) -> bool:
    return (await site.find(text)).keys() <= EVENTS


async def test_a_deleted_account_leaves_no_text(site: Site, mailbox: Mailbox) -> None:
    canary, place = new_canary(), await make_place(await site.person())
    person = Person(site.server.address)
    site.people.append(person)
    person.email = f"{canary}@example.com"
    secret = uuid.uuid4().hex
    password = f"passphrase {secret}"
    registration = auth_pb2.RegisterRequest(
        email=person.email, password=password, display_name=canary, device_name=canary, request_id=str(uuid.uuid4())
    )
    person.sign_in(await person.auth.Register(registration))
    await join(place.owner, place.org_id, person, org_pb2.ROLE_MEMBER)
    other = await make_place(await site.person())
    await join(other.owner, other.org_id, person, org_pb2.ROLE_MEMBER)
    await begin(person, other.workspace_id, canary.encode(), name=canary)
    update = auth_pb2.UpdateMeRequest(user=auth_pb2.User(display_name=f"{canary} again"))
    update.update_mask.paths.append("display_name")
    await person.auth.UpdateMe(update)
    conversation_id = await make_conversation(person, place.workspace_id)
    await say(person, conversation_id, canary)
    left = await make_conversation(person, other.workspace_id)
    await say(person, left, canary)
    await other.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(org_id=other.org_id, user_id=person.user_id))
    change = account_pb2.ChangeEmailRequest(new_email=f"2{canary}@example.com", password=password)
    await person.accounts.ChangeEmail(change)
    await person.accounts.VerifyEmail(
        account_pb2.VerifyEmailRequest(token=await mailbox.token(f"2{canary}@example.com", CHANGE))
    )
    await other.owner.orgs.CreateInvitation(
        org_pb2.CreateInvitationRequest(org_id=other.org_id, email=f"2{canary}@example.com", role=org_pb2.ROLE_MEMBER)
    )
    await person.accounts.ChangeEmail(
        account_pb2.ChangeEmailRequest(new_email=f"3{canary}@example.com", password=password)
    )
    assert {"users", "sessions", "email_tokens", "invitations", "runs"} <= (await site.find(canary)).keys()
    await person.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=password))
    await site.first_pass(person.user_id)
    await until_no_jobs(site.stores)
    assert await site.find(canary, secret) == {}
    await site.last_pass("account", person.user_id)
    assert await site.count("runs", conversation_id=place.conversation_id) == 0
