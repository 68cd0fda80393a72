"""Guessing of passwords is throttled, and the owner of the account does not feel it on a device that is known."""

import asyncio
import base64
import re
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import bcrypt
import pytest
from google.rpc import error_details_pb2, status_pb2
from limits import RateLimitItemPerSecond

from aiworkspace.v1 import account_pb2
from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.auth import devices, passwords
from aiworkspace_server.auth.devices import Devices
from aiworkspace_server.auth.throttle import LoginThrottle
from aiworkspace_server.kit.errors import RateLimited, Unavailable
from aiworkspace_server.kit.limits import Counters
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.settings import Settings
from tests.support.accounts import NEW_PASSWORD, SignIn, login, password_change, registration
from tests.support.mailbox import RESET, Mailbox
from tests.support.outcomes import (
    ALREADY_EXISTS,
    OK,
    PASSWORD_WRONG,
    THROTTLED,
    UNAVAILABLE,
    Refusal,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.people import PASSWORD, NewPerson, Person, people
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until_true

WRONG = "a wrong password"


async def guess(person: Person, times: int, email: str = "", device_token: str = "") -> list[str]:
    """What comes of so many wrong passwords, one after the other."""
    request = login(email or person.email, WRONG, device_token=device_token)
    return [await outcome(person.auth.Login(request)) for _ in range(times)]


async def device_token(person: Person, known: str = "") -> str:
    return str((await person.auth.Login(login(person.email, device_token=known))).device_token)


# Invariant 7


@pytest.fixture
async def strict(stores: Stores) -> AsyncIterator[App]:
    """A server that throttles by account alone, not by address."""
    own = store_settings(await other_databases(stores, f"throttle_{uuid.uuid4().hex[:8]}"))
    async with running(Settings.model_validate(own | {"rate_limit_factor": 1e6}), migrating=True) as app:
        yield app


async def test_ten_thousand_bad_logins_leave_the_known_device_working_and_hardly_reach_the_hash(
    strict: App, hashed: Counter[str]
) -> None:
    async with people(strict.address) as new_person:
        victim, attacker = await new_person(), await new_person()
        token = await device_token(victim)
        hashed.clear()
        found: Counter[str] = Counter()
        for _ in range(200):  # a caller may have a hundred calls of this class in progress
            found.update(await outcomes(attacker.auth.Login(login(victim.email, WRONG)) for _ in range(50)))
        assert found == {PASSWORD_WRONG: 10, THROTTLED: 9990}
        assert hashed["checkpw"] == 10
        assert await outcome(attacker.auth.Login(login(victim.email))) == THROTTLED, "the right one is not told"
        assert await outcome(victim.auth.Login(login(victim.email, device_token=token))) == OK
        assert hashed["checkpw"] == 11


# Who is throttled, and for how long


def retry_seconds(refused: Refusal) -> float:
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status_pb2.Status.FromString(refused.status).details)
    return float(retry.retry_delay.ToTimedelta().total_seconds())


async def test_an_unknown_device_is_told_when_to_come_back_and_then_can(
    app: App, new_person: NewPerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds in (3, 10, 30):  # guessing must not take longer than that, which it may on a busy machine
        short = RateLimitItemPerSecond(10, multiples=seconds, namespace=f"short{seconds}")
        monkeypatch.setattr(app.credentials.throttle, "wrong_passwords", short)
        person = await new_person()
        assert await guess(person, 10) == [PASSWORD_WRONG] * 10
        if refused := await refusal(person.auth.Login(login(person.email))):
            break
    assert refused is not None
    assert (refused.code, refused.reason) == ("RESOURCE_EXHAUSTED", "SIGN_IN_THROTTLED")
    assert 0 < retry_seconds(refused) <= seconds
    await asyncio.sleep(retry_seconds(refused))
    assert await outcome(person.auth.Login(login(person.email))) == OK


async def test_the_time_to_come_back_is_that_of_the_first_wrong_password(new_person: NewPerson) -> None:
    person = await new_person()
    await guess(person, 10)
    seconds = []
    for _ in range(2):
        refused = await refusal(person.auth.Login(login(person.email)))
        assert refused is not None
        seconds.append(retry_seconds(refused))
    assert 700 < seconds[1] <= seconds[0] <= 900, "refused attempts put it off"


async def test_a_right_password_makes_up_for_wrong_ones(new_person: NewPerson) -> None:
    person = await new_person()
    for _ in range(3):
        assert await guess(person, 9) == [PASSWORD_WRONG] * 9
        await person.log_in()


async def test_fifty_right_passwords_at_once_are_no_wrong_ones(new_person: NewPerson) -> None:
    person = await new_person()
    assert await outcomes(person.auth.Login(login(person.email)) for _ in range(50)) == {OK: 50}


async def test_an_address_is_counted_once_however_it_is_written(new_person: NewPerson) -> None:
    person = await new_person()
    await guess(person, 5)
    assert await guess(person, 6, person.email.upper()) == [*[PASSWORD_WRONG] * 5, THROTTLED]


def timeless(refused: Refusal) -> tuple[str, ...]:
    """All that it says, but for the seconds that are left."""
    status = status_pb2.Status.FromString(refused.status)
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.value = b""
    told = (refused.code, refused.reason, refused.message, *refused.fields, str(refused.metadata), str(status))
    return tuple(re.sub(r"in \d+ s", "in n s", text) for text in told)


async def test_an_unknown_address_is_throttled_as_an_account_is(new_person: NewPerson, hashed: Counter[str]) -> None:
    person = await new_person()
    addresses = person.email, f"{uuid.uuid4()}@example.com"
    guessed = await asyncio.gather(*(guess(person, 10, email) for email in addresses))
    assert guessed == [[PASSWORD_WRONG] * 10] * 2
    known, unknown = [await refusal(person.auth.Login(login(email, WRONG))) for email in addresses]
    assert known is not None
    assert unknown is not None
    assert timeless(known) == timeless(unknown)
    assert abs(retry_seconds(known) - retry_seconds(unknown)) < 60, "as far as they began at the same time"
    assert known.reason == "SIGN_IN_THROTTLED"
    assert hashed["checkpw"] == 20, "which takes time"


async def test_a_known_device_has_a_count_of_its_own(new_person: NewPerson) -> None:
    person = await new_person()
    phone, desk = await device_token(person), await device_token(person)
    await guess(person, 10)
    assert await guess(person, 11, device_token=phone) == [*[PASSWORD_WRONG] * 10, THROTTLED]
    renewed = await device_token(person, desk)
    assert await outcome(person.auth.Login(login(person.email, device_token=phone))) == THROTTLED
    assert await guess(person, 10, device_token=desk) == [PASSWORD_WRONG] * 10
    assert await outcome(person.auth.Login(login(person.email, device_token=renewed))) == THROTTLED, "one device"


async def test_the_guesses_of_a_known_device_are_not_counted_against_others(new_person: NewPerson) -> None:
    person = await new_person()
    await guess(person, 11, device_token=await device_token(person))
    assert await outcome(person.auth.Login(login(person.email))) == OK


async def test_a_server_that_had_no_time_to_check_does_not_count() -> None:
    guesses = LoginThrottle(Counters(None), b"key")
    for _ in range(20):
        with pytest.raises(Unavailable):
            async with guesses.attempt("account"):
                raise Unavailable
    for _ in range(10):
        with pytest.raises(ValueError, match="wrong"):
            async with guesses.attempt("account"):
                raise ValueError("wrong")
    with pytest.raises(RateLimited):
        async with guesses.attempt("account"):
            pass


async def test_a_call_that_is_given_up_counts(new_person: NewPerson, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever never waits for the answer would be free to keep the hash busy."""
    person = await new_person()
    reached, loop, check = asyncio.Event(), asyncio.get_running_loop(), bcrypt.checkpw

    def telling(password: bytes, password_hash: bytes) -> bool:
        loop.call_soon_threadsafe(reached.set)
        return check(password, password_hash)

    monkeypatch.setattr(bcrypt, "checkpw", telling)
    for _ in range(10):
        reached.clear()
        call = person.auth.Login(login(person.email, WRONG))
        await reached.wait()
        call.cancel()
    assert await outcome(person.auth.Login(login(person.email))) == THROTTLED


async def test_servers_that_share_redis_count_together(stores: Stores) -> None:
    """The two have databases of their own, so that the address is known to one of them alone."""
    settings = [
        store_settings(await other_databases(stores, f"throttle_{name}")) | {"redis_url": stores.redis}
        for name in ("here", "there")
    ]
    async with (
        running(Settings.model_validate(settings[0]), migrating=True) as here,
        running(Settings.model_validate(settings[1]), migrating=True) as there,
        people(here.address) as new_here,
        people(there.address) as new_there,
    ):
        one, other = await new_here(), await new_there()
        assert await guess(one, 6) == [PASSWORD_WRONG] * 6
        assert await guess(other, 5, one.email) == [*[PASSWORD_WRONG] * 4, THROTTLED]
        assert await outcome(one.auth.Login(login(one.email))) == THROTTLED


# Other ways to try a password


async def test_guesses_of_the_current_password_are_throttled_for_their_session(
    new_person: NewPerson, sign_in: SignIn
) -> None:
    person = await new_person()
    other = await sign_in(person)
    tried = [await outcome(person.auth.ChangePassword(password_change(WRONG))) for _ in range(11)]
    assert tried == [*[PASSWORD_WRONG] * 10, THROTTLED]
    assert await outcome(person.auth.ChangePassword(password_change(PASSWORD))) == THROTTLED
    assert await outcome(person.auth.Login(login(person.email))) == OK
    assert await outcome(other.auth.ChangePassword(password_change(PASSWORD))) == OK


async def test_a_new_password_that_is_refused_is_no_guess(new_person: NewPerson) -> None:
    person = await new_person()
    for _ in range(12):
        assert await named(person.auth.ChangePassword(password_change(PASSWORD, "password1234"))) == ("new_password",)


async def test_a_repeated_change_is_no_guess(new_person: NewPerson) -> None:
    person = await new_person()
    request = password_change(PASSWORD, request_id=str(uuid.uuid4()))
    assert [await outcome(person.auth.ChangePassword(request)) for _ in range(12)] == [OK] * 12


async def test_strangers_who_register_the_address_lock_nobody_out(new_person: NewPerson) -> None:
    person = await new_person()
    for request_id in ["", str(uuid.uuid4())] * 6:
        request = registration(email=person.email, password=NEW_PASSWORD, request_id=request_id)
        assert await outcome(person.auth.Register(request)) == ALREADY_EXISTS
    assert await outcome(person.auth.Login(login(person.email))) == OK


async def test_the_id_of_a_registration_lets_nobody_guess(stranger: Person) -> None:
    request = registration(request_id=str(uuid.uuid4()))
    await stranger.auth.Register(request)
    request.password = NEW_PASSWORD
    assert [await outcome(stranger.auth.Register(request)) for _ in range(10)] == [ALREADY_EXISTS] * 10
    assert await outcome(stranger.auth.Register(request)) == THROTTLED


# Device tokens


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Moves the clock of device tokens: `later(days=3)`."""

    def later(**interval: float) -> None:
        def moved() -> datetime:
            return now() + timedelta(**interval)

        monkeypatch.setattr(devices, "now", moved)

    return later


async def is_known(person: Person, token: str) -> bool:
    """Whether the token lets its device in while strangers are throttled."""
    await guess(person, 10)
    return await outcome(person.auth.Login(login(person.email, device_token=token))) == OK


async def test_registration_and_login_make_the_device_known(new_person: NewPerson, stranger: Person) -> None:
    request = registration()
    registered = (await stranger.auth.Register(request)).device_token
    person = await new_person()
    person.email = request.email
    token = await device_token(person)
    assert await is_known(person, registered)
    assert await is_known(person, token)
    assert len(token) <= 256


async def test_a_device_token_outlives_sessions_and_passwords(new_person: NewPerson, stranger: Person) -> None:
    person = await new_person()
    token = await device_token(person)
    await person.auth.ChangePassword(password_change(PASSWORD))
    await person.auth.Logout(pb.LogoutRequest())
    await guess(person, 10)
    assert await outcome(stranger.auth.Login(login(person.email, NEW_PASSWORD, device_token=token))) == OK


async def test_a_device_token_is_good_for_400_days(new_person: NewPerson, later: Callable[..., None]) -> None:
    person = await new_person()
    token = await device_token(person)
    later(days=399.9)
    assert await is_known(person, token)
    later(days=400.1)
    assert not await is_known(person, token)


async def test_a_device_token_is_good_for_its_account_alone(new_person: NewPerson) -> None:
    person, attacker = await new_person(), await new_person()
    assert not await is_known(person, await device_token(attacker))


def changed(token: str, at: int) -> str:
    content = bytearray(base64.urlsafe_b64decode(token + "=="))
    content[at] ^= 1
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def test_what_is_no_device_token_counts_as_none(new_person: NewPerson) -> None:
    person = await new_person()
    token = await device_token(person)
    forged = Devices(b"another key").issue(uuid.UUID(person.user_id), None)
    size = len(base64.urlsafe_b64decode(token + "=="))
    bad = [
        "x",
        "=",
        "é",
        "\0",
        "A" * 256,
        token[:-4],
        token + "AAAA",
        forged,
        *(changed(token, at) for at in range(size)),
    ]
    for given in bad:
        assert await outcome(person.auth.Login(login(person.email, device_token=given))) == OK, given
    await guess(person, 10)
    assert await outcomes(person.auth.Login(login(person.email, device_token=given)) for given in bad) == {
        THROTTLED: len(bad)
    }
    assert await outcome(person.auth.Login(login(person.email, device_token=token))) == OK


async def test_a_device_token_is_at_most_256_characters(stranger: Person) -> None:
    assert await named(stranger.auth.Login(login("a@example.com", device_token="A" * 257))) == ("device_token",)


# Known devices and what strangers do


async def test_a_known_device_does_not_wait_for_the_guesses_of_strangers(
    strict: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every thread that hashes for strangers is busy, and their queue is full."""
    check, released = bcrypt.checkpw, threading.Event()
    occupied = threading.Semaphore(0)

    def slow_for_strangers(password: bytes, password_hash: bytes) -> bool:
        if threading.current_thread().name.startswith("passwords-strangers"):
            occupied.release()
            assert released.wait(60)
        return check(password, password_hash)

    async with people(strict.address) as new_person:
        victim, attacker = await new_person(), await new_person()
        token = await device_token(victim)
        monkeypatch.setattr(bcrypt, "checkpw", slow_for_strangers)
        guesses = [
            asyncio.ensure_future(outcome(attacker.auth.Login(login(f"{number}@example.com", WRONG))))
            for number in range(passwords.MOST_WAITING + 20)
        ]
        try:
            await until_true(lambda: sum(guess.done() for guess in guesses) == 20)
            assert {guess.result() for guess in guesses if guess.done()} == {UNAVAILABLE}, "strangers are sent away"
            assert await outcome(victim.auth.Login(login(victim.email, device_token=token))) == OK
            change = pb.ChangePasswordRequest(current_password=PASSWORD, new_password=NEW_PASSWORD)
            assert await outcome(victim.auth.ChangePassword(change)) == OK, "nor does a session"
        finally:
            released.set()
        assert Counter(await asyncio.gather(*guesses)) == {UNAVAILABLE: 20, PASSWORD_WRONG: passwords.MOST_WAITING}


async def test_a_device_of_an_attackers_own_goes_before_others_a_few_times_alone(app: App) -> None:
    known, device_id = app.credentials.throttle, uuid.uuid4()
    assert [await known.goes_first(device_id) for _ in range(12)] == [True] * 10 + [False] * 2


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_a_reset_by_mail_lets_devices_in_again(new_person: NewPerson, mailbox: Mailbox, known: bool) -> None:
    person = await new_person()
    device = await device_token(person) if known else ""
    assert await guess(person, 11, device_token=device) == [PASSWORD_WRONG] * 10 + [THROTTLED]
    await person.accounts.RequestPasswordReset(account_pb2.RequestPasswordResetRequest(email=person.email))
    token = await mailbox.token(person.email, RESET)
    await person.accounts.ResetPassword(account_pb2.ResetPasswordRequest(token=token, new_password=NEW_PASSWORD))
    assert await outcome(person.auth.Login(login(person.email, NEW_PASSWORD, device_token=device))) == OK
