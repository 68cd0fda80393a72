"""Mail of organizations: invitations that arrive once and while they count, and notices to owners."""

import uuid

import pytest

from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.auth.jobs import Notice, Notices
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mail import ConsoleMailer
from aiworkspace_server.orgs.jobs import notify_owners
from aiworkspace_server.settings import Settings
from tests.support.accounts import registration
from tests.support.mailbox import VERIFY, Mailbox
from tests.support.orgs import invitation
from tests.support.outcomes import INVALID, OK, RATE_LIMITED, outcome
from tests.support.people import NewPerson, Person, join, make_org, people
from tests.support.postgres import sql, until_no_jobs
from tests.support.settings import mail_settings, store_settings
from tests.support.stores import Stores, other_databases

SUBJECT = "You are invited to an organization at AI Workspace"


async def test_the_mailed_token_accepts(owner: Person, new_person: NewPerson, mailbox: Mailbox) -> None:
    org_id, guest = await make_org(owner, "Zoë & 株式会社"), await new_person()
    answer = await owner.orgs.CreateInvitation(invitation(org_id, guest.email.upper()))
    mail = await mailbox.wait(guest.email, SUBJECT)
    assert mail["Subject"] == SUBJECT
    assert "the organization “Zoë & 株式会社” at" in mail.get_content()
    token = await mailbox.token(guest.email, SUBJECT)
    assert token == answer.token
    await guest.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token))


async def test_repeating_the_call_mails_nothing_again(owner: Person, mailbox: Mailbox, stores: Stores) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    request = invitation(await make_org(owner), email, request_id=str(uuid.uuid4()))
    for _ in range(3):
        await owner.orgs.CreateInvitation(request)
    await until_no_jobs(stores)
    assert len(mailbox.of(email, SUBJECT)) == 1


@pytest.mark.parametrize(
    "closed", ["revoke_time = now()", "expire_time = now() - interval '61 s'", "accept_time = now()"]
)
async def test_an_invitation_that_was_closed_in_the_meantime_is_not_mailed(
    closed: str, owner: Person, mailbox: Mailbox, stores: Stores
) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    mailbox.refused[email] = "451 later"
    made = (await owner.orgs.CreateInvitation(invitation(await make_org(owner), email))).invitation
    while email not in mailbox.tries:
        await sql(stores, "SELECT 1")
    await sql(stores, f"UPDATE invitations SET {closed} WHERE id = %s", made.invitation_id)
    del mailbox.refused[email]
    await until_no_jobs(stores, made.invitation_id)
    assert mailbox.of(email) == []


async def test_an_address_gets_no_more_than_three_in_an_hour_whoever_sends_them(
    owner: Person, new_person: NewPerson, mailbox: Mailbox, stores: Stores
) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    for person in (owner, await new_person()):
        for org_id in [await make_org(person) for _ in range(2)]:
            await person.orgs.CreateInvitation(invitation(org_id, email))
            await person.orgs.CreateInvitation(invitation(org_id, email.upper()))
    await until_no_jobs(stores)
    await mailbox.wait(email, SUBJECT, 3)
    assert await outcome(owner.auth.Register(registration(email=email))) == OK
    assert await mailbox.token(email, VERIFY), "what the owner of the address asks for still arrives"


async def test_a_mailbox_gets_four_times_as_many_however_its_addresses_are_tagged(
    owner: Person, mailbox: Mailbox, stores: Stores
) -> None:
    name, org_id = uuid.uuid4().hex, await make_org(owner)
    emails = [f"{name}+{number}@example.com" for number in range(15)]
    for email in emails:
        await owner.orgs.CreateInvitation(invitation(org_id, email))
    await until_no_jobs(stores)
    assert sum(len(mailbox.of(email)) for email in emails) == 12


async def test_an_account_and_an_organization_send_so_many_invitations_in_an_hour(
    stores: Stores, mailbox: Mailbox
) -> None:
    values = store_settings(await other_databases(stores, "senders")) | mail_settings(mailbox)
    settings = Settings.model_validate(values | {"invitations_per_hour": 4})
    async with running(settings, migrating=True) as app, people(app.address) as new_person:
        sender, other = await new_person(), await new_person()
        orgs = [await make_org(sender) for _ in range(2)]
        await join(sender, orgs[0], other, org_pb2.ROLE_ADMIN)

        async def invite(by: Person, org_id: str) -> str:
            return await outcome(by.orgs.CreateInvitation(invitation(org_id, f"{uuid.uuid4().hex}@example.com")))

        found = [await invite(sender, org_id) for org_id in (*orgs, orgs[1])]
        assert found == [OK] * 3
        assert await invite(sender, orgs[1]) == RATE_LIMITED, "the account has sent four, to two organizations"
        assert [await invite(other, orgs[0]) for _ in range(3)] == [OK, OK, RATE_LIMITED], "the organization has"
        assert await invite(other, await make_org(other)) == OK


async def test_a_stranger_writes_nothing_in_a_subject_and_no_link_in_a_text(
    owner: Person, new_person: NewPerson, mailbox: Mailbox
) -> None:
    lure = "Win at https://evil.example/x"
    org_id, email = await make_org(owner, lure), f"{uuid.uuid4().hex}@example.com"
    await owner.orgs.CreateInvitation(invitation(org_id, email))
    mail = await mailbox.wait(email)
    assert mail["Subject"] == SUBJECT
    assert "evil.example" not in mail.get_content()
    assert "://" not in mail.get_content()


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\u2028", "\u2029"])
async def test_the_name_of_an_organization_adds_no_header(
    break_: str, owner: Person, mailbox: Mailbox, stores: Stores
) -> None:
    """The contract refuses some of these; the mail bears them all, should one be in the database."""
    name, email = f"Acme{break_}Bcc: eve@example.com", f"{uuid.uuid4().hex}@example.com"
    if break_ < " ":
        assert await outcome(make_org(owner, name)) == INVALID
    org_id = await make_org(owner)
    await sql(stores, "UPDATE orgs SET name = %s WHERE id = %s", name, org_id)
    await owner.orgs.CreateInvitation(invitation(org_id, email))
    mail = await mailbox.wait(email, SUBJECT)
    assert mail["Bcc"] is None
    assert "eve@example.com" not in mailbox.tries


async def test_owners_alone_are_told_of_what_concerns_owners(
    new_person: NewPerson, app: App, mailbox: Mailbox, stores: Stores
) -> None:
    first, second, admin = await new_person(), await new_person(), await new_person()
    org_id = await make_org(first)
    await join(first, org_id, second, org_pb2.ROLE_OWNER)
    await join(first, org_id, admin, org_pb2.ROLE_ADMIN)
    jobs = Jobs(stores.postgres)
    notices = Notices(app.db, jobs, ConsoleMailer())  # asks; the server sends
    notices.register(jobs)
    async with app.db.write(uuid.UUID(org_id)) as tx:
        await notify_owners(tx, notices, Notice.API_KEY_CREATED)
    for person in (first, second):
        await mailbox.wait(person.email, "An API key was created")
    await until_no_jobs(stores)
    assert mailbox.of(admin.email, "An API key was created") == []
