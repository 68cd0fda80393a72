"""Organizations' own keys at providers: tried, kept encrypted, used for that organization alone, and never shown."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import audit_pb2, chat_pb2, org_pb2
from aiworkspace.v1 import model_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.policies.vault import Vault
from aiworkspace_server.settings import Settings
from tests.standin import HttpError, Script, Standin
from tests.support.outcomes import NOT_FOUND, OK, PROVIDER_KEY_REFUSED, UNAVAILABLE, named, outcome, refusal
from tests.support.people import NewPerson, Person, Place, join, make_conversation, make_place
from tests.support.postgres import sql
from tests.support.runs import say, text_of
from tests.support.server_process import logging_everything
from tests.support.settings import environment, provider_settings, store_settings
from tests.support.stored import documents, rows
from tests.support.stores import Stores, other_databases

MODELS = {
    "openai": "openai/gpt-4o-mini",
    "anthropic": "anthropic/claude-haiku-4-5",
    "deepseek": "deepseek/deepseek-chat",
}


def new_key() -> str:
    return f"sk-canary-{secrets.token_hex(12)}"


def set_key(place: Place, secret: str, provider: str = "openai") -> Any:
    request = pb.SetProviderKeyRequest(org_id=place.org_id, provider=provider, secret=secret)
    return place.owner.models.SetProviderKey(request)


def delete_key(place: Place, provider: str = "openai") -> Any:
    return place.owner.models.DeleteProviderKey(pb.DeleteProviderKeyRequest(org_id=place.org_id, provider=provider))


async def list_keys(place: Place) -> list[pb.ProviderKey]:
    response = await place.owner.models.ListProviderKeys(pb.ListProviderKeysRequest(org_id=place.org_id))
    return list(response.provider_keys)


async def key_used(place: Place, standin: Standin, provider: str = "openai") -> str:
    """The key that the provider got with the next message."""
    standin.received.clear()
    await say(place.owner, place.conversation_id, "hello", model=MODELS[provider])
    return standin.received[0].key


@pytest.mark.parametrize("provider", MODELS)
async def test_an_organization_pays_with_its_own_key(
    place: Place, new_person: NewPerson, standin: Standin, settings: Settings, provider: str
) -> None:
    elsewhere, server_key = await make_place(await new_person()), getattr(settings, f"{provider}_api_key")
    own, next_one = new_key(), new_key()
    answer = await set_key(place, own, provider)
    stored = answer.provider_key
    assert (stored.provider, stored.hint, stored.creator_id) == (provider, own[-4:], place.owner.user_id)
    assert await list_keys(place) == [stored]
    assert await key_used(place, standin, provider) == own
    assert await key_used(elsewhere, standin, provider) == server_key.get_secret_value()
    await set_key(place, next_one, provider)
    assert await key_used(place, standin, provider) == next_one
    assert [key.hint for key in await list_keys(place)] == [next_one[-4:]]
    for _ in range(2):
        assert await outcome(delete_key(place, provider)) == OK
    assert await list_keys(place) == []
    assert await key_used(place, standin, provider) == server_key.get_secret_value()


@pytest.mark.parametrize("provider", MODELS)
async def test_a_key_that_is_refused_is_not_stored(place: Place, standin: Standin, provider: str) -> None:
    good, bad = new_key(), new_key()
    await set_key(place, good, provider)
    for status, expected in ((401, PROVIDER_KEY_REFUSED), (403, PROVIDER_KEY_REFUSED), (500, UNAVAILABLE)):
        standin.refusals[bad] = HttpError(status, "Incorrect API key provided: {key}.")
        refused = await refusal(set_key(place, bad, provider))
        assert refused is not None
        assert f"{refused.code} {refused.reason}" == expected
        assert bad.encode() not in refused.status
    assert [key.hint for key in await list_keys(place)] == [good[-4:]]
    assert await key_used(place, standin, provider) == good


@pytest.mark.parametrize("secret", ["short", "with-a-bell\a-in-it", "nön-ascii-key", "x" * 513])
async def test_what_cannot_be_a_key_is_refused_unasked(place: Place, standin: Standin, secret: str) -> None:
    asked = standin.models_asked
    assert await named(set_key(place, secret)) == ("secret",)
    assert standin.models_asked == asked


async def test_a_failure_with_the_own_key_never_falls_back_to_the_servers(place: Place, standin: Standin) -> None:
    own = new_key()
    await set_key(place, own)
    standin.received.clear()
    standin.script("gpt-4o-mini", Script(fault=HttpError(401, "Incorrect API key provided: {key}.")))
    events = await say(place.owner, place.conversation_id, "hello", model=MODELS["openai"])
    standin.script("gpt-4o-mini", Script())
    assert events[-1].HasField("run_failed")
    assert own not in repr(events)
    assert {received.key for received in standin.received} == {own}


async def test_a_key_that_was_sealed_with_a_lost_secret_is_told(place: Place, stores: Stores, standin: Standin) -> None:
    await set_key(place, new_key())
    lost = Vault([secrets.token_urlsafe(48)]).seal(UUID(place.org_id), "openai", new_key())
    change = "UPDATE provider_keys SET secret = %s, id = gen_random_uuid() WHERE org_id = %s"
    await sql(stores, change, lost, place.org_id)
    standin.received.clear()
    assert await outcome(say(place.owner, place.conversation_id, "hi", model=MODELS["openai"])) == PROVIDER_KEY_REFUSED
    assert standin.received == []
    await set_key(place, new_key())
    assert await outcome(say(place.owner, place.conversation_id, "hi", model=MODELS["openai"])) == OK


async def test_a_row_copied_to_another_organization_is_of_no_use(
    place: Place, new_person: NewPerson, stores: Stores, standin: Standin
) -> None:
    thief = await make_place(await new_person())
    await set_key(place, new_key())
    copy = (
        "INSERT INTO provider_keys SELECT %s, provider, gen_random_uuid(), secret, hint, creator_id, create_time "
        "FROM provider_keys WHERE org_id = %s"
    )
    await sql(stores, copy, thief.org_id, place.org_id)
    standin.received.clear()
    refused = await outcome(say(thief.owner, thief.conversation_id, "hi", model=MODELS["openai"]))
    assert (refused, standin.received) == (PROVIDER_KEY_REFUSED, [])


async def test_members_see_and_change_no_keys(place: Place, new_person: NewPerson) -> None:
    member, stranger = await new_person(), await new_person()
    await join(place.owner, place.org_id, member, org_pb2.ROLE_MEMBER)
    listing = pb.ListProviderKeysRequest(org_id=place.org_id)
    assert await outcome(member.models.ListProviderKeys(listing)) == "PERMISSION_DENIED PERMISSION_MISSING"
    assert await outcome(stranger.models.ListProviderKeys(listing)) == NOT_FOUND


# Servers of their own


@pytest.fixture
async def keyless(stores: Stores, standin: Standin) -> AsyncIterator[App]:
    """A server without keys."""
    values = store_settings(await other_databases(stores, f"keyless_{secrets.token_hex(4)}"))
    urls = {name: value for name, value in provider_settings(standin).items() if not name.endswith("_key")}
    async with running(Settings.model_validate(values | urls), migrating=True) as app:
        yield app


async def test_an_own_key_opens_models_to_its_organization_alone(keyless: App, standin: Standin) -> None:
    owner = await Person(keyless.address).register()
    place, other = await make_place(owner), await make_place(owner)
    model, own = MODELS["openai"], new_key()
    allow = pb.SetOrgModelPolicyRequest(org_id=place.org_id, policy=pb.ModelPolicy(allowed_models=["openai/*"]))
    assert await named(owner.models.SetOrgModelPolicy(allow)) == ("policy.allowed_models",)
    assert await named(say(owner, place.conversation_id, "hello", model=model)) == ("model",)
    await set_key(place, own)
    assert await key_used(place, standin) == own
    assert await make_conversation(owner, place.workspace_id, model)
    assert await named(make_conversation(owner, other.workspace_id, model)) == ("model",)
    assert await named(say(owner, other.conversation_id, "hello", model=model)) == ("model",)
    usable = await owner.models.ListWorkspaceModels(pb.ListWorkspaceModelsRequest(workspace_id=place.workspace_id))
    assert model in {each.model for each in usable.models}
    everywhere = await owner.chat.ListModels(chat_pb2.ListModelsRequest())
    assert [each.model for each in everywhere.models] == ["echo/echo"]
    assert await outcome(owner.models.SetOrgModelPolicy(allow)) == OK
    await delete_key(place)
    assert await named(say(owner, place.conversation_id, "hello", model=model)) == ("model",)
    await owner.channel.close()


async def test_keys_are_rotated_and_shown_nowhere(stores: Stores, standin: Standin, tmp_path: Path) -> None:
    own = await other_databases(stores, "rotated")
    first = Settings.model_validate(store_settings(own) | provider_settings(standin))
    second = Settings.model_validate(dict(first) | {"encryption_secret": secrets.token_urlsafe(48)})
    old = first.encryption_secret.get_secret_value()
    key, bad, said = new_key(), new_key(), ""
    standin.refusals[bad] = HttpError(401, "Incorrect API key provided: {key}.")
    async with logging_everything(first, tmp_path / "first") as address:
        owner = await Person(address).register()
        place = await make_place(owner)
        said += repr(await set_key(place, key)) + repr(await refusal(set_key(place, bad)))
        assert text_of(await say(owner, place.conversation_id, "hello", model=MODELS["openai"]))
        said += repr(await list_keys(place))
        entries = await owner.audit.ListAuditEvents(audit_pb2.ListAuditEventsRequest(org_id=place.org_id))
        said += repr(entries)
        assert "SetProviderKey" in said
        await owner.channel.close()
    before = await sql(own, "SELECT secret FROM provider_keys")
    assert await _rotate(second) == (1, b"re-encrypted: 0\n")
    assert await sql(own, "SELECT secret FROM provider_keys") == before
    assert await _rotate(second, old) == (0, b"re-encrypted: 1\n")
    assert await sql(own, "SELECT secret FROM provider_keys") != before
    async with logging_everything(second, tmp_path / "second") as address:
        person = Person(address)
        person.email = owner.email
        await person.log_in()
        standin.received.clear()
        await say(person, place.conversation_id, "hello", model=MODELS["openai"])
        assert standin.received[0].key == key
        await person.channel.close()
    left = await rows(own) | await documents(own)
    left |= {"answers": said} | {name: (tmp_path / name).read_text() for name in ("first", "second")}
    for secret in (key, bad):
        assert [place for place, text in left.items() if secret in text or secret.encode().hex() in text] == []
    assert key[-4:] in left["provider_keys"]


async def _rotate(settings: Settings, others: str = "") -> tuple[int | None, bytes]:
    command = sys.executable, "-m", "aiworkspace_server", "rotate-keys"
    more = {"ENCRYPTION_OTHER_SECRETS": others, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment(settings) | more,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    written, errors = await process.communicate()
    assert (process.returncode == 0) == (errors == b""), errors
    return process.returncode, written
