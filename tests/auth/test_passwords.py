"""Hashing: what a hash depends on, and that a storm of sign-ins slows nobody else."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.auth.passwords import Passwords
from aiworkspace_server.kit.errors import Unavailable
from tests.people import PASSWORD, Person
from tests.refusals import OK, PASSWORD_WRONG, named, outcome, outcomes


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords("a pepper", cost=4)
    yield passwords
    passwords.close()


async def hashed(passwords: Passwords, password: str = PASSWORD, *inputs: str) -> str:
    return await passwords.hash_new(password, "password", inputs)


async def test_a_password_matches_its_hash_and_no_other(passwords: Passwords) -> None:
    one, two = await hashed(passwords), await hashed(passwords)
    assert one != two
    assert await passwords.matches(PASSWORD, one)
    assert not await passwords.matches(PASSWORD.title(), one)
    assert not await passwords.matches("", None), "also not the password that nobody has"


async def test_a_hash_is_worth_nothing_without_the_pepper(passwords: Passwords) -> None:
    other = Passwords("another pepper", cost=4)
    assert not await other.matches(PASSWORD, await hashed(passwords))
    other.close()


async def test_beyond_a_bound_callers_are_sent_away(passwords: Passwords) -> None:
    done = await asyncio.gather(*(hashed(passwords) for _ in range(100)), return_exceptions=True)
    assert Counter(type(result) for result in done) == {str: 64, Unavailable: 36}
    assert await passwords.matches(PASSWORD, str(done[0])), "afterwards there is room again"


async def test_a_storm_of_logins_leaves_other_calls_fast(stranger: Person, owner: Person) -> None:
    requests = [pb.LoginRequest(email=owner.email, password=password) for password in [PASSWORD, "wrong"] * 25]
    storm = asyncio.create_task(outcomes(stranger.auth.Login(request) for request in requests))
    seconds = []
    while not storm.done():
        begin = time.perf_counter()
        assert await outcome(owner.auth.GetMe(pb.GetMeRequest())) == OK
        seconds.append(time.perf_counter() - begin)
    assert await storm == {OK: 25, PASSWORD_WRONG: 25}
    assert statistics.median(seconds) < 0.1


@pytest.mark.parametrize("length", [0, 1025, 1 << 20])
async def test_a_password_out_of_bounds_does_not_reach_the_hash(length: int, stranger: Person, owner: Person) -> None:
    request = pb.LoginRequest(email=owner.email, password="x" * length)
    assert await named(stranger.auth.Login(request)) == ("password",)
