"""Traces: what of a call, its run and its jobs a collector gets, and what it never gets."""

import json
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from aiworkspace.v1 import auth_pb2, model_pb2, org_pb2
from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.tracing import make_tracing
from aiworkspace_server.settings import Settings, SettingsError
from tests.standin import HttpError, Script, Standin
from tests.support.accounts import login
from tests.support.collector import Collector, attributes_of
from tests.support.mailbox import Mailbox
from tests.support.outcomes import PASSWORD_WRONG, UNAUTHENTICATED, outcome
from tests.support.people import Person, Place, make_place, reconnected
from tests.support.runs import OPENAI, events_of, first_deltas, follow, kinds_of, play
from tests.support.server_process import ServerProcess
from tests.support.settings import mail_settings, openai_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until_true

SEND = "aiworkspace.v1.ChatService/SendMessage"
CHAT = "chat gpt-4o-mini"
CANARY = "canary-in-what-somebody-wrote"


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # milliseconds between two exports
        async with Collector() as collector:
            yield collector


@pytest.fixture(scope="module")
async def values(stores: Stores, standin: Standin, mailbox: Mailbox, collector: Collector) -> dict[str, object]:
    """Settings of servers that record what their callers record, and nothing by chance."""
    shared = await other_databases(stores, "traces")
    traced = {"otel_exporter_otlp_endpoint": collector.url, "otel_traces_sampler_arg": 0, "redis_url": stores.redis}
    traced |= {"otel_exporter_otlp_headers": "authorization=Bearer canary-of-collector,x-team=a"}
    return store_settings(shared) | openai_settings(standin) | mail_settings(mailbox) | traced


@pytest.fixture(scope="module")
async def traced_app(values: dict[str, object]) -> AsyncIterator[App]:
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


@pytest.fixture(scope="module")
async def home(traced_app: App) -> Place:
    person = await Person(traced_app.address).register()
    return await make_place(person)


class Trace:
    """A trace that a caller begins."""

    def __init__(self, *, recorded: bool = True) -> None:
        self.id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.metadata = (("traceparent", f"00-{self.id}-{self.span_id}-{recorded:02x}"),)


def send(place: Place, trace: Trace, content: str = "hello") -> Any:
    request = pb.SendMessageRequest(conversation_id=place.conversation_id, content=content, model=OPENAI)
    return place.owner.chat.SendMessage(request, metadata=trace.metadata)


def named(spans: Any, name: str) -> Span:
    [span] = [span for span in spans if span.name == name]
    return span  # type: ignore[no-any-return]


async def test_a_run_is_traced_from_its_caller_to_its_provider(
    home: Place, collector: Collector, standin: Standin
) -> None:
    play(standin, OPENAI, Script(tokens=(CANARY, " and ", "more")))
    trace = Trace()
    events = await events_of(send(home, trace, f"{CANARY} of the question"))
    completed = events[-1].run_completed.run
    spans = await collector.trace(trace.id, SEND, "run", CHAT, "SELECT", "traces.insert", "EVALSHA")
    call, run, chat = (named(spans, name) for name in (SEND, "run", CHAT))
    assert call.parent_span_id.hex() == trace.span_id
    assert (run.parent_span_id, chat.parent_span_id) == (call.span_id, run.span_id)
    assert (call.kind, run.kind, chat.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_CLIENT)
    about = {"rpc.system.name": "grpc", "rpc.method": SEND, "rpc.status_code": "OK"}
    assert attributes_of(call) == about
    assert attributes_of(chat) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": completed.usage.input_tokens,
        "gen_ai.usage.output_tokens": completed.usage.output_tokens,
    }


async def test_a_failure_is_told_without_its_text(home: Place, collector: Collector, standin: Standin) -> None:
    play(standin, OPENAI, Script(fault=HttpError(400, f"{CANARY} is refused")))
    trace = Trace()
    assert kinds_of(await events_of(send(home, trace)))[-1] == "run_failed"
    chat = named(await collector.trace(trace.id, SEND, CHAT), CHAT)
    assert attributes_of(chat)["error.type"] == "provider_rejected"
    assert (chat.status.code, chat.status.message, len(chat.events)) == (Status.STATUS_CODE_ERROR, "", 0)


async def test_a_refusal_is_no_fault_of_the_server(home: Place, collector: Collector) -> None:
    trace = Trace()
    unknown = org_pb2.GetOrgRequest(org_id="019000b0-0000-7000-8000-000000000000")
    assert await outcome(home.owner.orgs.GetOrg(unknown, metadata=trace.metadata)) == "NOT_FOUND RESOURCE_NOT_FOUND"
    method = "aiworkspace.v1.OrgService/GetOrg"
    span = named(await collector.trace(trace.id, method), method)
    assert attributes_of(span)["rpc.status_code"] == "NOT_FOUND"
    assert span.status.code == Status.STATUS_CODE_UNSET


async def test_callers_without_credentials_record_nothing(home: Place, traced_app: App, collector: Collector) -> None:
    trace, later = Trace(), Trace()
    stranger = Person(traced_app.address)
    refused = stranger.auth.Login(login(home.owner.email, "wrong"), metadata=trace.metadata)
    assert await outcome(refused) == PASSWORD_WRONG
    stranger.bearer.token = "forged"
    assert await outcome(stranger.orgs.ListOrgs(org_pb2.ListOrgsRequest(), metadata=trace.metadata)) == UNAUTHENTICATED
    again = Person(traced_app.address)
    await again.auth.Login(login(home.owner.email, "a passphrase for tests"), metadata=trace.metadata)
    await home.owner.auth.GetMe(auth_pb2.GetMeRequest(), metadata=later.metadata)
    await collector.trace(later.id, "aiworkspace.v1.AuthService/GetMe")
    assert collector.of(trace.id) == []


async def test_an_unrecorded_trace_and_a_malformed_one_record_nothing(home: Place, collector: Collector) -> None:
    quiet, later, before = Trace(recorded=False), Trace(), len(collector.spans)
    await home.owner.auth.GetMe(auth_pb2.GetMeRequest(), metadata=quiet.metadata)
    for text in (f"00-{'0' * 32}-{quiet.span_id}-01", f"ff-{quiet.id}-{quiet.span_id}-01", "x" * 5000, ""):
        await home.owner.auth.GetMe(auth_pb2.GetMeRequest(), metadata=(("traceparent", text),))
    await home.owner.auth.GetMe(auth_pb2.GetMeRequest(), metadata=later.metadata)
    await collector.trace(later.id, "aiworkspace.v1.AuthService/GetMe")
    assert {span.trace_id.hex() for span in collector.spans[before:]} == {later.id}


async def test_a_job_is_part_of_the_trace_that_enqueued_it(home: Place, collector: Collector, mailbox: Mailbox) -> None:
    trace = Trace()
    request = org_pb2.CreateInvitationRequest(org_id=home.org_id, email="invited@example.org", role=org_pb2.ROLE_MEMBER)
    await home.owner.orgs.CreateInvitation(request, metadata=trace.metadata)
    await mailbox.wait("invited@example.org")
    call = "aiworkspace.v1.OrgService/CreateInvitation"
    spans = await collector.trace(trace.id, call, "orgs.send_invitation")
    assert named(spans, "orgs.send_invitation").start_time_unix_nano > named(spans, call).start_time_unix_nano


async def test_a_taken_over_run_stays_in_its_trace(
    traced_app: App, values: dict[str, object], collector: Collector, standin: Standin, tmp_path: Path
) -> None:
    play(standin, OPENAI, Script(tokens=("word ",) * 2000, seconds_per_token=0.02))
    async with ServerProcess(tmp_path / "server", values) as doomed:
        place = await make_place(await Person(doomed.address).register())
        policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
        request = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=place.workspace_id, policy=policy)
        await place.owner.models.SetWorkspaceModelPolicy(request)
        trace = Trace()
        run_id = (await first_deltas(send(place, trace), 3))[0].run_id
        play(standin, OPENAI, Script())
        await doomed.end(signal.SIGKILL)
    there = reconnected(place.owner, traced_app.address)
    assert kinds_of(await events_of(follow(there, run_id)))[-1] == "run_completed"
    spans = await collector.trace(trace.id, "run", CHAT)
    assert named(spans, CHAT).parent_span_id == named(spans, "run").span_id


async def test_calls_are_recorded_by_chance_in_traces_of_their_own(
    values: dict[str, object], collector: Collector, traced_app: App
) -> None:
    settings = Settings.model_validate(values | {"otel_traces_sampler_arg": 1})
    async with running(settings, migrating=False) as app:
        before, trace = len(collector.spans), Trace()
        stranger = Person(app.address)
        request = login("nobody@example.com", "a passphrase for tests")
        assert await outcome(stranger.auth.Login(request, metadata=trace.metadata)) == PASSWORD_WRONG
        name = "aiworkspace.v1.AuthService/Login"
        await until_true(lambda: any(span.name == name for span in collector.spans[before:]))
        span = named(collector.spans[before:], name)
        assert (span.trace_id.hex() != trace.id, span.parent_span_id) == (True, b"")


async def test_log_lines_have_the_trace(values: dict[str, object], collector: Collector, tmp_path: Path) -> None:
    async with ServerProcess(tmp_path / "server", values) as server:
        person, trace = await Person(server.address).register(), Trace(recorded=False)
        await person.auth.GetMe(auth_pb2.GetMeRequest(), metadata=trace.metadata)
        await server.end(signal.SIGTERM)
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if '"event":"call"' in line]
        assert [line["method"].rpartition("/")[2] for line in lines if line.get("trace_id") == trace.id] == ["GetMe"]


def test_what_is_sent_is_about_nobody(home: Place, collector: Collector) -> None:
    """After all others."""
    assert len(collector.spans) > 50
    private = (
        CANARY,
        home.owner.email,
        home.org_id,
        home.owner.user_id,
        home.conversation_id,
        "set_config",
        "canary-of",
    )
    for text in (*private, "sk-openai-canary", "invited@example.org"):
        assert text.encode() not in collector.received
    assert {"db.statement", "db.query.text"}.isdisjoint(key for span in collector.spans for key in attributes_of(span))
    assert {headers["Authorization"] for headers in collector.headers} == {"Bearer canary-of-collector"}


async def test_without_the_extra_the_setting_is_refused(
    values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "aiworkspace_server.kit.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'aiworkspace\[otel\]'"):
        make_tracing(Settings.model_validate(values))
