"""Lost passwords: a mailed token sets a new one, once, and lets nobody else stay."""

import uuid
from asyncio import timeout
from typing import Any

import pytest

from aiworkspace.v1 import account_pb2, auth_pb2
from aiworkspace_server.app import App
from tests.support.accounts import SignIn
from tests.support.mailbox import RESET, VERIFY, Mailbox
from tests.support.outcomes import INVALID, NOT_FOUND, OK, PASSWORD_WRONG, UNAUTHENTICATED, outcome, outcomes
from tests.support.people import NewPerson, Person
from tests.support.postgres import sql, until_no_jobs
from tests.support.statements import statements
from tests.support.stores import Stores

NEW = "another passphrase, quite new"


def ask(person: Person, email: str = "") -> Any:
    request = account_pb2.RequestPasswordResetRequest(email=email or person.email)
    return person.accounts.RequestPasswordReset(request)


def reset(person: Person, token: str, password: str = NEW) -> Any:
    return person.accounts.ResetPassword(account_pb2.ResetPasswordRequest(token=token, new_password=password))


async def asked(person: Person, mailbox: Mailbox, count: int = 1) -> str:
    await ask(person)
    return await mailbox.token(person.email, RESET, count)


async def test_it_sets_the_password_and_ends_all_sessions(
    new_person: NewPerson, sign_in: SignIn, mailbox: Mailbox
) -> None:
    person = await new_person()
    phone, refresh_token = await sign_in(person), person.tokens.refresh_token
    token = await asked(person, mailbox)
    assert await outcome(phone.auth.GetMe(auth_pb2.GetMeRequest())) == OK
    await reset(person, token)
    for device in (person, phone):
        assert await outcome(device.auth.GetMe(auth_pb2.GetMeRequest())) == UNAUTHENTICATED
    refresh = person.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=refresh_token))
    assert await outcome(refresh) == UNAUTHENTICATED
    assert await outcome(sign_in(person)) == PASSWORD_WRONG
    tablet = await sign_in(person, NEW)
    assert (await tablet.auth.GetMe(auth_pb2.GetMeRequest())).user.email_verified
    await mailbox.wait(person.email, "Your password was reset")


async def test_upper_and_lower_case_are_the_same(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    await ask(person, person.email.upper())
    assert (await mailbox.wait(person.email, RESET))["To"] == person.email


async def test_known_and_unknown_addresses_are_answered_alike(new_person: NewPerson, app: App, stores: Stores) -> None:
    """After the same work, and with a job that follows."""
    person = await new_person()
    await until_no_jobs(stores)
    for _ in range(5):  # the queue's own work disturbs the count when two workers begin it at the same time
        known = await work_of(person, person.email, app, stores)
        unknown = await work_of(person, f"{uuid.uuid4().hex}@example.com", app, stores)
        if known == unknown:
            break
    assert unknown == known
    assert known[2] == 1


async def work_of(person: Person, email: str, app: App, stores: Stores) -> tuple[bytes, list[str], int]:
    """The answer, the statements before it, and how many jobs it left."""
    before = await count_jobs(stores)
    with statements(app, calls_only=True) as sent:
        answer = await ask(person, email)
    await until_no_jobs(stores)
    texts = [statement.text for statement in sent]
    assert any("users" in text for text in texts)
    return answer.SerializeToString(), texts, await count_jobs(stores) - before


async def count_jobs(stores: Stores) -> int:
    """How many there were in all, without those that the queue makes for itself every few seconds."""
    last = "SELECT j.last_value - d.last_value FROM procrastinate_jobs_id_seq j, procrastinate_periodic_defers_id_seq d"
    ((count,),) = await sql(stores, last)
    return int(count)


async def test_what_is_no_address_gets_the_same_answer(new_person: NewPerson) -> None:
    person = await new_person()
    for email in ("nobody", "\0", "' OR 1=1 --", "ü" * 254):
        assert await outcome(ask(person, email)) == OK


async def test_of_fifty_callers_at_once_one_succeeds(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    calls = (reset(person, token, f"{NEW} {number}") for number in range(50))
    assert await outcomes(calls) == {OK: 1, NOT_FOUND: 49}


async def test_a_used_token_is_not_found(new_person: NewPerson, sign_in: SignIn, mailbox: Mailbox) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    await reset(person, token)
    assert await outcome(reset(person, token, "yet another passphrase")) == NOT_FOUND
    assert await outcome(reset(person, token, person.email)) == NOT_FOUND, "refused before the password is looked at"
    assert (await sign_in(person, NEW)).user_id == person.user_id


async def test_a_token_expires_after_an_hour(
    new_person: NewPerson, sign_in: SignIn, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    older = "UPDATE email_tokens SET expire_time = expire_time - interval '61 minutes 1 second' WHERE user_id = %s"
    await sql(stores, older, person.user_id)
    assert await outcome(reset(person, token)) == NOT_FOUND
    assert (await sign_in(person)).user_id == person.user_id


async def test_a_newer_token_ends_the_older_one(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    older, newer = await asked(person, mailbox), await asked(person, mailbox, 2)
    assert await outcome(reset(person, older)) == NOT_FOUND
    assert await outcome(reset(person, newer)) == OK


async def test_a_token_is_for_the_address_that_it_was_sent_to(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    await sql(stores, "UPDATE users SET email = %s WHERE id = %s", f"new-{person.email}", person.user_id)
    assert await outcome(reset(person, token)) == NOT_FOUND


@pytest.mark.parametrize("password", ["", "elevenchars", "x" * 1025])
async def test_a_refused_password_leaves_the_token_good(password: str, new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    assert await outcome(reset(person, token, password)) == INVALID
    assert await outcome(reset(person, token)) == OK


async def test_a_token_that_verifies_sets_no_password(new_person: NewPerson, mailbox: Mailbox) -> None:
    person = await new_person()
    assert await outcome(reset(person, await mailbox.token(person.email, VERIFY))) == NOT_FOUND
    assert await outcome(reset(person, "A" * 43)) == NOT_FOUND


async def test_nobody_is_sent_more_than_three_mails_in_an_hour(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    assert await outcomes(ask(person) for _ in range(10)) == {OK: 10}
    await until_no_jobs(stores)
    assert await outcome(reset(person, await mailbox.token(person.email, RESET, 3))) == OK


async def test_calls_with_a_token_are_in_the_log_of_the_account(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    token = await asked(person, mailbox)
    assert (await outcome(reset(person, token)), await outcome(reset(person, token))) == (OK, NOT_FOUND)
    logged = "SELECT code FROM audit_events WHERE chain_id = %s AND method LIKE '%%ResetPassword' ORDER BY sequence"
    async with timeout(60):
        while len(await sql(stores, logged, person.user_id)) < 2:  # what was refused follows a little later
            pass
    assert await sql(stores, logged, person.user_id) == [("OK",), ("NOT_FOUND",)]
