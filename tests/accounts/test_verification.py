"""Email verification: a token that arrives by mail, and counts once, for a while, for one address."""

import hashlib
import uuid
from typing import Any

import pytest

from aiworkspace.v1 import account_pb2, auth_pb2, org_pb2
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.support.accounts import get_me, verify_email
from tests.support.mailbox import RESET, VERIFY, Mailbox
from tests.support.outcomes import EMAIL_UNVERIFIED, NOT_FOUND, OK, outcome, outcomes
from tests.support.people import PASSWORD, NewPerson, Person, make_org, people
from tests.support.postgres import sql, until_no_jobs
from tests.support.settings import mail_settings, store_settings
from tests.support.stores import Stores, other_databases


def ask(person: Person) -> Any:
    return person.accounts.RequestEmailVerification(account_pb2.RequestEmailVerificationRequest())


async def test_the_token_that_registering_mails_verifies_the_address(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    assert not (await get_me(person)).email_verified
    await verify_email(person, await mailbox.token(person.email, VERIFY))
    assert (await get_me(person)).email_verified


async def test_registering_again_with_the_same_request_id_mails_nothing(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person, email = await new_person(), f"{uuid.uuid4().hex}@example.com"
    request = auth_pb2.RegisterRequest(email=email, password=PASSWORD, display_name="Ann", request_id=str(uuid.uuid4()))
    for _ in range(3):
        await person.auth.Register(request)
    await until_no_jobs(stores)
    assert len(mailbox.of(email, VERIFY)) == 1


async def test_repeating_it_succeeds_and_changes_nothing(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    token = await mailbox.token(person.email, VERIFY)
    await verify_email(person, token)
    verified = await get_me(person)
    await verify_email(person, token)
    assert await get_me(person) == verified


async def test_of_fifty_callers_at_once_one_makes_the_change(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    token, etag = await mailbox.token(person.email, VERIFY), (await get_me(person)).etag
    assert await outcomes(verify_email(person, token) for _ in range(50)) == {OK: 50}
    assert int((await get_me(person)).etag) == int(etag) + 1


async def test_what_is_no_token_is_not_found(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    good, reset = await mailbox.token(person.email, VERIFY), await mailbox.token(person.email, RESET)
    for token in ("x", "\0", "ü" * 256, good[:-1], good + "=", good.swapcase(), reset, "A" * 43):
        assert await outcome(verify_email(person, token)) == NOT_FOUND
    assert not (await get_me(person)).email_verified


@pytest.mark.parametrize("used", [False, True])
async def test_a_token_expires(used: bool, new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    token = await mailbox.token(person.email, VERIFY)
    if used:
        await verify_email(person, token)
    older = "UPDATE email_tokens SET expire_time = expire_time - interval '{}' WHERE user_id = %s"
    await sql(stores, older.format("24 hours 30 seconds"), person.user_id)
    assert await outcome(verify_email(person, token)) == OK
    await sql(stores, older.format("1 minute") + " RETURNING 1", person.user_id)
    assert await outcome(verify_email(person, token)) == NOT_FOUND


async def test_a_newer_token_ends_the_older_one(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    older = await mailbox.token(person.email, VERIFY)
    await ask(person)
    newer = await mailbox.token(person.email, VERIFY, 2)
    assert await outcome(verify_email(person, older)) == NOT_FOUND
    assert await outcome(verify_email(person, newer)) == OK


async def test_a_token_is_for_the_address_that_it_was_sent_to(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    token = await mailbox.token(person.email, VERIFY)
    await sql(stores, "UPDATE users SET email = %s WHERE id = %s", f"new-{person.email}", person.user_id)
    assert await outcome(verify_email(person, token)) == NOT_FOUND
    assert not (await get_me(person)).email_verified


async def test_nothing_is_mailed_to_a_verified_address(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    await verify_email(person, await mailbox.token(person.email, VERIFY))
    await ask(person)
    await until_no_jobs(stores)
    assert len(mailbox.of(person.email, VERIFY)) == 1


async def test_nobody_is_sent_more_than_three_mails_in_an_hour(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    await mailbox.wait(person.email, VERIFY)
    assert await outcomes(ask(person) for _ in range(10)) == {OK: 10}
    await until_no_jobs(stores)
    token = await mailbox.token(person.email, VERIFY, 3)
    earlier = "UPDATE email_tokens SET create_time = create_time - interval '1 hour' WHERE user_id = %s"
    await sql(stores, earlier, person.user_id)
    await ask(person)
    await mailbox.wait(person.email, VERIFY, 4)
    assert await outcome(verify_email(person, token)) == NOT_FOUND


async def test_the_token_is_stored_as_its_hash_alone(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    token = await mailbox.token(person.email, VERIFY)
    ((digest, row),) = await sql(
        stores, "SELECT token_hash, to_jsonb(t)::text FROM email_tokens t WHERE user_id = %s", person.user_id
    )
    assert digest == hashlib.sha256(token.encode()).digest()
    assert token not in row


async def test_a_server_may_demand_it_of_those_who_create_or_join_organizations(
    stores: Stores, mailbox: Mailbox
) -> None:
    own = store_settings(await other_databases(stores, "verified"))
    settings = Settings.model_validate(own | mail_settings(mailbox) | {"require_verified_email": True})
    async with running(settings, migrating=True) as app, people(app.address) as new_person:
        owner, guest = await new_person(), await new_person()
        assert await outcome(make_org(owner)) == EMAIL_UNVERIFIED
        await verify_email(owner, await mailbox.token(owner.email, VERIFY))
        org_id = await make_org(owner)
        invitation = org_pb2.CreateInvitationRequest(org_id=org_id, email=guest.email, role=org_pb2.ROLE_MEMBER)
        accept = org_pb2.AcceptInvitationRequest(token=(await owner.orgs.CreateInvitation(invitation)).token)
        assert await outcome(guest.orgs.AcceptInvitation(accept)) == EMAIL_UNVERIFIED
        await verify_email(guest, await mailbox.token(guest.email, VERIFY))
        assert await outcome(guest.orgs.AcceptInvitation(accept)) == OK
