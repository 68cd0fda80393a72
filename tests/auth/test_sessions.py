"""Sessions: refreshing, listing and ending them."""

import asyncio
import time
import uuid
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.auth import service, store
from aiworkspace_server.kit import timestamps
from tests.support.accounts import NEW_PASSWORD, SignIn, get_me, login, password_change, refresh
from tests.support.outcomes import (
    NOT_FOUND,
    OK,
    PASSWORD_WRONG,
    REQUEST_ID_REUSED,
    UNAUTHENTICATED,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import few, read_all
from tests.support.people import PASSWORD, NewPerson, Person
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.stores import Stores


async def sessions(person: Person, **page: Any) -> list[pb.Session]:
    return list((await person.auth.ListSessions(pb.ListSessionsRequest(**page))).sessions)


async def revoke(person: Person, session_id: str) -> str:
    return await outcome(person.auth.RevokeSession(pb.RevokeSessionRequest(session_id=session_id)))


# Refreshing


async def test_refresh_gives_new_tokens_of_the_same_session(new_person: NewPerson) -> None:
    person = await new_person()
    first, second = person.tokens, await refresh(person)
    assert second.session_id == first.session_id
    assert second.access_token != first.access_token
    assert second.refresh_token != first.refresh_token
    person.bearer.token = second.access_token
    assert await outcome(get_me(person)) == OK
    (session,) = await sessions(person)
    assert session.expire_time == second.refresh_expire_time


async def test_a_refresh_that_is_repeated_at_once_gives_the_same_tokens(new_person: NewPerson) -> None:
    person = await new_person()
    first = await refresh(person)
    assert await refresh(person) == first
    assert await refresh(person, first.refresh_token) != first, "the child works"


async def test_fifty_refreshes_at_once_give_one_live_child(new_person: NewPerson) -> None:
    person = await new_person()
    given = await asyncio.gather(*(refresh(person) for _ in range(50)))
    assert len({tokens.SerializeToString(deterministic=True) for tokens in given}) == 1
    assert await outcome(refresh(person, given[0].refresh_token)) == OK


async def end_repeat_window(stores: Stores, person: Person) -> None:
    """Makes the last refresh eleven seconds old."""
    past = "UPDATE sessions SET refresh_time = refresh_time - interval '11 s' WHERE id = %s"
    await sql(stores, past, person.tokens.session_id)


async def test_a_used_token_that_comes_back_later_ends_the_session_for_good(
    new_person: NewPerson, sign_in: SignIn, stores: Stores
) -> None:
    person = await new_person()
    other = await sign_in(person)
    child = await refresh(person)
    person.bearer.token = child.access_token
    assert await outcome(get_me(person)) == OK
    await end_repeat_window(stores, person)
    assert await outcome(refresh(person)) == UNAUTHENTICATED
    assert await outcome(get_me(person)) == UNAUTHENTICATED, "the access token ends with the session"
    assert await outcome(refresh(person, child.refresh_token)) == UNAUTHENTICATED
    assert [session.session_id for session in await sessions(other)] == [other.tokens.session_id]


async def test_a_token_from_before_the_last_one_ends_the_session_at_once(new_person: NewPerson) -> None:
    person = await new_person()
    child = await refresh(person)
    grandchild = await refresh(person, child.refresh_token)
    assert await outcome(refresh(person)) == UNAUTHENTICATED
    assert await outcome(refresh(person, grandchild.refresh_token)) == UNAUTHENTICATED


async def test_a_session_that_has_expired_cannot_be_refreshed(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    await sql(
        stores, "UPDATE sessions SET expire_time = now() - interval '61 s' WHERE id = %s", person.tokens.session_id
    )
    assert await outcome(refresh(person)) == UNAUTHENTICATED
    assert await outcome(get_me(person)) == UNAUTHENTICATED


# Ending


async def test_logout_ends_the_session_and_no_other(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    other = await sign_in(person)
    assert await outcome(get_me(person)) == OK
    await person.auth.Logout(pb.LogoutRequest())
    assert await outcome(get_me(person)) == UNAUTHENTICATED
    assert await outcome(person.auth.Logout(pb.LogoutRequest())) == UNAUTHENTICATED
    assert await outcome(refresh(person)) == UNAUTHENTICATED
    assert await outcome(get_me(other)) == OK


async def test_a_revoked_session_is_refused_at_the_next_call(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    phone = await sign_in(person)
    assert await outcome(get_me(phone)) == OK
    assert [await revoke(person, phone.tokens.session_id) for _ in range(2)] == [OK, OK]
    assert await outcome(get_me(phone)) == UNAUTHENTICATED
    assert await outcome(refresh(phone)) == UNAUTHENTICATED
    assert [session.session_id for session in await sessions(person)] == [person.tokens.session_id]


async def test_a_session_that_is_revoked_while_it_is_looked_up_is_not_remembered(
    new_person: NewPerson, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await new_person()
    phone = await sign_in(person)
    found, revoked = asyncio.Event(), asyncio.Event()
    find = store.find_principal

    async def find_slowly(tx: Any, session_id: uuid.UUID) -> Any:
        principal = await find(tx, session_id)
        if str(session_id) == phone.tokens.session_id:
            found.set()
            await revoked.wait()
        return principal

    monkeypatch.setattr(store, "find_principal", find_slowly)
    looked_up = asyncio.create_task(outcome(get_me(phone)))
    await found.wait()
    await revoke(person, phone.tokens.session_id)
    revoked.set()
    await looked_up
    assert await outcome(get_me(phone)) == UNAUTHENTICATED


async def test_sessions_of_others_are_as_unknown_as_those_of_nobody(new_person: NewPerson, owner: Person) -> None:
    other = await new_person()
    ids = other.tokens.session_id, str(uuid.uuid4())
    calls = [owner.auth.RevokeSession(pb.RevokeSessionRequest(session_id=session_id)) for session_id in ids]
    foreign, unknown = [await refusal(call) for call in calls]
    assert foreign == unknown
    assert foreign is not None
    assert foreign.code == "NOT_FOUND"
    assert await revoke(owner, other.tokens.session_id) == NOT_FOUND
    assert await outcome(get_me(other)) == OK


async def revoke_all(person: Person, **fields: bool) -> int:
    return int((await person.auth.RevokeAllSessions(pb.RevokeAllSessionsRequest(**fields))).revoked_count)


async def test_all_sessions_end_at_once(new_person: NewPerson, sign_in: SignIn, owner: Person) -> None:
    person = await new_person()
    everywhere = [person, *[await sign_in(person) for _ in range(2)]]
    assert [await outcome(get_me(device)) for device in everywhere] == [OK] * 3
    assert await revoke_all(person) == 3
    assert [await outcome(get_me(device)) for device in everywhere] == [UNAUTHENTICATED] * 3
    assert [await outcome(refresh(device)) for device in everywhere] == [UNAUTHENTICATED] * 3
    assert await outcome(get_me(owner)) == OK
    assert await outcome(get_me(await sign_in(person))) == OK


async def test_all_sessions_but_the_present_one_end_at_once(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    others = [await sign_in(person) for _ in range(2)]
    assert [await outcome(get_me(device)) for device in others] == [OK] * 2
    assert [await revoke_all(person, keep_current=True) for _ in range(2)] == [2, 0]
    assert [await outcome(get_me(device)) for device in others] == [UNAUTHENTICATED] * 2
    assert [await outcome(refresh(device)) for device in others] == [UNAUTHENTICATED] * 2
    assert await outcome(get_me(person)) == OK
    assert await outcome(refresh(person)) == OK


async def test_sessions_that_have_expired_are_not_counted_among_the_ended(
    new_person: NewPerson, sign_in: SignIn, stores: Stores
) -> None:
    person = await new_person()
    expired = await sign_in(person)
    await sql(
        stores, "UPDATE sessions SET expire_time = now() - interval '61 s' WHERE id = %s", expired.tokens.session_id
    )
    assert await revoke_all(person) == 1


async def test_every_device_may_end_all_sessions_at_the_same_moment(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    everywhere = [person, *[await sign_in(person) for _ in range(5)]]
    calls = [device.auth.RevokeAllSessions(pb.RevokeAllSessionsRequest()) for device in everywhere]
    found = await outcomes(calls)
    assert found[OK] >= 1
    assert found.keys() <= {OK, UNAUTHENTICATED}
    assert [await outcome(get_me(device)) for device in everywhere] == [UNAUTHENTICATED] * 6


# Listing


async def test_the_list_says_which_device_each_session_is_on(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    phone = await sign_in(person, device_name="Ann's phone")
    latest, first = await sessions(phone)
    assert (latest.session_id, first.session_id) == (phone.tokens.session_id, person.tokens.session_id)
    assert (latest.device_name, first.device_name) == ("Ann's phone", "")
    assert (latest.current, first.current) == (True, False)
    assert latest.address == "127.0.0.1"
    assert latest.user_agent.startswith("grpc-python")
    assert latest.expire_time == phone.tokens.refresh_expire_time
    assert abs(latest.last_use_time.seconds - time.time()) < 60


async def test_the_time_and_address_of_the_last_use_are_kept_to_within_a_minute(
    new_person: NewPerson, stores: Stores
) -> None:
    person = await new_person()
    past = "UPDATE sessions SET last_use_time = now() - interval '61 s', address = '192.0.2.1' WHERE id = %s"
    await sql(stores, past, person.tokens.session_id)
    before = time.time()
    await outcome(get_me(person))
    (session,) = await sessions(person)
    assert session.address == "127.0.0.1"
    assert session.last_use_time.seconds > before - 2


async def test_a_refresh_is_a_use(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    elsewhere = "UPDATE sessions SET last_use_time = now() - interval '30 s', address = '192.0.2.1' WHERE id = %s"
    await sql(stores, elsewhere, person.tokens.session_id)
    before = time.time()
    await refresh(person)
    (session,) = await sessions(person)
    assert session.address == "127.0.0.1"
    assert session.last_use_time.seconds > before - 2


@pytest.fixture(scope="module")
async def traveller(new_person: NewPerson, sign_in: SignIn) -> Person:
    """Signed in on five devices."""
    person = await new_person()
    await asyncio.gather(*(sign_in(person, device_name=f"device {number}") for number in range(4)))
    return person


@few
@given(size=st.integers(1, 6))
async def test_pages_of_sessions_add_up(size: int, traveller: Person) -> None:
    found = await read_all(traveller.auth.ListSessions, pb.ListSessionsRequest(), "sessions", size)
    assert found == await sessions(traveller)
    assert len({session.session_id for session in found}) == 5


async def test_a_page_of_sessions_is_for_the_person_who_asked(traveller: Person, owner: Person) -> None:
    token = (await traveller.auth.ListSessions(pb.ListSessionsRequest(page_size=1))).next_page_token
    assert await named(owner.auth.ListSessions(pb.ListSessionsRequest(page_token=token))) == ("page_token",)


# Changing the password


async def test_a_new_password_ends_all_other_sessions_at_once(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    others = [await sign_in(person) for _ in range(2)]
    assert [await outcome(get_me(other)) for other in others] == [OK, OK]
    await person.auth.ChangePassword(password_change())
    assert [await outcome(get_me(other)) for other in others] == [UNAUTHENTICATED, UNAUTHENTICATED]
    assert [await outcome(refresh(other)) for other in others] == [UNAUTHENTICATED, UNAUTHENTICATED]
    assert await outcome(get_me(person)) == OK
    assert await outcome(refresh(person)) == OK
    assert [
        await outcome(person.auth.Login(login(person.email, password))) for password in (PASSWORD, NEW_PASSWORD)
    ] == [PASSWORD_WRONG, OK]


async def test_a_wrong_current_password_changes_nothing(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    other = await sign_in(person)
    request_id = str(uuid.uuid4())
    assert await outcome(person.auth.ChangePassword(password_change("wrong", request_id=request_id))) == PASSWORD_WRONG
    assert await outcome(get_me(other)) == OK
    assert await outcome(person.auth.Login(login(person.email, PASSWORD))) == OK
    assert await outcome(person.auth.ChangePassword(password_change(request_id=request_id))) == OK, (
        "the id was not used up"
    )


async def test_a_repeated_change_of_the_password_does_nothing_again(new_person: NewPerson, sign_in: SignIn) -> None:
    person = await new_person()
    request = password_change(request_id=str(uuid.uuid4()))
    await person.auth.ChangePassword(request)
    other = await sign_in(person, password=NEW_PASSWORD)
    await person.auth.ChangePassword(request)
    assert await outcome(get_me(other)) == OK, "the second call ended a session"
    request.new_password = "yet another passphrase"
    assert await outcome(person.auth.ChangePassword(request)) == REQUEST_ID_REUSED


async def test_of_concurrent_changes_of_the_password_one_succeeds(new_person: NewPerson) -> None:
    person = await new_person()
    calls = [
        person.auth.ChangePassword(password_change(new=f"passphrase number {number}", request_id=str(uuid.uuid4())))
        for number in range(6)
    ]
    assert await outcomes(calls) == {OK: 1, PASSWORD_WRONG: 5}


async def test_changes_of_the_password_that_meet_do_not_wait_for_each_other_for_ever(
    new_person: NewPerson, stores: Stores
) -> None:
    """Each has stored its request_id, a row that refers to the account, before it locks the account."""
    person = await new_person()
    async with as_owner(stores) as busy, busy.transaction():
        await busy.execute("SELECT FROM users WHERE id = %s FOR NO KEY UPDATE", [person.user_id])
        requests = [password_change(new=f"passphrase number {n}", request_id=str(uuid.uuid4())) for n in range(2)]
        calls = [asyncio.create_task(outcome(person.auth.ChangePassword(request))) for request in requests]
        await until_blocked(stores, *calls)
    assert sorted([await call for call in calls]) == [OK, PASSWORD_WRONG]


async def test_concurrent_repetitions_of_one_change_all_succeed(new_person: NewPerson) -> None:
    person = await new_person()
    request = password_change(request_id=str(uuid.uuid4()))
    assert await outcomes(person.auth.ChangePassword(request) for _ in range(6)) == {OK: 6}


@pytest.mark.parametrize("new", ["", "x" * 11, "x" * 1025])
async def test_a_new_password_has_the_bounds_of_the_first(new: str, owner: Person) -> None:
    assert await named(owner.auth.ChangePassword(password_change(new=new))) == ("new_password",)


# Clocks that differ


@pytest.mark.parametrize("minutes", [-60, -1, 1, 60])
async def test_a_lost_reply_is_repeated_by_a_server_whose_clock_differs(
    new_person: NewPerson, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    """The second server is this one with its clock moved."""
    person = await new_person()
    given = await refresh(person)
    monkeypatch.setattr(service, "now", lambda: timestamps.now() + timedelta(minutes=minutes))
    assert (await refresh(person)).refresh_token == given.refresh_token
    monkeypatch.undo()
    assert await outcome(refresh(person, given.refresh_token)) == OK


async def test_a_session_lasts_a_minute_longer_than_its_time(new_person: NewPerson, stores: Stores) -> None:
    for seconds, expected in (("50", OK), ("61", UNAUTHENTICATED)):
        person = await new_person()
        past = f"UPDATE sessions SET expire_time = now() - interval '{seconds} s' WHERE id = %s"
        await sql(stores, past, person.tokens.session_id)
        assert await outcome(get_me(person)) == expected
        assert await outcome(refresh(person)) == expected


async def test_only_an_ended_session_is_said_to_have_ended(new_person: NewPerson) -> None:
    person = await new_person()
    forged = await refusal(refresh(person, person.tokens.refresh_token[:-4] + "AAAA"))
    assert forged is not None
    assert forged.metadata == {}
    await person.auth.Logout(pb.LogoutRequest())
    for _ in range(2):
        ended = await refusal(refresh(person))
        assert ended is not None
        assert (ended.reason, ended.metadata) == ("CREDENTIALS_INVALID", {"session": "ended"})
