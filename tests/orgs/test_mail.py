"""Mail of organizations: invitations that arrive once and while they count, and notices to owners."""

import uuid

import pytest

from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App
from aiworkspace_server.auth.jobs import Notice, Notices
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.mail import ConsoleMailer
from aiworkspace_server.orgs.jobs import notify_owners
from tests.backdoor import sql, until_no_jobs
from tests.conftest import Stores
from tests.mailbox import Mailbox
from tests.people import NewPerson, Person, join, make_org
from tests.refusals import INVALID, outcome

SUBJECT = "You are invited to"


def invitation(org_id: str, email: str, request_id: str = "") -> org_pb2.CreateInvitationRequest:
    return org_pb2.CreateInvitationRequest(org_id=org_id, email=email, role=org_pb2.ROLE_MEMBER, request_id=request_id)


async def test_the_mailed_token_accepts(owner: Person, new_person: NewPerson, mailbox: Mailbox) -> None:
    org_id, guest = await make_org(owner, "Zoë & 株式会社"), await new_person()
    answer = await owner.orgs.CreateInvitation(invitation(org_id, guest.email.upper()))
    mail = await mailbox.wait(guest.email, SUBJECT)
    assert mail["Subject"] == f"{SUBJECT} “Zoë & 株式会社”"
    token = await mailbox.token(guest.email, SUBJECT)
    assert token == answer.token
    await guest.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token))


async def test_repeating_the_call_mails_nothing_again(owner: Person, mailbox: Mailbox, stores: Stores) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    request = invitation(await make_org(owner), email, str(uuid.uuid4()))
    for _ in range(3):
        await owner.orgs.CreateInvitation(request)
    await until_no_jobs(stores)
    await mailbox.wait(email, SUBJECT, 1)


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


async def test_an_organization_sends_an_address_no_more_than_three_in_an_hour(
    owner: Person, mailbox: Mailbox, stores: Stores
) -> None:
    org_id, email = await make_org(owner), f"{uuid.uuid4().hex}@example.com"
    for _ in range(6):
        await owner.orgs.CreateInvitation(invitation(org_id, email))
    await until_no_jobs(stores)
    await mailbox.wait(email, SUBJECT, 3)


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
    owner: Person, new_person: NewPerson, app: App, mailbox: Mailbox, stores: Stores
) -> None:
    org_id, second, admin = await make_org(owner), await new_person(), await new_person()
    await join(owner, org_id, second, org_pb2.ROLE_OWNER)
    await join(owner, org_id, admin, org_pb2.ROLE_ADMIN)
    notices = Notices(app.db, Jobs(stores.postgres), ConsoleMailer())  # asks; the server sends
    async with app.db.write(uuid.UUID(org_id)) as tx:
        await notify_owners(tx, notices, Notice.API_KEY_CREATED)
    for person in (owner, second):
        await mailbox.wait(person.email, "An API key was created")
    await until_no_jobs(stores)
    assert mailbox.of(admin.email, "An API key was created") == []
