"""What is in no export, in whatever form it is stored; and what people write, all of which is."""

import base64
import uuid
from typing import Any

import pytest

from aiworkspace.v1 import account_pb2, auth_pb2, model_pb2, org_pb2, service_account_pb2, webhook_pb2
from tests.contracts.updates import UPDATES, changeable
from tests.erasure.canaries import endpoints, write
from tests.support.belongings import Belongings, furnish
from tests.support.data_policies import hold
from tests.support.exports import exported
from tests.support.mailbox import RESET, Mailbox
from tests.support.people import NewPerson, Person, join
from tests.support.postgres import sql
from tests.support.settings import WEBHOOK_HOST
from tests.support.stores import Stores
from tests.support.surface import Endpoint, name_of, text_fields

PROVIDER_KEY = "sk-canary-of-a-provider-key"
PASSWORD = "canary of a passphrase"
# What is stored of secrets: hashes, and what the vault encrypted.
STORED = (
    "SELECT password_hash FROM users WHERE id IN (SELECT user_id FROM memberships WHERE org_id = %s)",
    "SELECT secret_hash FROM api_keys WHERE org_id = %s",
    "SELECT secret FROM provider_keys WHERE org_id = %s",
    "SELECT secret FROM webhook_endpoints WHERE org_id = %s",
    "SELECT previous_secret FROM webhook_endpoints WHERE org_id = %s",
    "SELECT token_hash FROM email_tokens WHERE user_id IN (SELECT user_id FROM memberships WHERE org_id = %s)",
)


async def tell_secrets(estate: Belongings, new_person: NewPerson, mailbox: Mailbox) -> list[str]:
    """Does what takes or gives a secret. Returns the secrets."""
    owner, org_id = estate.owner, estate.ids["org_id"]
    person = await new_person()
    change = auth_pb2.ChangePasswordRequest(current_password="a passphrase for tests", new_password=PASSWORD)
    await person.auth.ChangePassword(change)
    await join(owner, org_id, person, org_pb2.ROLE_MEMBER)
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    invited = org_pb2.CreateInvitationRequest(org_id=org_id, email="canary@example.com", role=org_pb2.ROLE_MEMBER)
    key = model_pb2.SetProviderKeyRequest(org_id=org_id, provider="anthropic", secret=PROVIDER_KEY)
    await owner.models.SetProviderKey(key)
    rotated = service_account_pb2.RotateApiKeyRequest(org_id=org_id, api_key_id=estate.ids["api_key_id"])
    made = webhook_pb2.CreateWebhookEndpointRequest(org_id=org_id, url=f"https://{WEBHOOK_HOST}/")
    endpoint = await owner.webhooks.CreateWebhookEndpoint(made)
    ids = {"org_id": org_id, "webhook_endpoint_id": endpoint.webhook_endpoint.webhook_endpoint_id}
    newer = await owner.webhooks.RotateWebhookSecret(webhook_pb2.RotateWebhookSecretRequest(**ids))
    return [
        PASSWORD,
        PROVIDER_KEY,
        estate.secret,
        (await owner.service_accounts.RotateApiKey(rotated)).secret,
        (await owner.orgs.CreateInvitation(invited)).token,
        await mailbox.token(person.email, RESET),
        *(endpoint.secret, newer.secret),
        *tokens_of(owner),
        *tokens_of(person),
    ]


def tokens_of(person: Person) -> tuple[str, str]:
    return person.tokens.access_token, person.tokens.refresh_token


def spellings(stored: Any) -> set[str]:
    """How something may be written in a file."""
    data = bytes(stored) if isinstance(stored, bytes | memoryview) else str(stored).encode()
    written = {data.decode(errors="replace"), data.hex(), base64.b64encode(data).decode()}
    return written | {base64.urlsafe_b64encode(data).decode().rstrip("=")}


async def test_no_secret_is_in_an_export(new_person: NewPerson, stores: Stores, mailbox: Mailbox) -> None:
    estate = await furnish(new_person)
    org_id = estate.ids["org_id"]
    secrets = {spelling for each in await tell_secrets(estate, new_person, mailbox) for spelling in spellings(each)}
    for query in STORED:
        stored = [value for (value,) in await sql(stores, query, org_id) if value]
        assert stored, query
        secrets |= {spelling for value in stored for spelling in spellings(value)}
    found = await exported(estate.owner, org_id)
    assert all(secrets)
    assert [secret for secret in secrets if secret in found.text] == []
    assert "canary@example.com" in found.text
    assert {"provider", "id", "creator_id", "create_time"} == found.rows("provider_keys")[0].keys(), "not its end, too"


# Methods whose texts are no part of the organization: questions, what is compared, and what is secret.
_NOT_STORED = {
    "AccessService.ExplainAccess",
    "BudgetService.ExplainLimit",
    "DocumentService.SearchDocuments",
    "ModelService.SetProviderKey",
    "UsageService.ReconcileUsage",
}
IN_ORG = ("conversation_id", "run_id", "document_id", "collection_id", "upload_id", "workspace_id", "org_id")


@pytest.mark.waits
async def test_all_that_people_write_is_in_an_export(new_person: NewPerson) -> None:
    """Each method with a text of its own in each of its fields. Of an update, the last text that was taken stays."""
    estate = await furnish(new_person)
    owner, org_id = estate.owner, estate.ids["org_id"]
    written: dict[str, str] = {}
    for endpoint in endpoints(*IN_ORG):
        if endpoint.reads or name_of(endpoint) in _NOT_STORED:
            continue
        for path in _stored_fields(endpoint):
            canary = f"canary-{uuid.uuid4().hex}"
            if taken := await write(owner, [endpoint], estate.ids, canary, only=path):
                written |= dict.fromkeys(taken, canary)
    written["DataService.SetLegalHold.reason"] = reason = f"canary-{uuid.uuid4().hex}"  # not kept without a hold
    await hold(owner, org_id, reason=reason)
    assert {
        "OrgService.UpdateOrg.org.name",
        "ChatService.SendMessage.content",
        "WorkspaceService.UpdateWorkspace.workspace.system_prompt",
        "DocumentService.CreateCollection.description",
    } <= written.keys()
    text = (await exported(owner, org_id)).text
    assert {name for name, canary in written.items() if canary not in text} == set()


def _stored_fields(endpoint: Endpoint) -> set[str]:
    """The texts of a request; of an update, those that it may change."""
    paths = {path for path, _ in text_fields(endpoint.descriptor.input_type)}
    if endpoint not in UPDATES:
        return paths
    return {path for path in paths if "." in path and path.split(".")[1] in changeable(endpoint)}
