"""Security notices: what happened to an account is told its owner."""

from uuid import UUID

import pytest

from aiworkspace.v1 import auth_pb2
from aiworkspace_server.app import App
from aiworkspace_server.auth.jobs import Notice, Notices
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mail import ConsoleMailer
from tests.support.mailbox import VERIFY, Mailbox
from tests.support.outcomes import UNAUTHENTICATED, outcome, outcomes
from tests.support.people import PASSWORD, NewPerson
from tests.support.postgres import sql, until_no_jobs
from tests.support.stores import Stores


async def test_a_changed_password(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    change = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another passphrase, quite new")
    await person.auth.ChangePassword(change)
    mail = await mailbox.wait(person.email, "Your password was changed")
    assert "another passphrase" not in mail.get_content()


async def test_a_refresh_token_that_came_back_once_for_many_callers(
    new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    used = auth_pb2.RefreshRequest(refresh_token=person.tokens.refresh_token)
    await person.auth.Refresh(used)
    await sql(
        stores,
        "UPDATE sessions SET refresh_time = refresh_time - interval '11 seconds' WHERE user_id = %s",
        person.user_id,
    )
    assert await outcomes(person.auth.Refresh(used) for _ in range(20)) == {UNAUTHENTICATED: 20}
    await until_no_jobs(stores)
    await mailbox.wait(person.email, "A session was ended", 1)


async def test_a_refused_change_tells_nothing(new_person: NewPerson, mailbox: Mailbox, stores: Stores) -> None:
    person = await new_person()
    wrong = auth_pb2.ChangePasswordRequest(current_password="wrong passphrase", new_password="another passphrase")
    assert await outcome(person.auth.ChangePassword(wrong)) != "OK"
    await until_no_jobs(stores)
    assert mailbox.of(person.email, "Your password") == []


@pytest.mark.parametrize("notice", Notice)
async def test_every_notice_has_a_text(
    notice: Notice, new_person: NewPerson, app: App, mailbox: Mailbox, stores: Stores
) -> None:
    person = await new_person()
    await mailbox.wait(person.email, VERIFY)
    jobs = Jobs(stores.postgres)
    notices = Notices(app.db, jobs, ConsoleMailer())  # asks; the server sends
    notices.register(jobs)
    async with app.db.write() as tx:
        await notices.notify(tx, UUID(person.user_id), notice)
    await until_no_jobs(stores)
    assert len(mailbox.of(person.email)) == 2
    assert "If that was expected" in mailbox.of(person.email)[-1].get_content()
