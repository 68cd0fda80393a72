"""aiws, as a person and as a script use it."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import (
    account_pb2,
    audit_pb2,
    auth_pb2,
    chat_pb2,
    common_pb2,
    org_pb2,
    usage_pb2,
    workspace_pb2,
)
from aiworkspace_client.cli import output
from tests.client import runs
from tests.client.conftest import ORG, USER, WORKSPACE, Aiws
from tests.client.runs import TEXT, cited_run, connections, two_models, whole_run
from tests.client.scripted import Context, ScriptedServer, answer, answers, failure


async def test_a_device_stays_known_to_its_account_after_logout(server: ScriptedServer, aiws: Aiws) -> None:
    def accept(token: str) -> None:
        response = auth_pb2.LoginResponse(user=USER, tokens=auth_pb2.TokenPair(access_token="a"), device_token=token)
        server.script("AuthService.Login", answer(response))

    async def sign_in(email: str) -> str:
        ran = await aiws("login", "--email", email, "--password-stdin", stdin="secret password\n")
        assert ran.returncode == 0, ran.stderr
        return str(server.called("AuthService.Login")[-1].request.device_token)

    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse(orgs=[ORG])))
    server.script("AuthService.Logout", answer(auth_pb2.LogoutResponse()))
    accept("device-1")
    assert await sign_in("ada@example.com") == ""
    assert (await aiws("logout")).returncode == 0
    accept("device-2")
    assert await sign_in("ADA@example.com") == "device-1"
    assert await sign_in("grace@example.com") == "", "another account"
    assert await sign_in("ada@example.com") == "device-2"


def workspaces(server: ScriptedServer, count: int) -> None:
    found = workspace_pb2.ListWorkspacesResponse(workspaces=[WORKSPACE] * count)
    server.script("WorkspaceService.ListWorkspaces", answer(found))


def conversation(server: ScriptedServer) -> None:
    made = chat_pb2.Conversation(conversation_id="conversation-1")
    server.script("ChatService.CreateConversation", answer(chat_pb2.CreateConversationResponse(conversation=made)))


@pytest.mark.usefixtures("signed_in")
async def test_from_nothing_to_an_answer(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("OrgService.CreateOrg", answer(org_pb2.CreateOrgResponse(org=ORG)))
    server.script(
        "WorkspaceService.CreateWorkspace", answer(workspace_pb2.CreateWorkspaceResponse(workspace=WORKSPACE))
    )
    conversation(server)
    run = whole_run()
    usage = common_pb2.TokenUsage(input_tokens=1200, output_tokens=5)
    run[-1].run_completed.run.MergeFrom(
        chat_pb2.Run(model="echo/echo", usage=usage, cost=common_pb2.Money(currency_code="USD", nanos=1230))
    )
    connections(server, (run, None), (run, None))
    assert (await aiws("orgs", "create", "Acme")).returncode == 0
    assert (await aiws("workspaces", "create", "Notes")).returncode == 0
    assert server.called("WorkspaceService.CreateWorkspace")[0].request.org_id == "org-1"
    ran = await aiws("chat", "Count!", "--model", "echo/echo")
    assert (ran.returncode, ran.stdout) == (0, TEXT + "\n")
    assert "1,200 tokens in, 5 out, 0.00000123 USD" in ran.stderr
    assert server.called("ChatService.CreateConversation")[0].request.workspace_id == "workspace-1"
    assert (await aiws("chat", "--last", stdin="And on!\n")).stdout == TEXT + "\n"
    sent = [call.request for call in server.called("ChatService.SendMessage")]
    assert [(each.conversation_id, each.content) for each in sent] == [
        ("conversation-1", "Count!"),
        ("conversation-1", "And on!"),
    ]


@pytest.mark.usefixtures("signed_in")
async def test_the_only_workspace_needs_no_choice(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    connections(server, (whole_run(), None))
    assert (await aiws("chat", "Count!")).stdout == TEXT + "\n"


@pytest.mark.usefixtures("signed_in")
async def test_sources_of_an_answer_are_numbered_below_it(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    connections(server, (cited_run(), None))
    ran = await aiws("chat", "Count!")
    assert ran.stdout.rstrip() == TEXT + '\n\n[1] a .pdf, Guide, page 3: "One, indeed"'
    assert "[documents: documents were searched by their words only]" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_another_model_that_goes_on_is_announced(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    connections(server, (two_models(), None))
    ran = await aiws("chat", "Count!")
    assert (ran.returncode, ran.stdout) == (0, TEXT + "\n")
    assert ran.stderr.count("continues]") == 1
    assert "[b/two continues]" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_another_model_that_answers_is_told_and_named(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    events = two_models()
    failure = chat_pb2.RunFailure(reason=common_pb2.ERROR_REASON_PROVIDER_UNAVAILABLE, message="It is away.")
    usage = common_pb2.TokenUsage(input_tokens=1, output_tokens=2)
    for event in events:
        if event.HasField("attempt_failed"):
            event.attempt_failed.failure.CopyFrom(failure)
        if event.HasField("run_completed"):
            event.run_completed.message.model = "b/two"
            run = chat_pb2.Run(model="a/one", usage=usage, finish_reason=chat_pb2.FINISH_REASON_LENGTH)
            event.run_completed.run.MergeFrom(run)
    connections(server, (events, None))
    ran = await aiws("chat", "Count!")
    assert (ran.returncode, ran.stdout) == (0, TEXT + "\n")
    assert "[a/one: It is away.]" in ran.stderr
    assert "[cut off at the maximum number of tokens, b/two, 1 tokens in, 2 out" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_a_refused_message_leaves_no_conversation(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    connections(server, (whole_run(), None))
    assert (await aiws("chat", "Count!")).returncode == 0
    refused = failure(grpc.StatusCode.INVALID_ARGUMENT, "", "model: 'nope/x' is not a model")
    connections(server, ([], refused), ([], refused))
    server.script("ChatService.DeleteConversation", answer(chat_pb2.DeleteConversationResponse()))
    assert (await aiws("chat", "Hello", "-m", "nope/x")).returncode == 1
    assert server.called("ChatService.DeleteConversation")[0].request.conversation_id == "conversation-1"
    assert (await aiws("chat", "-c", "conversation-9", "Hello")).returncode == 1
    assert len(server.called("ChatService.DeleteConversation")) == 1
    connections(server, (whole_run(), None))
    assert (await aiws("chat", "--last", "And on!")).returncode == 0
    assert server.calls[-1].request.conversation_id == "conversation-1"


async def test_what_is_no_text_is_wrong_usage(environment: dict[str, str]) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "aiworkspace_client", "chat"),
        b"bad\xff",
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(program.communicate(), 60)
    assert (program.returncode, errors.count(b"\n"), b"is not UTF-8" in errors) == (1, 1, True)


@pytest.mark.usefixtures("signed_in")
async def test_several_need_one(server: ScriptedServer, aiws: Aiws) -> None:
    server.script(
        "WorkspaceService.ListWorkspaces", answer(workspace_pb2.ListWorkspacesResponse(workspaces=[WORKSPACE] * 2))
    )
    ran = await aiws("chat", "Count!")
    assert ran.returncode == 2
    assert "aiws workspaces use ID" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_ctrl_c_stops_the_answer_and_not_the_program(server: ScriptedServer, environment: dict[str, str]) -> None:
    stopped = asyncio.Event()

    async def send(request: chat_pb2.SendMessageRequest, context: Context) -> AsyncIterator[AnyMessage]:
        for event in whole_run()[:4]:
            yield chat_pb2.SendMessageResponse(event=event)
        await stopped.wait()
        run = chat_pb2.Run(run_id=runs.RUN_ID, state=chat_pb2.RUN_STATE_CANCELLED, usage=common_pb2.TokenUsage())
        yield chat_pb2.SendMessageResponse(
            event=chat_pb2.ChatEvent(run_id=runs.RUN_ID, sequence=5, run_cancelled=chat_pb2.RunCancelled(run=run))
        )

    async def cancel(request: chat_pb2.CancelRunRequest, context: Context) -> AnyMessage:
        stopped.set()
        return chat_pb2.CancelRunResponse()

    conversation(server)
    server.script("ChatService.SendMessage", send)
    server.script("ChatService.CancelRun", cancel)
    program = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "aiworkspace_client", "chat", "Count!"],
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert program.stdout is not None
    assert await program.stdout.readexactly(8) == b"One two "
    program.send_signal(signal.SIGINT)
    rest, errors = await asyncio.wait_for(program.communicate(), 60)
    assert (program.returncode, rest) == (130, b"\n")
    assert errors.startswith(b"[stopped, ")


def test_ctrl_c_before_anything_is_imported_is_no_traceback() -> None:
    program = """
import os, signal, sys
import aiws

class Interrupt:
    @staticmethod
    def find_spec(name, *_):
        if name == "aiworkspace_client":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
aiws.main()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (-signal.SIGINT, b"")


@pytest.mark.usefixtures("signed_in")
async def test_what_models_say_does_not_reach_the_terminal_as_commands(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    connections(
        server, (runs.number([runs.started(), *runs.piece(["\x1b[2Jred\x07\n", "[b]\x9b"]), runs.completed()]), None)
    )
    assert (await aiws("chat", "Hello")).stdout == "[2Jred\n[b]\n"


@pytest.mark.usefixtures("signed_in")
async def test_a_failed_run_is_explained(server: ScriptedServer, aiws: Aiws) -> None:
    conversation(server)
    reason = chat_pb2.RunFailure(reason=common_pb2.ERROR_REASON_PROVIDER_TIMEOUT, message="The model was too slow.")
    failed = chat_pb2.ChatEvent(run_failed=chat_pb2.RunFailed(run=chat_pb2.Run(failure=reason)))
    connections(server, (runs.number([*whole_run()[:3], failed]), None))
    ran = await aiws("chat", "Hello")
    assert (ran.returncode, ran.stdout) == (1, "One \n")
    assert ran.stderr.splitlines() == ["error: The model was too slow.", "Try again, or another model: aiws models"]


@pytest.mark.usefixtures("signed_in")
async def test_usage_is_exact(server: ScriptedServer, aiws: Aiws) -> None:
    total = usage_pb2.UsageTotal(
        request_count=2,
        tokens=common_pb2.TokenUsage(input_tokens=1500, output_tokens=70),
        cost=common_pb2.Money(currency_code="USD", nanos=12_000_000_007),
    )
    row = usage_pb2.UsageRow(model="echo/echo", day="2026-01-31", total=total)
    server.script("UsageService.GetUsage", answer(usage_pb2.GetUsageResponse(total=total, rows=[row])))
    lines = (await aiws("usage")).stdout.splitlines()
    assert lines[1].split() == ["echo/echo", "2026-01-31", "2", "1,500", "0", "70", "12.000000007", "USD"]
    assert lines[2].split()[0] == "total"
    content = json.loads((await aiws("usage", "--json", "--by", "user")).stdout)
    assert content["total"]["cost"] == {"currency_code": "USD", "nanos": "12000000007"}
    assert list(server.calls[-1].request.group_by) == [usage_pb2.USAGE_DIMENSION_USER]


@pytest.mark.usefixtures("signed_in")
async def test_tables_and_json(server: ScriptedServer, aiws: Aiws) -> None:
    until = Timestamp(seconds=1_800_000_000)
    invitation = org_pb2.Invitation(
        invitation_id="0199c0de-0000-7000-8000-00000000000a",
        email="a-rather-long-address-of-somebody@a-rather-long-domain.example.com",
        role=org_pb2.ROLE_ADMIN,
        state=org_pb2.INVITATION_STATE_PENDING,
        expire_time=until,
    )
    server.script("OrgService.ListInvitations", answer(org_pb2.ListInvitationsResponse(invitations=[invitation])))
    table = (await aiws("orgs", "invitations")).stdout.splitlines()[1].split()
    assert table[:4] == [invitation.invitation_id, invitation.email, "admin", "pending"]
    content = json.loads((await aiws("orgs", "invitations", "--json")).stdout)
    assert content[0]["state"] == "INVITATION_STATE_PENDING"


async def test_exit_codes_and_what_to_do(server: ScriptedServer, aiws: Aiws) -> None:
    refused = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    wrong = failure(grpc.StatusCode.UNAUTHENTICATED, "PASSWORD_WRONG", "They do not belong together.")
    server.script("AuthService.GetMe", answers(refused))
    server.script("AuthService.Login", answers(wrong))
    ran = await aiws("whoami")
    assert (ran.returncode, "aiws login" in ran.stderr) == (3, True)
    ran = await aiws("login", "-e", "a@example.com", "--password-stdin", stdin="x")
    assert (ran.returncode, "do not belong together" in ran.stderr) == (3, True)
    ran = await aiws("register", "-e", "a@example.com", "-n", "A", stdin="x")
    assert (ran.returncode, "--password-stdin" in ran.stderr) == (2, True)
    ran = await aiws("orgs", "invite", "a@example.com", "--role", "king")
    assert ran.returncode == 2


async def test_a_server_that_is_away(aiws: Aiws, environment: dict[str, str]) -> None:
    environment["AIWS_SERVER"] = "127.0.0.1:1"
    ran = await aiws("whoami")
    assert (ran.returncode, "127.0.0.1:1 cannot be reached" in ran.stderr) == (4, True)


@pytest.mark.usefixtures("signed_in")
async def test_logout_removes_the_tokens_even_when_the_server_is_away(
    server: ScriptedServer, aiws: Aiws, environment: dict[str, str]
) -> None:
    server.script("AuthService.Logout", answers(failure(grpc.StatusCode.INTERNAL, "INTERNAL")))
    assert (await aiws("logout")).returncode == 1
    assert "access-1" not in Path(environment["XDG_CONFIG_HOME"], "aiws/credentials.json").read_text()


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (-1_500_000_000, "-1.50 USD"),
        (1_234_567_000_000_000, "1,234,567.00 USD"),
        (9_223_372_036_854_775_807, "9,223,372,036.854775807 USD"),
    ],
)
def test_money_is_exact(nanos: int, text: str) -> None:
    assert output.money(common_pb2.Money(currency_code="USD", nanos=nanos)) == text


@pytest.mark.usefixtures("signed_in")
async def test_the_audit_log_is_listed_with_its_filters(server: ScriptedServer, aiws: Aiws) -> None:
    refused = audit_pb2.AuditEvent(
        sequence=12,
        create_time=Timestamp(seconds=1_700_000_000),
        user_id="user-1",
        role="viewer",
        method="OrgService/DeleteOrg",
        code="PERMISSION_DENIED",
        reason="PERMISSION_MISSING",
    )
    server.script("AuditService.ListAuditEvents", answer(audit_pb2.ListAuditEventsResponse(events=[refused] * 3)))
    filters = (
        "--method",
        "OrgService/DeleteOrg",
        "--user",
        "user-1",
        "--about",
        "org-1",
        "--code",
        "OK",
        "--days",
        "0",
    )
    lines = (await aiws("audit", "list", *filters, "-n", "2")).stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[0] == "12"
    assert lines[1].split()[3:] == [
        "user-1",
        "viewer",
        "OrgService/DeleteOrg",
        "PERMISSION_DENIED",
        "PERMISSION_MISSING",
    ]
    expected = audit_pb2.ListAuditEventsRequest(
        org_id="org-1", method="OrgService/DeleteOrg", user_id="user-1", resource_id="org-1", code="OK", page_size=2
    )
    assert server.calls[-1].request == expected
    assert len(json.loads((await aiws("audit", "list", "--json")).stdout)) == 3
    assert server.calls[-1].request.HasField("start_time")


@pytest.mark.usefixtures("signed_in")
async def test_a_broken_audit_log_is_an_exit_code(server: ScriptedServer, aiws: Aiws) -> None:
    whole = audit_pb2.VerifyAuditChainResponse(valid=True, sequence=12, hash="ab" * 32)
    server.script("AuditService.VerifyAuditChain", answer(whole))
    ran = await aiws("audit", "verify", "--sequence", "7", "--hash", "cd" * 32)
    assert (ran.returncode, ran.stdout.split()) == (0, ["NUMBER", "HASH", "12", "ab" * 32])
    request = server.calls[-1].request
    assert (request.known_sequence, request.known_hash) == (7, "cd" * 32)
    broken = audit_pb2.VerifyAuditChainResponse(broken_sequence=9, problem="The entry is missing.", sequence=12)
    server.script("AuditService.VerifyAuditChain", answer(broken))
    ran = await aiws("audit", "verify")
    assert ran.returncode == 1
    assert "Entry 9" in ran.stderr
    assert "The entry is missing." in ran.stderr
    ran = await aiws("audit", "verify", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["broken_sequence"]) == (1, "9")


async def test_a_mailed_token_verifies(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AccountService.VerifyEmail", answer(account_pb2.VerifyEmailResponse()))
    ran = await aiws("verify", stdin="token-1\n")
    assert ran.returncode == 0, ran.stderr
    assert server.called("AccountService.VerifyEmail")[0].request.token == "token-1"


@pytest.mark.usefixtures("signed_in")
async def test_an_address_is_changed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AccountService.ChangeEmail", answer(account_pb2.ChangeEmailResponse()))
    ran = await aiws("account", "email", "new@example.com", "--password-stdin", stdin="a passphrase\n")
    assert (ran.returncode, "aiws verify" in ran.stderr) == (0, True), ran.stderr
    request = server.called("AccountService.ChangeEmail")[0].request
    assert (request.new_email, request.password) == ("new@example.com", "a passphrase")


@pytest.mark.usefixtures("signed_in")
async def test_an_account_is_deleted_after_a_question(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(email="a@example.com"))))
    server.script("AccountService.DeleteAccount", answer(account_pb2.DeleteAccountResponse()))
    ran = await aiws("account", "delete", "--password-stdin", stdin="n\na passphrase\n")
    assert (ran.returncode, "a@example.com" in ran.stderr) == (1, True)
    assert not server.called("AccountService.DeleteAccount")
    ran = await aiws("account", "delete", "--yes", "--password-stdin", stdin="a passphrase\n")
    assert ran.returncode == 0, ran.stderr
    assert server.called("AccountService.DeleteAccount")[0].request.password == "a passphrase"
    assert server.called("AccountService.DeleteAccount")[0].metadata["authorization"]
    await aiws("whoami")
    assert "authorization" not in server.called("AuthService.GetMe")[-1].metadata


async def test_a_lost_password_is_set_anew(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("AccountService.RequestPasswordReset", answer(account_pb2.RequestPasswordResetResponse()))
    server.script("AccountService.ResetPassword", answer(account_pb2.ResetPasswordResponse()))
    stdin = "token-1\na new passphrase\n"
    ran = await aiws("reset-password", "--email", "a@example.com", "--password-stdin", stdin=stdin)
    assert (ran.returncode, "aiws login" in ran.stderr) == (0, True), ran.stderr
    assert server.called("AccountService.RequestPasswordReset")[0].request.email == "a@example.com"
    reset = server.called("AccountService.ResetPassword")[0].request
    assert (reset.token, reset.new_password) == ("token-1", "a new passphrase")
    assert "passphrase" not in ran.stdout + ran.stderr
