"""Cookie mode: tokens where no script can read them, and calls that show that they come from the page."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace.v1 import chat_pb2
from aiworkspace_server.settings import Settings
from tests.support.browser import Browser, Metadata
from tests.support.outcomes import OK, PASSWORD_WRONG, THROTTLED, UNAUTHENTICATED, named, outcome, refusal
from tests.support.pagination import few
from tests.support.people import PASSWORD, NewPerson, make_place
from tests.support.postgres import sql
from tests.support.runs import events_of, kinds_of
from tests.support.stores import Stores

ACCESS, REFRESH, DEVICE = "__Host-aiws_access", "__Secure-aiws_refresh", "__Host-aiws_device"
REFRESH_PATH = "/aiworkspace.v1.AuthService/Refresh"


async def new_browser(new_person: NewPerson) -> Browser:
    """Somebody new, signed in by cookie."""
    browser = Browser(await new_person())
    await browser.sign_in()
    return browser


@pytest.fixture
async def browser(new_person: NewPerson) -> Browser:
    return await new_browser(new_person)


@pytest.fixture(scope="module")
async def reader(new_person: NewPerson) -> Browser:
    """For tests that change nothing."""
    return await new_browser(new_person)


@pytest.fixture(scope="module")
async def other_reader(new_person: NewPerson) -> Browser:
    return await new_browser(new_person)


async def get_me(browser: Browser, metadata: Any = None) -> str:
    given = browser.metadata() if metadata is None else metadata
    return await outcome(browser.person.auth.GetMe(pb.GetMeRequest(), metadata=given))


async def refresh(browser: Browser, metadata: Metadata | None = None) -> Any:
    return await browser.call("Refresh", pb.RefreshRequest(), metadata)


# Signing in


@pytest.mark.parametrize("method", ["Register", "Login"])
async def test_a_sign_in_that_asks_for_cookies_has_its_tokens_nowhere_else(method: str, new_person: NewPerson) -> None:
    browser = Browser(await new_person())
    email = browser.person.email if method == "Login" else f"{uuid.uuid4().hex}@example.com"
    login = pb.LoginRequest(email=email, password=PASSWORD, use_cookies=True)
    register = pb.RegisterRequest(email=email, password=PASSWORD, display_name="Ann", use_cookies=True)
    answer = await browser.call(method, login if method == "Login" else register)
    tokens = answer.message.tokens
    assert (tokens.access_token, tokens.refresh_token) == ("", "")
    assert tokens.csrf_token
    assert tokens.session_id
    assert tokens.access_expire_time.seconds < tokens.refresh_expire_time.seconds
    assert answer.cookies[ACCESS].value.count(".") == answer.cookies[REFRESH].value.count(".") == 2
    shown = answer.message.SerializeToString()
    assert not any(cookie.value.encode() in shown for cookie in answer.cookies.values())


async def test_cookies_are_out_of_reach_of_scripts_and_other_sites(new_person: NewPerson, settings: Settings) -> None:
    browser = Browser(await new_person())
    cookies = (await browser.sign_in()).cookies
    for name, path, seconds in (
        (ACCESS, "/", str(settings.access_token_seconds)),
        (REFRESH, REFRESH_PATH, "2592000"),
        (DEVICE, "/", "34560000"),
    ):
        cookie = cookies[name]
        assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Strict")
        assert (cookie["path"], cookie["max-age"], cookie["domain"]) == (path, seconds, "")


async def test_a_sign_in_that_asks_for_none_gets_none(new_person: NewPerson) -> None:
    browser = Browser(await new_person())
    login = pb.LoginRequest(email=browser.person.email, password=PASSWORD)
    answer = await browser.call("Login", login)
    assert not {ACCESS, REFRESH} & answer.cookies.keys()
    assert answer.message.tokens.access_token
    assert answer.message.tokens.csrf_token == ""


async def test_a_registration_that_is_repeated_gives_cookies_again(new_person: NewPerson) -> None:
    browser = Browser(await new_person())
    request = pb.RegisterRequest(
        email=f"{uuid.uuid4().hex}@example.com",
        password=PASSWORD,
        display_name="Ann",
        request_id=str(uuid.uuid4()),
        use_cookies=True,
    )
    await browser.call("Register", request)
    answer = await browser.call("Register", request, ())
    assert answer.message.tokens.access_token == ""
    assert await get_me(browser) == OK


# Calling


async def test_calls_and_streams_authenticate_by_cookie(new_person: NewPerson) -> None:
    person = await new_person()
    place = await make_place(person)
    browser = Browser(person)
    await browser.sign_in()
    assert await get_me(browser) == OK
    request = chat_pb2.SendMessageRequest(conversation_id=place.conversation_id, content="hello")
    metadata = browser.metadata("/aiworkspace.v1.ChatService/SendMessage")
    assert kinds_of(await events_of(person.chat.SendMessage(request, metadata=metadata)))[-1] == "run_completed"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await events_of(person.chat.SendMessage(request, metadata=metadata[:1]))
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


CALLS: dict[str, tuple[list[tuple[str, str]], str]] = {
    "as documented": ([("cookie", "{cookie}"), ("x-csrf-token", "{csrf}")], OK),
    "among others": ([("cookie", "a=b; {cookie}; c=d"), ("x-csrf-token", "{csrf}")], OK),
    "in a header of its own": ([("cookie", "a=b"), ("cookie", "{cookie}"), ("x-csrf-token", "{csrf}")], OK),
    "without spaces": ([("cookie", "a=b;{cookie};c=d"), ("x-csrf-token", "{csrf}")], OK),
    "amid garbage": ([("cookie", '; ;=;;a;"=;{cookie};=x; "'), ("x-csrf-token", "{csrf}")], OK),
    "names like ours": ([("cookie", "x__Host-aiws_access=1; {cookie}; aiws_access=2"), ("x-csrf-token", "{csrf}")], OK),
    "both of ours": ([("cookie", "{cookie}; {refresh}"), ("x-csrf-token", "{csrf}")], OK),
    "bearer and other cookies": ([("cookie", "a=b"), ("authorization", "Bearer {token}")], OK),
    "no CSRF token": ([("cookie", "{cookie}")], UNAUTHENTICATED),
    "empty CSRF token": ([("cookie", "{cookie}"), ("x-csrf-token", "")], UNAUTHENTICATED),
    "wrong CSRF token": ([("cookie", "{cookie}"), ("x-csrf-token", "x{csrf}")], UNAUTHENTICATED),
    "part of the CSRF token": ([("cookie", "{cookie}"), ("x-csrf-token", "{csrf:.20}")], UNAUTHENTICATED),
    "CSRF token twice": ([("cookie", "{cookie}"), *[("x-csrf-token", "{csrf}")] * 2], UNAUTHENTICATED),
    "CSRF token as a cookie": ([("cookie", "{cookie}; x-csrf-token={csrf}")], UNAUTHENTICATED),
    "another session's CSRF token": ([("cookie", "{cookie}"), ("x-csrf-token", "{other}")], UNAUTHENTICATED),
    "CSRF token alone": ([("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "twice the same": ([("cookie", "{cookie}; {cookie}"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "in two headers": ([*[("cookie", "{cookie}")] * 2, ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "good, then bad": ([("cookie", f"{{cookie}}; {ACCESS}=x"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "bad, then good": ([("cookie", f"{ACCESS}=x; {{cookie}}"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "empty": ([("cookie", f"{ACCESS}="), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "no value": ([("cookie", ACCESS), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "in quotes": ([("cookie", f'{ACCESS}="{{token}}"'), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "name in small letters": ([("cookie", f"{ACCESS.lower()}={{token}}"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "under the other name": ([("cookie", f"{REFRESH}={{token}}"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "refresh token": ([("cookie", "{refresh}"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "API key": ([("cookie", f"{ACCESS}=aiws_x"), ("x-csrf-token", "{csrf}")], UNAUTHENTICATED),
    "and bearer": (
        [("cookie", "{cookie}"), ("x-csrf-token", "{csrf}"), ("authorization", "Bearer {token}")],
        UNAUTHENTICATED,
    ),
    "and bearer without CSRF token": ([("cookie", "{cookie}"), ("authorization", "Bearer {token}")], UNAUTHENTICATED),
    "refresh token and bearer": ([("cookie", "{refresh}"), ("authorization", "Bearer {token}")], UNAUTHENTICATED),
    "and an empty bearer": (
        [("cookie", "{cookie}"), ("x-csrf-token", "{csrf}"), ("authorization", "")],
        UNAUTHENTICATED,
    ),
}


@pytest.mark.parametrize(("headers", "expected"), CALLS.values(), ids=CALLS)
async def test_a_call_carries_one_cookie_and_the_csrf_token_of_its_session(
    headers: list[tuple[str, str]], expected: str, reader: Browser, other_reader: Browser
) -> None:
    token, refresh_token = reader.jar[ACCESS].value, reader.jar[REFRESH].value
    known = {"cookie": f"{ACCESS}={token}", "refresh": f"{REFRESH}={refresh_token}", "token": token}
    known |= {"csrf": reader.csrf_token, "other": other_reader.csrf_token}
    metadata = grpc.aio.Metadata(*((name, value.format(**known)) for name, value in headers))
    assert await get_me(reader, metadata) == expected


async def test_a_refused_cookie_is_refused_like_everything_else(reader: Browser) -> None:
    cookie, csrf = reader.metadata()
    bearer = "authorization", f"Bearer {reader.jar[ACCESS].value}"
    wrong: list[Any] = [(), (cookie,), (cookie, ("x-csrf-token", "x")), (cookie, csrf, bearer), (("cookie", "a"), csrf)]
    me = reader.person.auth.GetMe
    refusals = {await refusal(me(pb.GetMeRequest(), metadata=metadata)) for metadata in wrong}
    assert len(refusals) == 1
    assert None not in refusals


_ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)


@few
@given(before=_ASCII, after=_ASCII)
async def test_whatever_stands_beside_it_the_cookie_is_found(before: str, after: str, reader: Browser) -> None:
    (_, cookie), csrf = reader.metadata()
    assert await get_me(reader, (("cookie", f"{before};{cookie};{after}"), csrf)) == OK
    assert await get_me(reader, (("cookie", f"{before};{after}"), csrf)) == UNAUTHENTICATED


# Refreshing


async def test_a_refresh_by_cookie_answers_by_cookies(browser: Browser) -> None:
    before, csrf = dict(browser.jar), browser.csrf_token
    answer = await refresh(browser)
    assert {name: cookie["path"] for name, cookie in answer.cookies.items()} == {ACCESS: "/", REFRESH: REFRESH_PATH}
    assert all(cookie.value != before[name].value for name, cookie in answer.cookies.items())
    tokens = answer.message.tokens
    assert (tokens.access_token, tokens.refresh_token, tokens.csrf_token) == ("", "", csrf)
    assert await get_me(browser) == OK


async def test_a_refresh_by_field_answers_by_field(new_person: NewPerson) -> None:
    browser = Browser(await new_person())
    answer = await browser.call("Refresh", pb.RefreshRequest(refresh_token=browser.person.tokens.refresh_token))
    assert answer.cookies == {}
    assert answer.message.tokens.refresh_token
    assert answer.message.tokens.csrf_token == ""


async def test_a_refresh_has_its_token_in_one_place(browser: Browser, new_person: NewPerson) -> None:
    token = (await new_person()).tokens.refresh_token
    call = browser.person.auth.Refresh
    metadata = browser.metadata(REFRESH_PATH)
    assert await named(call(pb.RefreshRequest(refresh_token=token), metadata=metadata)) == ("refresh_token",)
    assert await named(call(pb.RefreshRequest())) == ("refresh_token",)
    assert await named(call(pb.RefreshRequest(), metadata=browser.metadata())) == ("refresh_token",)
    assert await outcome(call(pb.RefreshRequest(), metadata=metadata)) == OK, "nothing was used up"


async def test_a_refresh_by_cookie_needs_the_csrf_token(browser: Browser, reader: Browser) -> None:
    cookie, csrf = browser.metadata(REFRESH_PATH)
    wrong: list[Any] = [(cookie,), (cookie, ("x-csrf-token", reader.csrf_token)), (cookie, csrf, csrf)]
    wrong += [(cookie, csrf, cookie), (cookie, csrf, ("authorization", f"Bearer {browser.jar[ACCESS].value}"))]
    wrong += [(("cookie", f"{REFRESH}={browser.jar[ACCESS].value}"), csrf), (("cookie", f"{REFRESH}="), csrf)]
    for metadata in wrong:
        call = browser.person.auth.Refresh(pb.RefreshRequest(), metadata=grpc.aio.Metadata(*metadata))
        assert await outcome(call) == UNAUTHENTICATED
    assert (await refresh(browser)).cookies, "nothing was used up"


async def test_fifty_refreshes_by_cookie_at_once_give_one_live_child(browser: Browser) -> None:
    metadata = browser.metadata(REFRESH_PATH)
    answers = await asyncio.gather(*(refresh(browser, metadata) for _ in range(50)))
    assert len({(answer.cookies[ACCESS].value, answer.cookies[REFRESH].value) for answer in answers}) == 1
    assert await get_me(browser) == OK
    assert (await refresh(browser)).cookies


async def test_a_used_cookie_that_comes_back_later_ends_the_session_for_good(browser: Browser, stores: Stores) -> None:
    used = browser.metadata(REFRESH_PATH)
    answer = await refresh(browser)
    assert (await refresh(browser, used)).cookies[REFRESH].value == answer.cookies[REFRESH].value, "lost reply"
    past = "UPDATE sessions SET refresh_time = refresh_time - interval '11 s' WHERE id = %s"
    await sql(stores, past, answer.message.tokens.session_id)
    assert await outcome(refresh(browser, used)) == UNAUTHENTICATED
    assert await outcome(refresh(browser)) == UNAUTHENTICATED
    assert await get_me(browser) == UNAUTHENTICATED


# Signing out


async def test_logout_clears_the_cookies_and_ends_the_session(browser: Browser) -> None:
    access, for_refresh = browser.metadata(), browser.metadata(REFRESH_PATH)
    answer = await browser.call("Logout", pb.LogoutRequest())
    cleared = {name: (cookie.value, cookie["max-age"], cookie["path"]) for name, cookie in answer.cookies.items()}
    assert cleared == {ACCESS: ("", "0", "/"), REFRESH: ("", "0", REFRESH_PATH)}
    assert browser.jar.keys() == {DEVICE}, "the device stays known"
    assert await get_me(browser, access) == UNAUTHENTICATED
    assert await outcome(refresh(browser, for_refresh)) == UNAUTHENTICATED


async def test_a_browser_stays_known_when_strangers_are_throttled(browser: Browser) -> None:
    await browser.call("Logout", pb.LogoutRequest())
    wrong = pb.LoginRequest(email=browser.person.email, password="wrong")
    assert [await outcome(browser.person.auth.Login(wrong)) for _ in range(11)] == [*[PASSWORD_WRONG] * 10, THROTTLED]
    answer = await browser.sign_in()
    assert (answer.message.device_token, DEVICE in answer.cookies) == ("", True)


async def test_logout_by_bearer_token_leaves_cookies_alone(new_person: NewPerson) -> None:
    person = await new_person()
    browser, bearer = Browser(person), (("authorization", f"Bearer {person.tokens.access_token}"),)
    await browser.sign_in()
    assert (await browser.call("Logout", pb.LogoutRequest(), bearer)).cookies == {}
    assert await get_me(browser) == OK
