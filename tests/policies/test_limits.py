"""Limits of models: right in one process and across several, and clear about what they are."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import chat_pb2
from aiworkspace.v1 import model_pb2 as pb
from aiworkspace_server.kit.errors import RateLimited
from aiworkspace_server.kit.limits import Counters
from aiworkspace_server.policies.limits import Counts, ModelLimits
from aiworkspace_server.policies.policy import Limit
from tests.standin import Standin
from tests.support.outcomes import OK, RATE_LIMITED, outcome, refusal
from tests.support.people import Place, make_conversation, make_workspace
from tests.support.runs import say
from tests.support.stores import Stores

MINI = "openai/gpt-4o-mini"

pytestmark = pytest.mark.usefixtures("one_minute")


@pytest.fixture(params=["memory", "redis"])
async def counters(request: pytest.FixtureRequest, stores: Stores) -> AsyncIterator[Counters]:
    counters = Counters(stores.redis if request.param == "redis" else None)
    yield counters
    await counters.close()


def limits(counters: Counters, *limited: Limit, org_id: UUID | None = None) -> ModelLimits:
    return ModelLimits(counters, [("organization", org_id or uuid4(), limit) for limit in limited])


async def taken(each: ModelLimits, model: str = MINI, tokens: int = 10, times: int = 10) -> int:
    """How many of so many requests were let through."""
    passed = 0
    for _ in range(times):
        try:
            await each.take(model, tokens)
            passed += 1
        except RateLimited:
            pass
    return passed


async def test_requests_are_counted(counters: Counters) -> None:
    assert await taken(limits(counters, Limit(MINI, requests_per_minute=3))) == 3


async def test_tokens_are_counted(counters: Counters) -> None:
    assert await taken(limits(counters, Limit(MINI, tokens_per_minute=100)), tokens=30) == 3


async def test_what_has_no_limit_is_not_counted(counters: Counters) -> None:
    each = limits(counters, Limit("openai/gpt-5", 1, 1), Limit("anthropic/*", 1, 1), Limit(MINI))
    assert await taken(each) == 10
    assert await each.look(MINI, 1) == []


async def test_models_of_a_provider_are_counted_together(counters: Counters) -> None:
    each = limits(counters, Limit("openai/*", requests_per_minute=3))
    assert await taken(each, "openai/gpt-5", times=2) + await taken(each, MINI) == 3


async def test_every_organization_has_its_own(counters: Counters) -> None:
    limit = Limit(MINI, requests_per_minute=2)
    assert [await taken(limits(counters, limit)) for _ in range(2)] == [2, 2]


async def test_a_refused_request_takes_nothing(counters: Counters) -> None:
    each = limits(counters, Limit("openai/*", requests_per_minute=5), Limit(MINI, tokens_per_minute=100))
    assert await taken(each, tokens=60) == 1
    assert [state.remaining for state in await each.look(MINI, 1)] == [4, 40]
    assert await taken(each, tokens=10) == 4


async def test_however_many_ask_at_once_no_more_get_through(stores: Stores) -> None:
    org_id, limit = uuid4(), Limit(MINI, requests_per_minute=7)
    several = [Counters(stores.redis) for _ in range(4)]
    asking = [taken(limits(each, limit, org_id=org_id), times=5) for each in several for _ in range(3)]
    assert sum(await asyncio.gather(*asking)) == 7
    for each in several:
        await each.close()


async def test_a_look_says_what_a_request_would_meet(counters: Counters) -> None:
    each = limits(counters, Limit(MINI, 2, 100))
    requests, tokens = await each.look(MINI, 101)
    assert (requests.name, requests.limit, requests.remaining, requests.fits) == (
        f"requests of {MINI} in the organization",
        2,
        2,
        True,
    )
    assert (tokens.name, tokens.limit, tokens.remaining, tokens.fits) == (
        f"tokens of {MINI} in the organization",
        100,
        100,
        False,
    )
    assert tokens.retry_seconds is None
    await taken(each, tokens=40, times=2)
    requests, tokens = await each.look(MINI, 30)
    assert (requests.remaining, requests.fits, tokens.remaining, tokens.fits) == (0, False, 20, False)
    now = datetime.now(UTC)
    assert now < requests.reset_time <= now + timedelta(seconds=120)
    assert 0 < (tokens.retry_seconds or 0) <= 120


@pytest.mark.parametrize(
    ("before", "now", "left", "most", "seconds"),
    [
        (0, 0, 0, 0, 0),
        (10, 0, 60, 9, 0.0),  # a part of one does not count: 9.99… are 9
        (10, 0, 60, 4, 30),
        (10, 2, 60, 6, 30),
        (0, 10, 20, 9, 20),
        (0, 10, 20, 4, 50),
        (10, 10, 20, 0, 74),
    ],
)
def test_when_there_is_room_again(before: int, now: int, left: float, most: int, seconds: float) -> None:
    counts = Counts(before, now, left)
    wait = counts.seconds_until(most)
    if (before, most) != (10, 9):
        assert wait == pytest.approx(seconds)
    later = _later(counts, wait + 0.001)
    assert int(later.counted) <= most
    if wait > 0.01:
        assert int(_later(counts, wait - 0.01).counted) > most


def _later(counts: Counts, seconds: float) -> Counts:
    """What counts after so long without a request."""
    if seconds < counts.left_seconds or not (counts.before or counts.now):
        return Counts(counts.before, counts.now, max(0.0, counts.left_seconds - seconds))
    rest = 60 - (seconds - counts.left_seconds)
    return Counts(counts.now, 0, max(0.0, rest))


# As callers meet them


def limited(place: Place, *each: pb.ModelLimit) -> Any:
    request = pb.SetOrgModelPolicyRequest(org_id=place.org_id, policy=pb.ModelPolicy(limits=each))
    return place.owner.models.SetOrgModelPolicy(request)


async def test_a_refused_message_is_nowhere_and_its_limit_has_a_name(place: Place, standin: Standin) -> None:
    await limited(place, pb.ModelLimit(model=MINI, requests_per_minute=2))
    standin.received.clear()
    for _ in range(2):
        await say(place.owner, place.conversation_id, "hello", model=MINI)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(place.owner, place.conversation_id, "one too many", model=MINI)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    info, quota, retry = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    details = zip(status.details, (info, quota, retry), strict=True)
    assert all([detail.Unpack(into) for detail, into in details])
    assert (info.reason, info.metadata["limit"]) == ("RATE_LIMITED", f"requests of {MINI} in the organization")
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 120
    assert len(standin.received) == 2
    request = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    said = [message.contents[0].text for message in (await place.owner.chat.ListMessages(request)).messages]
    assert "one too many" not in said
    assert await outcome(say(place.owner, place.conversation_id, "hello")) == OK, "of another model"


async def test_a_limit_of_the_organization_counts_all_of_its_workspaces(place: Place) -> None:
    await limited(place, pb.ModelLimit(model="echo/*", requests_per_minute=2))
    other = await make_workspace(place.owner, place.org_id)
    results = [
        await outcome(say(place.owner, await make_conversation(place.owner, workspace_id), "hello"))
        for workspace_id in (place.workspace_id, other, place.workspace_id)
    ]
    assert results == [OK, OK, RATE_LIMITED]


async def test_a_message_larger_than_the_whole_limit_is_told_so(place: Place) -> None:
    await limited(place, pb.ModelLimit(model="echo/echo", tokens_per_minute=50))
    refused = await refusal(say(place.owner, place.conversation_id, "hello"))
    assert refused is not None
    assert (f"{refused.code} {refused.reason}", "the limit is 50" in refused.message) == (RATE_LIMITED, True)
    parameters = chat_pb2.ModelParameters(max_output_tokens=10)
    assert await outcome(say(place.owner, place.conversation_id, "hello", parameters=parameters)) == OK


async def test_a_message_that_was_let_through_is_not_refused_when_it_is_repeated(place: Place) -> None:
    await limited(place, pb.ModelLimit(model="echo/echo", requests_per_minute=1))
    request_id = str(uuid4())
    first = await say(place.owner, place.conversation_id, "hello", request_id=request_id)
    for _ in range(3):
        again = await say(place.owner, place.conversation_id, "hello", request_id=request_id)
        assert again == first
    assert await outcome(say(place.owner, place.conversation_id, "hello", request_id=str(uuid4()))) == RATE_LIMITED
