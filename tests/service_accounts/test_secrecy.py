"""What makes a key is in no table, no log and no error."""

import json
import uuid
from base64 import b64encode
from pathlib import Path

import pytest

from aiworkspace.v1 import auth_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.outcomes import refusal
from tests.support.people import Person, connections, make_conversation, make_org, make_workspace
from tests.support.runs import say
from tests.support.server_process import logging_everything
from tests.support.service_accounts import NewBackend, key_request, make_account
from tests.support.settings import provider_settings, store_settings
from tests.support.stored import documents, rows
from tests.support.stores import Stores, other_databases


async def use_keys(owner: Person, new_backend: NewBackend) -> tuple[list[str], bytes]:
    """Makes, rotates, uses, misuses and revokes keys. Returns them, and all that the server said of refused calls."""
    org_id = await make_org(owner)
    workspace_id = await make_workspace(owner, org_id)
    user_id = await make_account(owner, org_id)
    request = key_request(org_id, user_id, request_id=str(uuid.uuid4()))
    made = await owner.service_accounts.CreateApiKey(request)
    await owner.service_accounts.CreateApiKey(request)
    rotation = pb.RotateApiKeyRequest(org_id=org_id, api_key_id=made.api_key.api_key_id, overlap_seconds=60)
    rotation.request_id = str(uuid.uuid4())
    rotated = await owner.service_accounts.RotateApiKey(rotation)
    await owner.service_accounts.RotateApiKey(rotation)
    secrets = [made.secret, rotated.secret]
    said = b""
    for secret in secrets:
        backend = new_backend(secret)
        await say(backend, await make_conversation(backend, workspace_id), "hello")
        said += _text(await refusal(backend.auth.UpdateMe(auth_pb2.UpdateMeRequest())))
        wrong = secret[:-1] + ("a" if secret[-1] != "a" else "b")
        said += _text(await refusal(new_backend(wrong).auth.GetMe(auth_pb2.GetMeRequest())))
    for key in (made.api_key, rotated.api_key):
        revocation = pb.RevokeApiKeyRequest(org_id=org_id, api_key_id=key.api_key_id)
        said += (await owner.service_accounts.RevokeApiKey(revocation)).SerializeToString()
    said += _text(await refusal(new_backend(secrets[0]).auth.GetMe(auth_pb2.GetMeRequest())))
    listed = await owner.service_accounts.ListApiKeys(pb.ListApiKeysRequest(org_id=org_id))
    return secrets, said + listed.SerializeToString()


def _text(refused: object) -> bytes:
    assert refused is not None
    return repr(refused).encode()


@pytest.fixture(scope="module")
async def traces(
    stores: Stores, standin: Standin, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, str]]:
    """The keys, and what is left of them: by table, in the log, in answers."""
    own = await other_databases(stores, "key_secrecy")
    settings = Settings.model_validate(store_settings(own) | provider_settings(standin))
    output: Path = tmp_path_factory.mktemp("log") / "output"
    async with logging_everything(settings, output) as address:
        owner = Person(address)
        await owner.register()
        async with connections(address) as new_backend:
            secrets, said = await use_keys(owner, new_backend)
        await owner.channel.close()
    left = await rows(own) | await documents(own)
    return secrets, left | {"log": output.read_text(), "answers": said.decode("latin-1")}


def test_a_key_is_nowhere(traces: tuple[list[str], dict[str, str]]) -> None:
    secrets, left = traces
    for secret in secrets:
        body = secret[13:]  # lists show what comes before
        forms = [body, body.encode().hex(), secret.encode().hex(), b64encode(secret.encode()).decode()]
        assert [place for place, text in left.items() if any(form in text for form in forms)] == []


def test_what_may_be_seen_of_it_is(traces: tuple[list[str], dict[str, str]]) -> None:
    """Else the absence would prove nothing."""
    secrets, left = traces
    assert all(secret[:13] in left["api_keys"] and secret[:13] in left["answers"] for secret in secrets)
    assert {"api_keys", "replies", "users", "runs"} <= set(left)
    assert "CreateApiKey" in left["log"]
    calls = [json.loads(line) for line in left["log"].splitlines() if line.startswith("{")]
    assert "UNAUTHENTICATED" in {line.get("code") for line in calls}
