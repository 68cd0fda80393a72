"""Passwords: which are taken, what a hash depends on, and what a sign-in gives away."""

import asyncio
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth.passwords import Passwords
from aiworkspace_server.auth.strength import weakness
from aiworkspace_server.kit.errors import Unavailable
from tests.support.accounts import registration
from tests.support.outcomes import OK, PASSWORD_WRONG, Refusal, named, outcome, outcomes, refusal
from tests.support.people import PASSWORD, NewPerson, Person


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


# Guessable passwords


@pytest.mark.parametrize(
    "password",
    [
        "            ",
        "xxxxxxxxxxxxxxx",
        "password1234",
        "p@$$w0rd!123",
        "123456789012",
        "qwertyuiop[]",
        "!@#$%^&*()_+",
        "letmeinletmein",
        "12/31/1999!!",
        "drowssapdrowssap",
        "x" * 72 + "y",
    ],
)
async def test_a_password_that_is_easily_guessed_is_refused(password: str, stranger: Person) -> None:
    request = registration(password=password)
    refused = await refusal(stranger.auth.Register(request))
    assert refused is not None
    assert (refused.code, refused.reason, refused.fields) == ("INVALID_ARGUMENT", "FIELD_INVALID", ("password",))
    assert "use several words" in refused.message
    assert password.strip() == "" or password not in refused.message
    request.password = PASSWORD
    assert await outcome(stranger.auth.Register(request)) == OK, "the refused call made no account"


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "zvqmwkrtypxd",
        "830692517408352961",
        "パスワードはひみつです。",
        "tr0ub4dor & 3 more",
        "4@8({[<369!|10$5+7%2",
    ],
)
async def test_no_character_is_demanded_of_a_password(password: str, stranger: Person) -> None:
    assert await outcome(stranger.auth.Register(registration(password=password))) == OK


@pytest.mark.parametrize(
    "password",
    ["Marguerite Okonkwo", "marguerite.okonkwo", "okonkwo4marguerite!", "0k0nkw0!!!!!!", "kangurumail.example"],
)
async def test_what_others_know_of_a_person_makes_no_password(password: str, stranger: Person) -> None:
    known = {"email": "marguerite.okonkwo@kangurumail.example", "display_name": "Marguerite Okonkwo"}
    assert await named(stranger.auth.Register(registration(password=password, **known))) == ("password",)
    assert await outcome(stranger.auth.Register(registration(password=password))) == OK, "of somebody else it does"


async def test_a_new_password_is_held_to_the_same(new_person: NewPerson) -> None:
    person = await new_person()
    weak = pb.ChangePasswordRequest(current_password=PASSWORD, new_password=f"{person.email[:12]}!")
    assert await named(person.auth.ChangePassword(weak)) == ("new_password",)
    weak.current_password = "wrong"
    assert await outcome(person.auth.ChangePassword(weak)) == PASSWORD_WRONG, "of which a thief learns nothing"
    assert await outcome(person.auth.Login(pb.LoginRequest(email=person.email, password=PASSWORD))) == OK


def test_people_who_choose_passwords_at_once_are_not_mixed_up() -> None:
    names = ["zvqmwkrtypxd", "qwxkjzvbnrth", "plmokwnxjqbz", "xkqzvwjrtbnm"] * 25
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda name: weakness(name[::-1], [name]), names))
    finally:
        sys.setswitchinterval(interval)
    assert None not in done


@given(st.text(min_size=12, max_size=1024), st.lists(st.text(max_size=254), max_size=2))
def test_any_text_can_be_judged(password: str, inputs: list[str]) -> None:
    assert weakness(password, inputs) != ""


@pytest.mark.parametrize("alphabet", ["4@8({[<369!|10$5+7%2", "0123456789", "4@8(3619ab", "ab1", "x", "pasword"])
def test_no_password_takes_long_to_judge(alphabet: str) -> None:
    chance = random.Random(alphabet)
    times = []
    for _ in range(5):
        password = "".join(chance.choices(alphabet, k=1024))
        begin = time.thread_time()
        weakness(password, [])
        times.append(time.thread_time() - begin)
    assert min(times) < 0.5  # 20 ms on a machine with nothing else to do; unbounded it would be minutes


# Sign-in


@pytest.mark.usefixtures("dear_hashes")
async def test_fifty_logins_at_once_leave_health_checks_fast(app: App, new_person: NewPerson, stranger: Person) -> None:
    known = await asyncio.gather(*(new_person() for _ in range(10)))
    right = [pb.LoginRequest(email=person.email, password=PASSWORD) for person in known]
    wrong = [pb.LoginRequest(email=f"{uuid.uuid4()}@example.com", password="wrong") for _ in range(40)]
    async with grpc.aio.insecure_channel(app.address) as channel:
        health: Any = HealthStub(channel)
        for _ in range(5):  # other programs of a busy machine may delay them as well
            storm = asyncio.create_task(outcomes(stranger.auth.Login(request) for request in right + wrong))
            seconds = []
            while not storm.done():
                begin = time.perf_counter()
                await health.Check(HealthCheckRequest())
                seconds.append(time.perf_counter() - begin)
                await asyncio.sleep(0.005)
            assert await storm == {OK: 10, PASSWORD_WRONG: 40}
            if len(seconds) > 10 and statistics.median(seconds) < 0.1:
                return
    pytest.fail(f"{len(seconds)} checks in the storm: {seconds}")


@pytest.mark.parametrize("length", [0, 1025, 4096])
async def test_a_password_out_of_bounds_does_not_reach_the_hash(length: int, stranger: Person, owner: Person) -> None:
    request = pb.LoginRequest(email=owner.email, password="x" * length)
    assert await named(stranger.auth.Login(request)) == ("password",)


@pytest.mark.usefixtures("dear_hashes")
@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("wrong", "PASSWORD_WRONG"),
        ("x" * 73, "PASSWORD_WRONG"),
        ("before\0after", "PASSWORD_WRONG"),
        ("x" * 4096, "FIELD_INVALID"),
    ],
    ids=["short", "73 bytes", "NUL", "4 KiB"],
)
async def test_an_unknown_address_gets_the_answer_of_a_wrong_password_in_the_same_time(
    password: str, reason: str, new_person: NewPerson, stranger: Person
) -> None:
    async def answer(email: str) -> tuple[Refusal | None, float]:
        begin = time.perf_counter()
        refused = await refusal(stranger.auth.Login(pb.LoginRequest(email=email, password=password)))
        return refused, time.perf_counter() - begin

    for _ in range(5):  # other programs of a busy machine take time as well
        known, unknown = (await new_person()).email, f"{uuid.uuid4()}@example.com"
        pairs = [(await answer(known), await answer(unknown)) for _ in range(7)]
        (answers,) = {(pair[0][0], pair[1][0]) for pair in pairs}
        assert answers[0] == answers[1]
        assert answers[0] is not None
        assert answers[0].reason == reason
        times = [statistics.median(each[1] for each in column) for column in zip(*pairs, strict=True)]
        if 1 / 3 < times[1] / times[0] < 3:  # without the hash it would be a fiftieth
            return
    pytest.fail(f"seconds for known and unknown addresses: {times}")
