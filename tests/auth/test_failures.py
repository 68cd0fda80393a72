"""Bad credentials are limited by the address that they come from, cost no query beyond that, and harm nobody else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace.v1 import options_pb2 as options
from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.auth import api_keys
from aiworkspace_server.auth.failures import LOOK_UPS_AT_ONCE, Failures
from aiworkspace_server.kit.errors import RateLimited, Unauthenticated
from aiworkspace_server.kit.limits import Counters
from aiworkspace_server.settings import Settings
from tests.support.outcomes import OK, RATE_LIMITED, UNAUTHENTICATED, outcome, outcomes, refusal
from tests.support.people import Person, make_org, people
from tests.support.service_accounts import make_account, make_key
from tests.support.settings import store_settings
from tests.support.statements import statements
from tests.support.stores import Stores, other_databases

_CLASS = options.RateLimitClass.DESCRIPTOR.values_by_name["RATE_LIMIT_CLASS_FAILED_CREDENTIALS"]
ALLOWED = _CLASS.GetOptions().Extensions[options.calls_per_minute]
ME = pb.GetMeRequest()


@pytest.fixture
async def server(stores: Stores, one_minute: None, request: pytest.FixtureRequest) -> AsyncIterator[App]:
    """A server with the limits of the contract that believes what its clients say of where they are."""
    name = f"failures_{abs(hash(request.node.name)) % 10**8}"
    own = {"trusted_proxies": "127.0.0.1", "rate_limit_factor": 1}
    settings = Settings.model_validate(store_settings(await other_databases(stores, name)) | own)
    async with running(settings, migrating=True) as app:
        yield app


class Caller:
    """Calls with one credential from one address."""

    def __init__(self, person: Person, credential: str, address: str) -> None:
        self._person = person
        self._metadata = (("authorization", f"Bearer {credential}"), ("x-forwarded-for", address))

    def get_me(self) -> Any:
        return self._person.auth.GetMe(ME, metadata=self._metadata)


ATTACKER, NEIGHBOUR, ELSEWHERE = "203.0.113.66", "203.0.113.66", "198.51.100.1"


async def test_unknown_keys_cost_no_query_above_the_limit_and_others_are_served(server: App) -> None:
    async with people(server.address) as new_person:
        owner, anybody = await new_person(), Person(server.address)
        org_id = await make_org(owner)
        robot = await make_account(owner, org_id)
        key, other_key = [(await make_key(owner, org_id, robot)).secret for _ in range(2)]
        known = Caller(anybody, key, NEIGHBOUR)
        assert await outcome(known.get_me()) == OK

        with statements(server, "find_") as queries:
            guesses = [Caller(anybody, api_keys.new_key(), ATTACKER).get_me() for _ in range(900)]
            found = await outcomes(guesses)
        assert found.keys() == {UNAUTHENTICATED, RATE_LIMITED}
        assert ALLOWED <= found[UNAUTHENTICATED] < ALLOWED + LOOK_UPS_AT_ONCE
        assert len(queries) == found[UNAUTHENTICATED], "one each, and none for those that were refused"
        with statements(server, "find_") as queries:
            assert await outcomes(Caller(anybody, api_keys.new_key(), ATTACKER).get_me() for _ in range(900)) == {
                RATE_LIMITED: 900
            }
        assert queries == []

        await asyncio.sleep(1.1)  # after which the server asks again whether the key works
        assert await outcome(known.get_me()) == OK, "a key that worked lately, from the address of the attacker"
        session = Caller(anybody, owner.tokens.access_token, NEIGHBOUR)
        assert await outcome(session.get_me()) == OK, "a session from there"
        refreshed = await owner.auth.Refresh(
            pb.RefreshRequest(refresh_token=owner.tokens.refresh_token), metadata=(("x-forwarded-for", NEIGHBOUR),)
        )
        assert await outcome(Caller(anybody, refreshed.tokens.access_token, NEIGHBOUR).get_me()) == OK
        assert await outcome(Caller(anybody, other_key, ELSEWHERE).get_me()) == OK, "a key from elsewhere"
        await anybody.channel.close()


async def test_a_key_in_use_stays_known_however_long_somebody_guesses_beside_it() -> None:
    seconds = 0.0
    failures = Failures(Counters(None), 1, lambda: seconds)
    async with failures.attempt(NEIGHBOUR, b"key"):
        pass
    for _ in range(ALLOWED):
        with pytest.raises(Unauthenticated):
            async with failures.attempt(ATTACKER, b"guess"):
                raise Unauthenticated
    with pytest.raises(RateLimited):
        async with failures.attempt(ATTACKER, b"guess"):
            pass
    for _ in range(10):
        seconds += 600
        async with failures.attempt(NEIGHBOUR, b"key"):
            pass


async def test_a_refusal_says_when_to_come_back(server: App) -> None:
    person = Person(server.address)
    guess = Caller(person, api_keys.new_key(), ATTACKER)
    while (refused := await refusal(guess.get_me())) and refused.code == "UNAUTHENTICATED":
        pass
    assert refused is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(refused.status).details)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 120
    await person.channel.close()


def forged(token: str, number: int) -> str:
    """The token with a signature that somebody else made."""
    claims = jwt.decode(token, options={"verify_signature": False})
    header = {name: value for name, value in jwt.get_unverified_header(token).items() if name in ("typ", "kid")}
    return jwt.encode(claims, f"not the secret of the server, number {number}", "HS256", header)


@pytest.mark.parametrize("kind", ["access token", "refresh token", "malformed key", "no token at all"])
async def test_what_is_forged_costs_no_query_and_is_limited(server: App, kind: str) -> None:
    async with people(server.address) as new_person:
        person = await new_person()
        stranger = Person(server.address)

        def call(number: int) -> Any:
            if kind == "refresh token":
                request = pb.RefreshRequest(refresh_token=forged(person.tokens.refresh_token, number))
                return stranger.auth.Refresh(request, metadata=(("x-forwarded-for", ATTACKER),))
            credential = {
                "access token": forged(person.tokens.access_token, number),
                "malformed key": f"{api_keys.new_key()[:-1]}-",
                "no token at all": "guess",
            }[kind]
            return Caller(stranger, credential, ATTACKER).get_me()

        with statements(server, "find_") as queries:
            found = [await outcome(call(number)) for number in range(ALLOWED + 5)]
        assert found == [UNAUTHENTICATED] * ALLOWED + [RATE_LIMITED] * 5
        assert queries == []
        await stranger.channel.close()


async def test_the_tokens_of_an_ended_session_cost_one_query_and_count_for_nobody(server: App) -> None:
    async with people(server.address) as new_person:
        person = await new_person()
        access, refresh = person.tokens.access_token, person.tokens.refresh_token
        await person.auth.Logout(pb.LogoutRequest())
        stranger = Person(server.address)
        with statements(server, "find_") as queries:
            ended = [await outcome(Caller(stranger, access, ATTACKER).get_me()) for _ in range(ALLOWED + 5)]
            again = [
                await outcome(
                    stranger.auth.Refresh(
                        pb.RefreshRequest(refresh_token=refresh), metadata=(("x-forwarded-for", ATTACKER),)
                    )
                )
                for _ in range(5)
            ]
        assert ended == [UNAUTHENTICATED] * (ALLOWED + 5)
        assert again == [UNAUTHENTICATED] * 5
        assert len(queries) <= 2
        await stranger.channel.close()


async def test_a_key_that_stopped_working_counts_again_and_one_that_works_again_is_taken(server: App) -> None:
    async with people(server.address) as new_person:
        owner, anybody = await new_person(), Person(server.address)
        org_id = await make_org(owner)
        robot = await make_account(owner, org_id)
        caller = Caller(anybody, (await make_key(owner, org_id, robot)).secret, ATTACKER)
        assert await outcome(caller.get_me()) == OK
        await owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(org_id=org_id, user_id=robot))
        assert await outcome(caller.get_me()) == UNAUTHENTICATED
        await owner.orgs.ReinstateMember(org_pb2.ReinstateMemberRequest(org_id=org_id, user_id=robot))
        assert await outcome(caller.get_me()) == OK, "nothing remembers that it was refused"
        await owner.orgs.SuspendMember(org_pb2.SuspendMemberRequest(org_id=org_id, user_id=robot))
        found = [await outcome(caller.get_me()) for _ in range(ALLOWED + 1)]
        assert found == [UNAUTHENTICATED] * (ALLOWED - 1) + [RATE_LIMITED] * 2
        await anybody.channel.close()
