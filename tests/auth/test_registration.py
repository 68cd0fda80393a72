"""Whom a server lets in: anybody, who is invited, or nobody but through its operator; and what registering leaves."""

from collections import Counter

import pytest

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import running
from aiworkspace_server.commands import CommandError
from aiworkspace_server.registration import register
from aiworkspace_server.settings import Settings
from tests.support.accounts import registration
from tests.support.audit_log import account_events
from tests.support.mailbox import RESET, Mailbox
from tests.support.outcomes import (
    ALREADY_EXISTS,
    EMAIL_UNVERIFIED,
    INVALID,
    OK,
    PASSWORD_WRONG,
    outcome,
    outcomes,
    refusal,
)
from tests.support.people import PASSWORD, NewPerson, Person, make_org, make_place, people
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.settings import mail_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until

CLOSED = "FAILED_PRECONDITION REGISTRATION_CLOSED"


async def own_server(stores: Stores, mailbox: Mailbox, name: str, **own: object) -> Settings:
    databases = await other_databases(stores, name)
    return Settings.model_validate(store_settings(databases) | mail_settings(mailbox) | own)


async def test_only_who_is_invited_registers_and_nothing_tells_who_has_an_account(
    stores: Stores, mailbox: Mailbox
) -> None:
    settings = await own_server(stores, mailbox, "invited_only", registration="invited")
    async with running(settings, migrating=True) as app:
        await register(settings, "owner@example.com", "Owner", PASSWORD)
        owner = Person(app.address)
        owner.email = "owner@example.com"
        await owner.log_in()
        org_id = await make_org(owner)

        async def register_as(email: str) -> str:
            return await outcome(owner.auth.Register(registration(email=email)))

        async def invite(email: str) -> str:
            request = org_pb2.CreateInvitationRequest(org_id=org_id, email=email, role=org_pb2.ROLE_VIEWER)
            return str((await owner.orgs.CreateInvitation(request)).invitation.invitation_id)

        refused = [
            await refusal(owner.auth.Register(registration(email=each))) for each in (owner.email, "x@y.example")
        ]
        assert refused[0] == refused[1], "an account looks like none"
        assert refused[0] is not None
        assert f"{refused[0].code} {refused[0].reason}" == CLOSED
        await invite("guest@example.com")
        assert await register_as(" Guest@Example.com ") == OK
        revoked = await invite("revoked@example.com")
        await owner.orgs.RevokeInvitation(org_pb2.RevokeInvitationRequest(org_id=org_id, invitation_id=revoked))
        expired = await invite("expired@example.com")
        own = Stores(str(settings.database_url.get_secret_value()), "", "") if settings.database_url else stores
        await sql(own, "UPDATE invitations SET expire_time = now() - interval '61 s' WHERE id = %s", expired)
        assert [await register_as(f"{name}@example.com") for name in ("revoked", "expired")] == [CLOSED] * 2
        await invite("late@example.com")
        await owner.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=org_id))
        assert await register_as("late@example.com") == CLOSED
        await owner.channel.close()


async def test_on_a_closed_server_the_operator_alone_makes_accounts(stores: Stores, mailbox: Mailbox) -> None:
    own = {"registration": "closed", "require_verified_email": True}
    settings = await own_server(stores, mailbox, "closed", **own)
    async with running(settings, migrating=True) as app:
        stranger = Person(app.address)
        assert await outcome(stranger.auth.Register(registration())) == CLOSED
        await register(settings, "Ada@Example.com", "Ada", PASSWORD)
        stranger.email = "ada@example.com"
        await stranger.log_in()
        assert await outcome(make_org(stranger)) == OK, "the operator vouches for the address"
        assert await outcome(stranger.auth.Register(registration(email="ada@example.com"))) == CLOSED
        await register(settings, "grace@example.com", "Grace", None)
        assert await mailbox.token("grace@example.com", RESET)
        await stranger.channel.close()


@pytest.mark.parametrize(
    ("email", "name", "password", "complaint"),
    [
        ("nobody", "Ann", PASSWORD, "must be a valid email address"),
        (".a@example.com", "Ann", PASSWORD, "mail can be sent"),
        ("ann@example.com", " ", PASSWORD, "display_name"),
        ("ann@example.com", "Ann", "password1234", "is easily guessed"),
        ("ann@example.com", "Ann", "short", "password"),
        ("{taken}", "Ann", PASSWORD, "already has an account"),
    ],
)
async def test_the_command_says_what_is_wrong(
    settings: Settings, new_person: NewPerson, email: str, name: str, password: str, complaint: str
) -> None:
    taken = (await new_person()).email
    with pytest.raises(CommandError, match=complaint):
        await register(settings, email.format(taken=taken), name, password)


# Who has not shown that mail arrives


async def test_an_account_that_is_not_verified_does_not_spend(stores: Stores, mailbox: Mailbox) -> None:
    """Also not in an organization that it made before that was demanded."""
    databases = await other_databases(stores, "unverified")
    values = store_settings(databases) | mail_settings(mailbox)
    async with running(Settings.model_validate(values), migrating=True) as app, people(app.address) as new_person:
        place = await make_place(await new_person())
        person, tokens = place.owner, place.owner.tokens
    strict = Settings.model_validate(values | {"require_verified_email": True})
    async with running(strict, migrating=True) as app:
        again = Person(app.address)
        again.bearer.token = tokens.access_token
        assert await outcome(say(again, place.conversation_id, "Hello", model="echo/echo")) == EMAIL_UNVERIFIED
        await sql(databases, "UPDATE users SET verify_time = now() WHERE id = %s", person.user_id)
        assert await outcome(say(again, place.conversation_id, "Hello", model="echo/echo")) == OK
        await again.channel.close()


# What strangers leave


async def test_registering_an_address_that_is_taken_hashes_nothing_and_leaves_nothing_in_its_log(
    new_person: NewPerson, stranger: Person, hashed: Counter[str]
) -> None:
    victim = await new_person()
    before = await account_events(victim)
    hashed.clear()
    calls = (stranger.auth.Register(registration(email=victim.email)) for _ in range(30))
    assert await outcomes(calls) == {ALREADY_EXISTS: 30}
    assert hashed == {}
    assert await outcome(stranger.auth.Login(pb.LoginRequest(email=victim.email, password="wrong"))) == PASSWORD_WRONG
    assert await outcome(stranger.auth.Register(registration(email=".a@example.com"))) == INVALID

    async def has_more() -> bool:
        return len(await account_events(victim)) > len(before)

    await until(has_more)
    after = await account_events(victim)
    assert [event.method for event in after[: len(after) - len(before)]] == ["AuthService/Login"]
