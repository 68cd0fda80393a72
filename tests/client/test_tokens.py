"""The session: tokens are kept, exchanged in time, and once for everybody."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from aiworkspace.v1 import auth_pb2
from aiworkspace_client import AsyncClient, Tokens, TokenStore, errors
from tests.client.scripted import Context, ScriptedServer, answer, answers, failure

REFUSED = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
ENDED = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID", metadata={"session": "ended"})


def _at_first(tokens: Tokens) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("tokens", [tokens], ids=[""])


EXPIRED = Tokens("access-1", "refresh-1", refresh_time=1.0)
outdated, expired = _at_first(Tokens("outdated", "refresh-1")), _at_first(EXPIRED)
unknown = _at_first(Tokens("outdated", "outdated"))


def pair(number: int, lifetime: float = 900) -> auth_pb2.TokenPair:
    expire = Timestamp()
    expire.FromNanoseconds(int((time.time() + lifetime) * 1e9))
    return auth_pb2.TokenPair(
        access_token=f"access-{number}", refresh_token=f"refresh-{number}", access_expire_time=expire
    )


def session(server: ScriptedServer, lifetime: float = 900) -> None:
    """A server that knows the tokens that it gave last, and no others."""
    latest = 1

    async def refresh(request: auth_pb2.RefreshRequest, context: Context) -> Message:
        nonlocal latest
        if request.refresh_token != f"refresh-{latest}":
            await ENDED(context)
        await asyncio.sleep(0.05)
        latest += 1
        return auth_pb2.RefreshResponse(tokens=pair(latest, lifetime))

    async def get_me(request: auth_pb2.GetMeRequest, context: Context) -> Message:
        if server.calls[-1].token != f"access-{latest}":
            await REFUSED(context)
        return auth_pb2.GetMeResponse(user=auth_pb2.User(email="ada@example.com"))

    server.script("AuthService.Refresh", refresh)
    server.script("AuthService.GetMe", get_me)


async def test_login_keeps_the_tokens(server: ScriptedServer) -> None:
    server.script("AuthService.Login", answer(auth_pb2.LoginResponse(tokens=pair(1))))
    session(server)
    async with AsyncClient(server.target) as client:
        await client.auth.login(email="ada@example.com", password="secret")
        assert (await client.auth.get_me()).email == "ada@example.com"
    assert [call.token for call in server.calls] == ["", "access-1"]


async def test_logout_drops_the_tokens(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("AuthService.Logout", answer(auth_pb2.LogoutResponse()))
    await client.auth.logout()
    assert server.calls[0].token == "access-1"
    assert client.tokens is None


async def test_public_methods_get_no_token(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("AuthService.Register", answer(auth_pb2.RegisterResponse(tokens=pair(1))))
    await client.auth.register(email="a@example.com", password="0123456789ab", display_name="A")
    assert server.calls[0].token == ""


@outdated
async def test_a_refused_token_is_exchanged_once_for_all_callers(server: ScriptedServer, client: AsyncClient) -> None:
    session(server)
    users = await asyncio.gather(*(client.auth.get_me() for _ in range(40)))
    assert {user.email for user in users} == {"ada@example.com"}
    assert len(server.called("AuthService.Refresh")) == 1
    assert client.tokens is not None
    assert client.tokens.refresh_token == "refresh-2"


@expired
async def test_tokens_are_exchanged_before_they_expire(server: ScriptedServer, client: AsyncClient) -> None:
    session(server)
    await asyncio.gather(*(client.auth.get_me() for _ in range(20)))
    assert len(server.called("AuthService.Refresh")) == 1
    assert {call.token for call in server.called("AuthService.GetMe")} == {"access-2"}


async def test_callers_that_come_later_wait_for_the_same_exchange(server: ScriptedServer) -> None:
    session(server)
    async with AsyncClient(server.target, refresh_token="refresh-1") as client:
        first = asyncio.create_task(client.auth.get_me())
        await server.until_called("AuthService.Refresh")
        await asyncio.gather(first, client.auth.get_me())
    assert len(server.called("AuthService.Refresh")) == 1


async def test_fresh_tokens_are_used_as_they_are(server: ScriptedServer) -> None:
    assert not Tokens.received(pair(1)).due
    assert not Tokens.received(pair(1, lifetime=2)).due
    assert Tokens("", "refresh").due
    assert not Tokens("access", refresh_time=0).due


@outdated
async def test_a_wrong_clock_does_not_make_every_call_refresh(server: ScriptedServer, client: AsyncClient) -> None:
    session(server, lifetime=-3600)
    for _ in range(3):
        await client.auth.get_me()
    assert len(server.called("AuthService.Refresh")) == 1


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
@expired
async def test_an_exchange_that_fails_before_it_is_needed_does_no_harm(
    server: ScriptedServer, client: AsyncClient, code: grpc.StatusCode
) -> None:
    session(server)
    server.script("AuthService.Refresh", answers(failure(code, "LATER", retry_after=99)))
    for _ in range(3):
        assert (await client.auth.get_me()).email == "ada@example.com"
    assert len(server.called("AuthService.Refresh")) == 1


async def test_an_exchange_that_is_slow_before_it_is_needed_is_not_waited_for_and_not_lost(
    server: ScriptedServer,
) -> None:
    async def slow(request: auth_pb2.RefreshRequest, context: Context) -> Message:
        await asyncio.sleep(1.5)
        return auth_pb2.RefreshResponse(tokens=pair(2))

    session(server)
    server.script("AuthService.Refresh", slow)
    async with AsyncClient(server.target, token_store=TokenStore(EXPIRED)) as client:
        assert (await client.auth.get_me()).email == "ada@example.com"
        assert client.tokens is not None
        assert client.tokens.access_token == "access-1"
    assert client.tokens.access_token == "access-2"


async def test_a_wrong_password_is_no_reason_to_refresh(server: ScriptedServer, client: AsyncClient) -> None:
    session(server)
    wrong = failure(grpc.StatusCode.UNAUTHENTICATED, "PASSWORD_WRONG")
    server.script("AuthService.ChangePassword", answers(wrong))
    with pytest.raises(errors.UnauthenticatedError) as raised:
        await client.auth.change_password(current_password="wrong", new_password="0123456789ab")
    assert raised.value.reason == "PASSWORD_WRONG"
    assert server.called("AuthService.Refresh") == []


@unknown
async def test_a_session_that_is_over_is_forgotten(server: ScriptedServer, client: AsyncClient) -> None:
    session(server)
    with pytest.raises(errors.UnauthenticatedError) as raised:
        await client.auth.get_me()
    assert raised.value.reason == "CREDENTIALS_INVALID"
    assert client.tokens is None
    with pytest.raises(errors.UnauthenticatedError):
        await client.auth.get_me()
    assert len(server.called("AuthService.Refresh")) == 1


@pytest.mark.parametrize(
    "error",
    [
        failure(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=9),
        failure(grpc.StatusCode.INTERNAL, "INTERNAL"),
        failure(grpc.StatusCode.DEADLINE_EXCEEDED),
        REFUSED,
        failure(grpc.StatusCode.UNAUTHENTICATED),  # such as a proxy's own
    ],
    ids=["unavailable", "rate limited", "defect", "timeout", "refused", "refused without a reason"],
)
@outdated
async def test_a_session_is_kept_until_the_server_says_that_it_has_ended(
    server: ScriptedServer, client: AsyncClient, error: Callable[[Context], Awaitable[NoReturn]]
) -> None:
    session(server)
    server.script("AuthService.Refresh", answers(error))
    with pytest.raises(errors.AiWorkspaceError):
        await client.auth.get_me(timeout=1)
    assert client.tokens == Tokens("outdated", "refresh-1")
    session(server)
    assert (await client.auth.get_me()).email == "ada@example.com", "it works again when the server does"


async def test_without_a_refresh_token_the_refusal_is_final(server: ScriptedServer) -> None:
    session(server)
    async with AsyncClient(server.target, access_token="outdated") as client:
        with pytest.raises(errors.UnauthenticatedError):
            await client.auth.get_me()
    assert len(server.calls) == 1


async def test_a_refresh_token_alone_is_enough(server: ScriptedServer) -> None:
    session(server)
    async with AsyncClient(server.target, refresh_token="refresh-1") as client:
        assert (await client.auth.get_me()).email == "ada@example.com"
    assert [call.method for call in server.calls] == ["AuthService.Refresh", "AuthService.GetMe"]


@outdated
async def test_the_exchange_survives_its_first_caller(server: ScriptedServer, client: AsyncClient) -> None:
    session(server)
    first = asyncio.create_task(client.auth.get_me())
    await server.until_called("AuthService.Refresh")
    second = asyncio.create_task(client.auth.get_me())
    first.cancel()
    assert (await second).email == "ada@example.com"
    assert len(server.called("AuthService.Refresh")) == 1


@outdated
async def test_waiting_for_an_exchange_ends_with_the_deadline(server: ScriptedServer, client: AsyncClient) -> None:
    async def stuck(request: auth_pb2.RefreshRequest, context: Context) -> Message:
        await asyncio.sleep(120)
        return auth_pb2.RefreshResponse()

    session(server)
    server.script("AuthService.Refresh", stuck)
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError):
        await client.auth.get_me(timeout=0.2)
    assert time.monotonic() - start < 60


class SharedStore(TokenStore):
    """A store that two clients share, as two processes share a file."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__(tokens)
        self.lock = asyncio.Lock()
        self.saved: list[Tokens | None] = []

    def save(self, tokens: Tokens | None) -> None:
        super().save(tokens)
        self.saved.append(tokens)

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        async with self.lock:
            yield


async def test_clients_that_share_a_store_share_the_exchange(server: ScriptedServer) -> None:
    session(server)
    store = SharedStore(Tokens("outdated", "refresh-1"))
    clients = [AsyncClient(server.target, token_store=store) for _ in range(5)]
    users = await asyncio.gather(*(client.auth.get_me() for client in clients))
    assert len(users) == 5
    assert len(server.called("AuthService.Refresh")) == 1
    assert [tokens and tokens.access_token for tokens in store.saved] == ["access-2"]
    for client in clients:
        await client.close()


def test_tokens_and_a_store_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="only one of"):
        AsyncClient(access_token="access", token_store=TokenStore())
