"""Streams whose reader may no longer read them: they end within five seconds, whatever took the access."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from pymongo.errors import ConnectionFailure
from sqlalchemy.exc import InternalError

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, service_account_pb2
from aiworkspace_server.app import App
from aiworkspace_server.kit import interceptors
from aiworkspace_server.kit.errors import Unavailable
from aiworkspace_server.kit.watch import Watches
from tests.standin import Standin
from tests.support import orgs, workspaces
from tests.support.outcomes import Refusal, refusal
from tests.support.people import PASSWORD, NewPerson, Person, connections, join, make_conversation, make_place
from tests.support.runs import talk
from tests.support.service_accounts import make_account, make_key
from tests.support.waiting import until_true

MODEL = "openai/gpt-4o-mini"


@dataclass(frozen=True)
class Scene:
    """Somebody in another person's organization, and their stream of an answer that takes long."""

    owner: Person
    reader: Person
    org_id: str
    workspace_id: str
    run_id: str
    stream: Any


@pytest.fixture
async def scene(new_person: NewPerson, standin: Standin) -> AsyncIterator[Scene]:
    owner, reader = await new_person(), await new_person()
    place = await make_place(owner)
    await join(owner, place.org_id, reader, org_pb2.ROLE_MEMBER)
    conversation_id = await make_conversation(reader, place.workspace_id)
    enough = talk(standin)
    message = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello", model=MODEL)
    stream = reader.chat.SendMessage(message)
    run_id = (await stream.read()).event.run_id
    yield Scene(owner, reader, place.org_id, place.workspace_id, run_id, stream)
    enough.set()


async def log_out(scene: Scene) -> None:
    await scene.reader.auth.Logout(auth_pb2.LogoutRequest())


async def change_password_elsewhere(scene: Scene) -> None:
    login = await scene.reader.auth.Login(auth_pb2.LoginRequest(email=scene.reader.email, password=PASSWORD))
    change = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="an entirely different phrase")
    metadata = (("authorization", f"Bearer {login.tokens.access_token}"),)
    channel = scene.owner.channel  # a connection without credentials of its own would do as well
    call = channel.unary_unary(
        "/aiworkspace.v1.AuthService/ChangePassword",
        request_serializer=auth_pb2.ChangePasswordRequest.SerializeToString,
        response_deserializer=auth_pb2.ChangePasswordResponse.FromString,
    )
    scene.owner.bearer.token, own = "", scene.owner.bearer.token
    await call(change, metadata=metadata)
    scene.owner.bearer.token = own


async def suspend(scene: Scene) -> None:
    await orgs.suspend(scene.owner, scene.org_id, scene.reader)


async def remove(scene: Scene) -> None:
    await orgs.remove_member(scene.owner, scene.org_id, scene.reader)


async def demote(scene: Scene) -> None:
    await orgs.update_member(scene.owner, scene.org_id, scene.reader, role=org_pb2.ROLE_BILLING)


async def close_workspace(scene: Scene) -> None:
    await workspaces.set_visibility(scene.owner, scene.workspace_id, workspaces.CLOSED)


async def delete_workspace(scene: Scene) -> None:
    await workspaces.delete_workspace(scene.owner, scene.workspace_id)


async def delete_org(scene: Scene) -> None:
    await orgs.delete_org(scene.owner, scene.org_id)


async def how_it_ended(stream: Any) -> tuple[Refusal | None, str | None]:
    """What refused the stream, and the last event."""
    last = None

    async def read() -> None:
        nonlocal last
        async for response in stream:
            last = response.event.WhichOneof("event")

    return await refusal(read()), last


@pytest.mark.parametrize(
    ("lose", "code"),
    [(log_out, "UNAUTHENTICATED"), (change_password_elsewhere, "UNAUTHENTICATED")],
)
async def test_a_stream_ends_with_the_access_of_its_reader(
    lose: Callable[[Scene], Awaitable[None]], code: str, scene: Scene
) -> None:
    await lose(scene)
    start = time.monotonic()
    refused, last = await how_it_ended(scene.stream)
    assert time.monotonic() - start < 25, "the answer alone would take longer"
    assert refused is not None
    assert refused.code == code
    assert last == "content_delta", "the run itself went on"


@pytest.mark.parametrize("lose", [suspend, remove, demote, close_workspace, delete_workspace, delete_org])
async def test_what_a_member_had_in_progress_is_cancelled_with_their_access(
    lose: Callable[[Scene], Awaitable[None]], scene: Scene, app: App
) -> None:
    await lose(scene)
    start = time.monotonic()
    refused, last = await how_it_ended(scene.stream)
    assert time.monotonic() - start < 25, "the answer alone would take longer"
    assert last == "run_cancelled" or (refused is not None and refused.code == "NOT_FOUND")
    assert await state_of(app, scene.run_id) == "cancelled"


async def state_of(app: App, run_id: str) -> str:
    """How the run ended, or "running" if it did not within half a minute."""
    state = "running"
    for _ in range(600):
        run = await app.mongo.database["runs"].find_one({"_id": UUID(run_id)})
        assert run
        state = str(run["state"])
        if state != "running":
            break
        await asyncio.sleep(0.05)
    return state


async def test_the_stream_of_a_backend_ends_with_its_key(new_person: NewPerson, app: App, standin: Standin) -> None:
    owner = await new_person()
    place = await make_place(owner)
    made = await make_key(owner, place.org_id, await make_account(owner, place.org_id))
    async with connections(app.address) as new_backend:
        backend = new_backend(made.secret)
        conversation_id = await make_conversation(backend, place.workspace_id)
        enough = talk(standin)
        message = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello", model=MODEL)
        stream = backend.chat.SendMessage(message)
        run_id = (await stream.read()).event.run_id
        revocation = service_account_pb2.RevokeApiKeyRequest(org_id=place.org_id, api_key_id=made.api_key.api_key_id)
        await owner.service_accounts.RevokeApiKey(revocation)
        start = time.monotonic()
        refused, last = await how_it_ended(stream)
        assert time.monotonic() - start < 25, "the answer alone would take longer"
        assert last == "run_cancelled" or (refused is not None and refused.code == "UNAUTHENTICATED")
        assert await state_of(app, run_id) == "cancelled"
        enough.set()


async def test_others_go_on(scene: Scene, standin: Standin) -> None:
    conversation_id = await make_conversation(scene.owner, scene.workspace_id)
    message = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello", model=MODEL)
    enough = talk(standin)
    other = scene.owner.chat.SendMessage(message)
    await other.read()
    await suspend(scene)
    await asyncio.sleep(interceptors.RECHECK_SECONDS + 1)
    enough.set()
    assert await how_it_ended(other) == (None, "run_completed")


async def test_a_reader_that_reads_nothing_is_ended_too(scene: Scene) -> None:
    await log_out(scene)
    await asyncio.sleep(interceptors.RECHECK_SECONDS + 3)
    start = time.monotonic()
    refused, _ = await how_it_ended(scene.stream)
    assert time.monotonic() - start < interceptors.RECHECK_SECONDS, "it had ended before"
    assert refused is not None
    assert refused.code == "UNAUTHENTICATED"


# The watch itself


async def test_a_refusal_ends_what_is_watched() -> None:
    async def refuse() -> None:
        raise Unavailable

    with pytest.raises(Unavailable):
        async with Watches(0.01).watching("key", refuse):
            await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_a_cancellation_from_outside_stays_one() -> None:
    async def allow() -> None:
        """Every time."""

    async def work() -> None:
        async with Watches(0.01).watching("key", allow):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("error", [ConnectionFailure, InternalError("", None, Exception("read-only"))])
async def test_a_store_that_is_away_ends_nothing(error: Exception) -> None:
    """Nor does a failure that nobody expects: who comes later is looked after as well."""
    tries = 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        raise error

    async with Watches(0.01).watching("key", fail):
        assert await until_true(lambda: tries > 2)


async def test_one_check_serves_all_calls_that_the_same_things_allow() -> None:
    watches, checks, allowed, begun = Watches(0.01), 0, True, 0

    async def check() -> None:
        nonlocal checks
        checks += 1
        if not allowed:
            raise Unavailable

    async def work(key: str) -> None:
        nonlocal begun
        async with watches.watching(key, check):
            begun += 1
            await asyncio.sleep(60)

    calls = [asyncio.create_task(work("key")) for _ in range(50)]
    await until_true(lambda: begun == 50)
    calls[0].cancel()  # the one whose check is used: another one is from now on
    begin, rounds = asyncio.get_running_loop().time(), checks
    await until_true(lambda: checks >= rounds + 5)
    elapsed = asyncio.get_running_loop().time() - begin
    assert checks - rounds <= elapsed / 0.01 + 1, "once in each round, and not once for each call"
    allowed = False
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in ended] == [asyncio.CancelledError] + [Unavailable] * 49
    with pytest.raises(Unavailable):
        await work("key")
