"""What must not be in a log is in none: a server of its own, as talkative as it can be, and all that it writes."""

import json
import uuid

import pytest
from pydantic import SecretStr

from aiworkspace.v1 import account_pb2, auth_pb2, chat_pb2, org_pb2, workspace_pb2
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support import http2
from tests.support.mailbox import RESET, VERIFY, Mailbox
from tests.support.outcomes import outcome
from tests.support.people import Person, make_conversation, make_org
from tests.support.runs import events_of
from tests.support.server_process import logging_everything
from tests.support.settings import mail_settings, provider_settings, store_settings
from tests.support.stores import Stores, other_databases

PASSWORD, NEW_PASSWORD, WRONG_PASSWORD = "canary-password-1", "canary-password-2", "canary-password-3"
SAID, PROMPTED = "canary-of-what-somebody-said", "canary-of-a-system-prompt"
FORGED, INVITED = "canary.of.a-token", "canary-of-an-address@example.com"
RESET_PASSWORD = "canary-password-4"


@pytest.fixture(scope="module")
async def written(
    stores: Stores, standin: Standin, mailbox: Mailbox, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[str]]:
    """All that a server wrote while it was told secrets in every way, and the secrets."""
    own = store_settings(await other_databases(stores, "secrecy"))
    settings = Settings.model_validate(own | provider_settings(standin) | mail_settings(mailbox))
    output = tmp_path_factory.mktemp("log") / "output"
    async with logging_everything(settings, output) as address:
        person = Person(address)
        secrets = await tell_secrets(person, mailbox)
        not_utf8 = b"Bearer " + secrets[0].encode() + b"\xff"
        await http2.call(address, "/aiworkspace.v1.AuthService/GetMe", b"", [(b"authorization", not_utf8)])
        await person.channel.close()
    kept = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    return output.read_text(), [*secrets, *kept]


async def tell_secrets(person: Person, mailbox: Mailbox) -> list[str]:
    """Does what takes or gives a secret, rightly and wrongly. Returns the secrets."""
    registration = auth_pb2.RegisterRequest(email=person.email, password=PASSWORD, display_name="Ann")
    person.sign_in(await person.auth.Register(registration))
    given = [person.tokens.access_token, person.tokens.refresh_token]
    refreshed = await person.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=person.tokens.refresh_token))
    given += [refreshed.tokens.access_token, refreshed.tokens.refresh_token]
    change = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password=NEW_PASSWORD)
    await person.auth.ChangePassword(change)
    given += await _read_mail(person, mailbox)
    given.append(await _talk(person))
    await mailbox.wait(INVITED)
    await _be_refused(person, given)
    return [
        *given,
        person.email,
        INVITED,
        PASSWORD,
        NEW_PASSWORD,
        WRONG_PASSWORD,
        RESET_PASSWORD,
        SAID,
        PROMPTED,
        FORGED,
    ]


async def _read_mail(person: Person, mailbox: Mailbox) -> list[str]:
    """Verifies the address, resets the password and signs in with it. Returns the tokens of the mails."""
    verify, wrong = await mailbox.token(person.email, VERIFY), account_pb2.VerifyEmailRequest(token=FORGED)
    await person.accounts.VerifyEmail(account_pb2.VerifyEmailRequest(token=verify))
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    reset = await mailbox.token(person.email, RESET)
    set_anew = account_pb2.ResetPasswordRequest(token=reset, new_password=RESET_PASSWORD)
    await person.accounts.ResetPassword(set_anew)
    refused = await outcome(person.accounts.VerifyEmail(wrong)), await outcome(person.accounts.ResetPassword(set_anew))
    assert "OK" not in refused
    person.sign_in(await person.auth.Login(auth_pb2.LoginRequest(email=person.email, password=RESET_PASSWORD)))
    return [verify, reset, person.tokens.access_token, person.tokens.refresh_token]


async def _talk(person: Person) -> str:
    """Invites, prompts and says something. Returns the token of the invitation."""
    org_id = await make_org(person)
    prompted = workspace_pb2.CreateWorkspaceRequest(org_id=org_id, name="Lab", system_prompt=PROMPTED)
    workspace = (await person.workspaces.CreateWorkspace(prompted)).workspace
    conversation_id = await make_conversation(person, workspace.workspace_id)
    said = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content=SAID)
    assert (await events_of(person.chat.SendMessage(said)))[-1].HasField("run_completed")
    invitation = org_pb2.CreateInvitationRequest(org_id=org_id, email=INVITED, role=org_pb2.ROLE_MEMBER)
    return str((await person.orgs.CreateInvitation(invitation)).token)


async def _be_refused(person: Person, given: list[str]) -> None:
    wrong = {"current_password": WRONG_PASSWORD, "new_password": WRONG_PASSWORD}
    refused = [
        await outcome(person.auth.Register(auth_pb2.RegisterRequest(email="nobody", password=WRONG_PASSWORD))),
        await outcome(person.auth.Login(auth_pb2.LoginRequest(email=person.email, password=WRONG_PASSWORD))),
        await outcome(person.auth.Login(auth_pb2.LoginRequest(email="\0", password=WRONG_PASSWORD))),
        await outcome(person.auth.ChangePassword(auth_pb2.ChangePasswordRequest(**wrong))),
        await outcome(person.auth.Refresh(auth_pb2.RefreshRequest(refresh_token=FORGED))),
        await outcome(person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=FORGED))),
        await outcome(person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=given[-1]))),
        await outcome(person.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=str(uuid.uuid4())))),
        await outcome(person.auth.GetMe(auth_pb2.GetMeRequest(), metadata=(("authorization", f"Bearer {FORGED}"),))),
    ]
    assert "OK" not in refused
    await person.auth.Logout(auth_pb2.LogoutRequest())
    assert await outcome(person.auth.GetMe(auth_pb2.GetMeRequest())) != "OK"


def test_no_secret_is_in_what_the_server_writes(written: tuple[str, list[str]]) -> None:
    output, secrets = written
    assert [secret for secret in secrets if secret in output] == []
    assert len(secrets) > 25


def test_every_call_is(written: tuple[str, list[str]]) -> None:
    """Else the absence of secrets would prove nothing."""
    lines = [json.loads(line) for line in written[0].splitlines() if line.startswith("{")]
    calls = [(line["method"].rpartition("/")[2], line["code"]) for line in lines if line["event"] == "call"]
    assert ("Register", "OK") in calls
    assert ("Register", "INVALID_ARGUMENT") in calls
    assert calls.count(("Login", "UNAUTHENTICATED")) == 2
    assert ("SendMessage", "OK") in calls
    assert ("AcceptInvitation", "NOT_FOUND") in calls
    late = {"event": "store_away", "error": "TimeoutError"}  # a probe has a second, which a busy machine may take
    assert [line for line in lines if line["level"] == "error" and not late.items() <= line.items()] == []
