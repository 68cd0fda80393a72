"""Another email address: the account's once mail to it has arrived, and not before."""

import uuid
from typing import Any

import pytest

from aiworkspace.v1 import account_pb2, auth_pb2, org_pb2
from tests.support.accounts import SignIn, get_me, login, new_address, verify_email
from tests.support.mailbox import CHANGE, NOTICE, RESET, VERIFY, Mailbox
from tests.support.outcomes import (
    ALREADY_EXISTS,
    INVITATION_CLOSED,
    NOT_FOUND,
    OK,
    PASSWORD_WRONG,
    UNAUTHENTICATED,
    outcome,
    outcomes,
)
from tests.support.people import PASSWORD, NewPerson, Person, Place
from tests.support.postgres import sql, until_no_jobs
from tests.support.stores import Stores


def change(person: Person, email: str, password: str = PASSWORD) -> Any:
    return person.accounts.ChangeEmail(account_pb2.ChangeEmailRequest(new_email=email, password=password))


async def test_an_address_counts_once_it_is_confirmed_and_the_old_one_until_then(
    new_person: NewPerson, mailbox: Mailbox
) -> None:
    person, email = await new_person(), new_address()
    await change(person, email.upper())
    token = await mailbox.token(email, CHANGE)
    assert mailbox.of(person.email, NOTICE), "the present address is told before the new one can be confirmed"
    assert (await get_me(person)).email == person.email
    assert await outcome(person.auth.Login(login(email))) == PASSWORD_WRONG
    assert await outcome(person.auth.Login(login(person.email))) == OK
    await verify_email(person, token)
    assert ((await get_me(person)).email, (await get_me(person)).email_verified) == (email, True)
    assert await outcome(person.auth.Login(login(person.email))) == PASSWORD_WRONG
    assert await outcome(person.auth.Login(login(email))) == OK
    assert await outcome(verify_email(person, token)) == OK, "a repeated call, whose first reply may have been lost"
    assert (await get_me(person)).email == email


async def test_the_session_that_asked_goes_on_and_others_end(
    new_person: NewPerson, mailbox: Mailbox, sign_in: SignIn
) -> None:
    person, email = await new_person(), new_address()
    other = await sign_in(person)
    await change(person, email)
    assert await outcome(get_me(other)) == OK
    await verify_email(other, await mailbox.token(email, CHANGE))
    assert await outcome(get_me(other)) == UNAUTHENTICATED
    assert await outcome(get_me(person)) == OK


async def test_mailed_tokens_of_the_address_before_end(new_person: NewPerson, mailbox: Mailbox) -> None:
    person, email = await new_person(), new_address()
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    reset = await mailbox.token(person.email, RESET)
    await change(person, email)
    await verify_email(person, await mailbox.token(email, CHANGE))
    request = account_pb2.ResetPasswordRequest(token=reset, new_password="another long passphrase here")
    assert await outcome(person.accounts.ResetPassword(request)) == NOT_FOUND


@pytest.mark.parametrize("how", ["changed", "reset"])
async def test_a_new_password_ends_the_change_that_a_thief_asked_for(
    how: str, new_person: NewPerson, mailbox: Mailbox, sign_in: SignIn
) -> None:
    """The notice says to change the password: with the token the thief would take the account with it."""
    person, email = await new_person(), new_address()
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    reset = account_pb2.ResetPasswordRequest(
        token=await mailbox.token(person.email, RESET), new_password="another long passphrase here"
    )
    await change(await sign_in(person), email)
    token = await mailbox.token(email, CHANGE)
    if how == "reset":
        await person.accounts.ResetPassword(reset)
    else:
        await person.auth.ChangePassword(
            auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another long passphrase")
        )
        assert await outcome(person.accounts.ResetPassword(reset)) == NOT_FOUND
    assert await outcome(verify_email(person, token)) == NOT_FOUND


async def test_without_the_password_nothing_happens(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person, email = await new_person(), new_address()
    assert await outcome(change(person, email, "not my password")) == PASSWORD_WRONG
    await until_no_jobs(stores)
    assert not mailbox.of(email)
    assert not mailbox.of(person.email, NOTICE)


async def test_a_later_change_ends_the_token_of_an_earlier_one(new_person: NewPerson, mailbox: Mailbox) -> None:
    person, first, second = await new_person(), new_address(), new_address()
    await change(person, first)
    earlier = await mailbox.token(first, CHANGE)
    await change(person, second)
    later = await mailbox.token(second, CHANGE)
    assert await outcome(verify_email(person, earlier)) == NOT_FOUND
    assert await outcome(verify_email(person, later)) == OK
    assert (await get_me(person)).email == second


@pytest.mark.parametrize("end", ["expire_time = now() - interval '2 minutes'", "token_hash = 'other'"])
async def test_a_token_that_expired_or_is_unknown_changes_nothing(
    end: str, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person, email = await new_person(), new_address()
    await change(person, email)
    token = await mailbox.token(email, CHANGE)
    where = "WHERE user_id = %s AND purpose = 'change'"
    end = end.replace("'other'", f"'{uuid.uuid4().hex}'")
    await sql(stores, f"UPDATE email_tokens SET {end} {where}", person.user_id)
    assert await outcome(verify_email(person, token)) == NOT_FOUND
    assert (await get_me(person)).email == person.email


async def test_a_taken_address_gets_no_mail_and_the_answer_is_the_same(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person, other = await new_person(), await new_person()
    assert await outcome(change(person, other.email)) == OK
    await until_no_jobs(stores)
    assert not mailbox.of(other.email, CHANGE)
    assert not mailbox.of(person.email, NOTICE)


async def test_an_address_that_was_registered_meanwhile_is_refused(new_person: NewPerson, mailbox: Mailbox) -> None:
    person, email = await new_person(), new_address()
    await change(person, email)
    token = await mailbox.token(email, CHANGE)
    register = auth_pb2.RegisterRequest(email=email, password=PASSWORD, display_name="Somebody else")
    await person.auth.Register(register)
    assert await outcome(verify_email(person, token)) == ALREADY_EXISTS
    assert (await get_me(person)).email == person.email


async def test_of_many_accounts_at_once_one_gets_the_address(new_person: NewPerson, mailbox: Mailbox) -> None:
    people, email = [await new_person() for _ in range(3)], new_address()  # as many as may mail one address in an hour
    tokens = []
    for number, person in enumerate(people, 1):
        await change(person, email)
        tokens.append(await mailbox.token(email, CHANGE, number))
    calls = (verify_email(person, token) for person, token in list(zip(people, tokens, strict=True)) * 15)
    found = await outcomes(calls)
    assert found == {OK: 15, ALREADY_EXISTS: 30}
    assert [(await get_me(person)).email for person in people].count(email) == 1


async def test_three_mails_an_hour_are_sent(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    addresses = [new_address() for _ in range(5)]
    for email in addresses:
        assert await outcome(change(person, email)) == OK
    await until_no_jobs(stores)
    assert [len(mailbox.of(email, CHANGE)) for email in addresses[3:]] == [0, 0]
    assert sum(len(mailbox.of(email, CHANGE)) for email in addresses) <= 3


async def test_an_invitation_stays_with_the_address_that_it_was_sent_to(
    place: Place, new_person: NewPerson, mailbox: Mailbox
) -> None:
    person, email = await new_person(), new_address()
    invite = org_pb2.CreateInvitationRequest(org_id=place.org_id, email=person.email, role=org_pb2.ROLE_MEMBER)
    token = (await place.owner.orgs.CreateInvitation(invite)).token
    await change(person, email)
    await verify_email(person, await mailbox.token(email, CHANGE))
    assert await outcome(person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token))) == NOT_FOUND


async def test_who_was_removed_does_not_come_back_under_a_former_address(
    place: Place, new_person: NewPerson, mailbox: Mailbox
) -> None:
    person, email = await new_person(), new_address()
    former = person.email
    await verify_email(person, await mailbox.token(former, VERIFY))
    tokens = []
    for address in (former, email):
        invite = org_pb2.CreateInvitationRequest(org_id=place.org_id, email=address, role=org_pb2.ROLE_MEMBER)
        tokens.append((await place.owner.orgs.CreateInvitation(invite)).token)
    await change(person, email)
    await verify_email(person, await mailbox.token(email, CHANGE))
    await person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=tokens[1]))
    await place.owner.orgs.RemoveMember(org_pb2.RemoveMemberRequest(org_id=place.org_id, user_id=person.user_id))
    await change(person, former)
    await verify_email(person, await mailbox.token(former, CHANGE))
    again = person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=tokens[0]))
    assert await outcome(again) == INVITATION_CLOSED
