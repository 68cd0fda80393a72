"""Mail arrives, whatever becomes of the mail server and of this one, and what is queued tells nothing."""

import signal
import uuid
from pathlib import Path

from aiworkspace.v1 import account_pb2, auth_pb2
from tests.support.mailbox import RESET, VERIFY, Mailbox, token_in
from tests.support.outcomes import ALREADY_EXISTS, outcome
from tests.support.people import PASSWORD, NewPerson, Person
from tests.support.postgres import sql, until_no_jobs
from tests.support.server_process import ServerProcess
from tests.support.settings import mail_settings
from tests.support.stores import Stores

QUEUE = ("procrastinate_jobs", "procrastinate_events", "procrastinate_periodic_defers", "procrastinate_workers")


async def test_mail_waits_for_a_server_that_is_down_and_the_queue_has_no_address_and_no_token(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    mailbox.stop()
    try:
        person = await new_person()
        await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
        while not await sql(stores, "SELECT 1 FROM procrastinate_jobs WHERE attempts > 0"):
            assert not mailbox.of(person.email)
        queued = str([await sql(stores, f"SELECT to_jsonb({table})::text FROM {table}") for table in QUEUE])
    finally:
        mailbox.start()
    mails = [await mailbox.wait(person.email, VERIFY), await mailbox.wait(person.email, RESET)]
    assert person.user_id in queued
    assert [told for told in (person.email, "Somebody", *map(token_in, mails)) if told in queued] == []


async def request_refused_mail(person: Person, mailbox: Mailbox, answer: str) -> None:
    """Requests a password reset, whose mail the mail server answers like this."""
    await mailbox.wait(person.email, VERIFY)
    mailbox.tries.clear()
    mailbox.refused[person.email] = answer
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))


async def test_an_address_that_is_refused_for_good_is_tried_once(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    await request_refused_mail(person, mailbox, "550 no such mailbox")
    await until_no_jobs(stores, person.user_id)
    assert mailbox.tries == [person.email]
    assert mailbox.of(person.email, RESET) == []


async def test_an_address_that_is_refused_for_now_is_tried_again_with_the_same_mail(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    await request_refused_mail(person, mailbox, "451 try again later")
    while person.email not in mailbox.tries:
        await sql(stores, "SELECT 1")
    del mailbox.refused[person.email]
    await mailbox.wait(person.email, RESET)
    ((made,),) = await sql(
        stores, "SELECT count(*) FROM email_tokens WHERE user_id = %s AND purpose = 'reset'", person.user_id
    )
    assert made == 1


async def test_a_call_that_fails_mails_nothing(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    await mailbox.wait(person.email, VERIFY)
    request = auth_pb2.RegisterRequest(email=person.email, password=PASSWORD, display_name="Eve")
    assert await outcome(person.auth.Register(request)) == ALREADY_EXISTS
    wrong = auth_pb2.ChangePasswordRequest(current_password="wrong passphrase", new_password="a new passphrase")
    assert await outcome(person.auth.ChangePassword(wrong)) != "OK"
    await until_no_jobs(stores)
    assert len(mailbox.of(person.email)) == 1


async def test_a_server_that_is_killed_before_it_sent_a_mail_sends_it_when_it_is_back(tmp_path: Path) -> None:
    mailbox = Mailbox()
    async with ServerProcess(tmp_path / "data", mail_settings(mailbox)) as server:
        person = Person(server.address)
        await person.register()
        await server.end(signal.SIGKILL)
        await person.channel.close()
        mailbox.start()
        assert mailbox.mails == []
        await server.start()
        somebody, token = Person(server.address), await mailbox.token(person.email, VERIFY)
        await somebody.accounts.VerifyEmail(account_pb2.VerifyEmailRequest(token=token))
        await somebody.channel.close()
    mailbox.stop()


async def test_without_a_mail_server_mail_is_printed(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", {})
    await server.start()
    person = await Person(server.address).register()
    printed = await server.read_until("ignore this mail")
    assert f"To: {person.email}" in printed
    token = next(line.strip(" |") for line in printed.splitlines() if len(line.strip(" |")) == 43)
    await person.accounts.VerifyEmail(account_pb2.VerifyEmailRequest(token=token))
    await person.channel.close()
    await server.end(signal.SIGTERM)


async def test_an_unknown_address_is_mailed_nothing(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person, email = await new_person(), f"{uuid.uuid4().hex}@example.com"
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=email))
    await until_no_jobs(stores)
    assert mailbox.of(email) == []
