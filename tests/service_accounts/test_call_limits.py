"""Limits of calls that an organization sets for service accounts and keys, and the operator's ceilings."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import audit_pb2, budget_pb2, options_pb2, org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.commands import CommandError, ceilings
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.operator import operate
from tests.support.outcomes import OK, PERMISSION_MISSING, RATE_LIMITED, outcome
from tests.support.people import (
    Connect,
    Person,
    Place,
    connections,
    make_conversation,
    make_org,
    make_workspace,
    people,
)
from tests.support.runs import follow, kinds_of, say, send
from tests.support.service_accounts import make_account, make_key, revoke_key, rotate_key
from tests.support.settings import environment, provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until

READ, GENERATE = options_pb2.RATE_LIMIT_CLASS_READ, options_pb2.RATE_LIMIT_CLASS_GENERATE
TOO_MANY = "RESOURCE_EXHAUSTED TOO_MANY_CALLS"


@dataclass
class Site:
    """A server of its own whose minute never ends, and an organization with a service account and a key."""

    app: App
    settings: Settings
    connect: Connect
    owner: Person
    org_id: str
    user_id: str
    made: pb.CreateApiKeyResponse

    @property
    def backend(self) -> Person:
        """Somebody with the key, over a connection of their own."""
        return self.connect(self.made.secret)

    async def limit_account(self, *limits: pb.CallLimit, by: Person | None = None) -> pb.ServiceAccount:
        request = pb.SetServiceAccountLimitsRequest(org_id=self.org_id, user_id=self.user_id, call_limits=limits)
        answer = await (by or self.owner).service_accounts.SetServiceAccountLimits(request)
        account: pb.ServiceAccount = answer.service_account
        return account

    async def limit_key(
        self, *limits: pb.CallLimit, by: Person | None = None, key: pb.ApiKey | None = None
    ) -> pb.ApiKey:
        key_id = (key or self.made.api_key).api_key_id
        request = pb.SetApiKeyLimitsRequest(org_id=self.org_id, api_key_id=key_id, call_limits=limits)
        limited: pb.ApiKey = (await (by or self.owner).service_accounts.SetApiKeyLimits(request)).api_key
        return limited

    async def reads(self, backend: Person, count: int) -> list[str]:
        """What comes of so many calls of the class READ, one after the other."""
        return [await outcome(backend.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=self.org_id))) for _ in range(count)]


@pytest.fixture
async def site(one_minute: None, stores: Stores, standin: Standin) -> AsyncIterator[Site]:
    async with _site(stores, standin, f"call_limits_{uuid4().hex}") as site:
        yield site


@pytest.fixture
async def slow_site(stores: Stores, standin: Standin) -> AsyncIterator[Site]:
    """A site where an answer of the echo model takes minutes."""
    async with _site(stores, standin, "call_limits_streams", echo_tokens_per_second=1) as site:
        yield site


@asynccontextmanager
async def _site(stores: Stores, standin: Standin, name: str, **more: object) -> AsyncIterator[Site]:
    values = provider_settings(standin) | store_settings(await other_databases(stores, name))
    settings = Settings.model_validate(values | {"rate_limit_factor": 1} | more)
    async with (
        running(settings, migrating=True) as app,
        people(app.address) as new_person,
        connections(app.address) as connect,
    ):
        owner = await new_person()
        org_id = await make_org(owner)
        user_id = await make_account(owner, org_id)
        yield Site(app, settings, connect, owner, org_id, user_id, await make_key(owner, org_id, user_id))


def reads(calls_per_minute: int, **more: int) -> pb.CallLimit:
    return pb.CallLimit(rate_limit_class=READ, calls_per_minute=calls_per_minute, **more)


async def _place(site: Site, backend: Person) -> Place:
    """A conversation of the service account's own."""
    workspace_id = await make_workspace(backend, site.org_id)
    return Place(backend, site.org_id, workspace_id, await make_conversation(backend, workspace_id, "echo/echo"))


# What holds


async def test_limit_of_an_account_holds_for_all_its_keys_together(site: Site) -> None:
    await site.limit_account(reads(5))
    other = site.connect((await make_key(site.owner, site.org_id, site.user_id)).secret)
    assert await site.reads(site.backend, 3) == [OK] * 3
    assert await site.reads(other, 4) == [OK] * 2 + [RATE_LIMITED] * 2


async def test_limit_of_a_key_holds_besides_that_of_its_account_and_takes_nothing_from_others(site: Site) -> None:
    await site.limit_account(reads(6))
    await site.limit_key(reads(2))
    other = site.connect((await make_key(site.owner, site.org_id, site.user_id)).secret)
    assert await site.reads(site.backend, 5) == [OK] * 2 + [RATE_LIMITED] * 3
    assert await site.reads(other, 5) == [OK] * 4 + [RATE_LIMITED]


async def test_refusal_says_when_to_come_back(site: Site) -> None:
    await site.limit_key(reads(1))
    await site.reads(site.backend, 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.backend.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=site.org_id))
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"])
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert status.details[1].Unpack(quota)
    assert status.details[2].Unpack(retry)
    assert quota.violations[0].subject == f"caller:key {site.made.api_key.api_key_id}"
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 120


async def test_more_than_the_contract_allows_can_be_given(one_minute: None, stores: Stores, standin: Standin) -> None:
    async with _site(stores, standin, "call_limits_raised", rate_limit_factor=0.01) as site:
        assert (await site.reads(site.backend, 61))[-2:] == [OK, RATE_LIMITED]
        await site.limit_account(reads(100))
        assert (await site.reads(site.backend, 41))[-2:] == [OK, RATE_LIMITED]


async def test_limits_hold_across_processes(stores: Stores, standin: Standin) -> None:
    async with _site(stores, standin, "call_limits_shared", redis_url=stores.redis) as site:
        await site.limit_key(reads(3))
        async with running(site.settings, migrating=False) as beside, connections(beside.address) as connect:
            there = connect(site.made.secret)
            assert await site.reads(site.backend, 2) == [OK] * 2
            assert await site.reads(there, 3) == [OK] + [RATE_LIMITED] * 2
            await site.limit_key(reads(4))

            async def noticed() -> bool:
                return await site.reads(there, 1) == [OK]

            await until(noticed, 3)
        assert await site.reads(site.backend, 1) == [RATE_LIMITED]


async def test_explain_limit_shows_what_holds_for_the_caller(site: Site) -> None:
    backend = site.backend
    place = await _place(site, backend)
    ask = budget_pb2.ExplainLimitRequest(workspace_id=place.workspace_id, model="echo/echo", input_tokens=1)
    await site.limit_account(pb.CallLimit(rate_limit_class=GENERATE, calls_per_minute=900))
    await site.limit_key(pb.CallLimit(rate_limit_class=GENERATE, calls_per_minute=2))
    assert kinds_of(await say(backend, place.conversation_id, "hello"))[-1] == "run_completed"
    shown = (await backend.budgets.ExplainLimit(ask)).rate_limits
    assert [(each.name, each.limit, each.remaining, each.fits) for each in shown] == [
        ("generate calls of the caller", 900, 899, True),
        ("generate calls of the API key", 2, 1, True),
    ]
    assert kinds_of(await say(backend, place.conversation_id, "hello"))[-1] == "run_completed"
    answer = await backend.budgets.ExplainLimit(ask)
    assert (answer.allowed, answer.rate_limits[1].remaining, answer.rate_limits[1].fits) == (False, 0, False)


async def test_limits_of_people_are_those_of_the_contract(site: Site) -> None:
    await site.limit_account(reads(1))
    await site.reads(site.backend, 2)
    assert await site.reads(site.owner, 20) == [OK] * 20


async def test_changing_a_limit_does_not_begin_the_count_anew(site: Site) -> None:
    await site.limit_account(reads(3))
    assert await site.reads(site.backend, 3) == [OK] * 3
    await site.limit_account(reads(4))
    assert await site.reads(site.backend, 2) == [OK, RATE_LIMITED]
    await site.limit_account()
    assert await site.reads(site.backend, 20) == [OK] * 20


async def test_successors_of_a_key_have_its_limit_and_count_with_it(site: Site) -> None:
    await site.limit_key(reads(4))
    next_one = await rotate_key(site.owner, site.made.api_key, overlap_seconds=3600)
    last = await rotate_key(site.owner, next_one.api_key, overlap_seconds=3600)
    assert [(each.calls_per_minute) for each in last.api_key.call_limits] == [4]
    holders = site.backend, site.connect(next_one.secret), site.connect(last.secret)
    assert [await site.reads(each, 2) for each in holders] == [[OK] * 2, [OK] * 2, [RATE_LIMITED] * 2]
    await revoke_key(site.owner, site.made.api_key, keep_created=True)
    assert await site.reads(holders[2], 1) == [RATE_LIMITED]
    await site.limit_key(reads(5), key=last.api_key)
    assert await site.reads(holders[1], 2) == [OK, RATE_LIMITED]


async def test_what_a_key_creates_has_no_more_than_the_key(site: Site) -> None:
    await site.limit_key(reads(50))
    backend = site.backend
    copy = await make_key(backend, site.org_id, site.user_id)
    assert [each.calls_per_minute for each in copy.api_key.call_limits] == [50]
    user_id = await make_account(backend, site.org_id)
    listed = await site.owner.service_accounts.ListServiceAccounts(pb.ListServiceAccountsRequest(org_id=site.org_id))
    (account,) = [each for each in listed.service_accounts if each.user_id == user_id]
    assert [(each.rate_limit_class, each.calls_per_minute) for each in account.call_limits] == [(READ, 50)]


async def test_a_key_gives_nobody_more_than_it_has(site: Site) -> None:
    await site.limit_key(reads(50))
    backend = site.backend
    for limits in ([reads(51)], []):
        assert await outcome(site.limit_key(*limits, by=backend)) == PERMISSION_MISSING
        assert await outcome(site.limit_account(*limits, by=backend)) == PERMISSION_MISSING
    assert await outcome(site.limit_key(reads(49), by=backend)) == OK


async def test_streams_at_once_follow_the_limits_of_account_and_key(slow_site: Site) -> None:
    site = slow_site
    place = await _place(site, site.backend)
    sent = send(place, "word " * 200)
    run_id = (await sent.read()).event.run_id
    await site.limit_account(pb.CallLimit(rate_limit_class=READ, streams_at_once=3))
    await site.limit_key(pb.CallLimit(rate_limit_class=READ, streams_at_once=2))
    streams = [follow(site.backend, run_id) for _ in range(2)]
    for stream in streams:
        assert (await stream.read()).event.run_id == run_id
    assert await outcome(follow(site.backend, run_id).read()) == TOO_MANY
    other = site.connect((await make_key(site.owner, site.org_id, site.user_id)).secret)
    third = follow(other, run_id)
    assert (await third.read()).event.run_id == run_id
    assert await outcome(follow(other, run_id).read()) == TOO_MANY
    for stream in (*streams, third, sent):
        stream.cancel()


# Ceilings


async def _ceilings(site: Site) -> dict[int, tuple[int, int]]:
    """Calls per minute by default and at most, by class."""
    answer = await site.owner.service_accounts.GetCallCeilings(pb.GetCallCeilingsRequest(org_id=site.org_id))
    return {
        each.rate_limit_class: (each.default_limit.calls_per_minute, each.most.calls_per_minute)
        for each in answer.ceilings
    }


async def test_ceilings_are_shown_with_the_default(site: Site) -> None:
    assert (await _ceilings(site))[GENERATE] == (120, 1200)
    assert (await _ceilings(site))[READ] == (6000, 60_000)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ([reads(60_001)], "call_limits[0].calls_per_minute"),
        ([reads(1), pb.CallLimit(rate_limit_class=GENERATE, streams_at_once=5001)], "call_limits[1].streams_at_once"),
        ([reads(1), reads(2)], "call_limits[1].rate_limit_class"),
        ([pb.CallLimit(rate_limit_class=GENERATE, calls_at_once=1)], "call_limits[0].calls_at_once"),
        ([pb.CallLimit(rate_limit_class=options_pb2.RATE_LIMIT_CLASS_CREDENTIALS)], "call_limits[0].rate_limit_class"),
    ],
)
async def test_what_cannot_be_set_is_refused_with_the_field(site: Site, limits: list[pb.CallLimit], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await site.limit_account(*limits)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(f"{field}: ")


async def test_a_key_is_refused_more_than_its_account_has(site: Site) -> None:
    await site.limit_account(reads(10))
    with pytest.raises(grpc.aio.AioRpcError, match="must be at most 10, which is the limit of the account"):
        await site.limit_key(reads(11))


async def test_lowered_ceiling_holds_within_the_time_of_the_cache(site: Site, capsys: Any) -> None:
    await site.limit_account(reads(50_000))
    backend = site.backend
    assert await site.reads(backend, 1) == [OK]
    await _command(site, "read", calls_per_minute="2")
    assert "may allow each service account" in capsys.readouterr().out
    assert (await _ceilings(site))[READ] == (6000, 2)

    async def refused() -> bool:
        return await site.reads(backend, 1) == [RATE_LIMITED]

    await until(refused, 3)
    assert await site.reads(site.owner, 10) == [OK] * 10
    await _command(site, "read", calls_per_minute="default")
    assert (await _ceilings(site))[READ] == (6000, 60_000)
    listed = await site.owner.audit.ListAuditEvents(audit_pb2.ListAuditEventsRequest(org_id=site.org_id))
    assert [(each.method, each.role) for each in listed.events].count(("limits", "operator")) == 2


async def _command(site: Site, kind: str, **given: str) -> None:
    await ceilings(site.settings, UUID(site.org_id), kind, given)


async def test_the_command_shows_and_sets_ceilings(site: Site) -> None:
    values = environment(site.settings)
    shown = await operate(values, "limits", site.org_id)
    assert re.search(r"^generate +1,200 +0 +5,000 +\(the server's default\)$", shown, re.MULTILINE)
    shown = await operate(
        values, "limits", site.org_id, "generate", "--calls-per-minute", "60", "--streams-at-once", "7"
    )
    assert re.search(r"^generate +60 +0 +7 *$", shown, re.MULTILINE)
    shown = await operate(values, "limits", site.org_id, "generate", "--streams-at-once", "default")
    assert re.search(r"^generate +60 +0 +5,000 *$", shown, re.MULTILINE)
    with pytest.raises(AssertionError, match="a CLASS needs one of the options"):
        await operate(values, "limits", site.org_id, "generate")
    with pytest.raises(AssertionError, match="there is no organization"):
        await operate(values, "limits", str(uuid4()))


async def test_what_is_no_ceiling_is_refused(site: Site) -> None:
    for value in ("0", "-1", "many", "1000000001"):
        with pytest.raises(CommandError, match="is neither a number"):
            await _command(site, "read", calls_per_minute=value)
