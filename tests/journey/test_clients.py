"""The whole way of a user, through both clients and a proxy that breaks connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aiworkspace_client import (
    AsyncClient,
    Client,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    RunFailedError,
    UnauthenticatedError,
)
from aiworkspace_client.types import Role, Run
from aiworkspace_server.app import App
from tests.standin import HttpError, Script, Standin
from tests.support.accounts import new_address
from tests.support.people import PASSWORD

WORDS = tuple(f"word{n} " for n in range(60))
MODEL = "openai/gpt-4.1"


async def test_the_journey_with_the_async_client(app: App, standin: Standin) -> None:
    standin.script("gpt-4.1", Script(tokens=WORDS, seconds_per_token=0.005))
    async with AsyncClient(app.address) as ada, AsyncClient(app.address) as grace:
        await ada.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        invited = new_address()
        await grace.auth.register(email=invited, password=PASSWORD, display_name="Grace")
        org = await ada.orgs.create(name="Engines")
        invitation = await ada.orgs.create_invitation(org_id=org.org_id, email=invited, role=Role.ROLE_MEMBER)
        assert (await grace.orgs.accept_invitation(token=invitation.token)).org_id == org.org_id
        assert [member.display_name async for member in ada.orgs.list_members(org.org_id)] == ["Ada", "Grace"]
        workspace = await grace.workspaces.create(org_id=org.org_id, name="Notes", default_model=MODEL)
        conversation = await grace.chat.create_conversation(workspace.workspace_id)
        async with grace.chat.send(conversation.conversation_id, "hello") as stream:
            pieces = [text async for text in stream.text]
        assert len(pieces) > 10
        message = await stream.final_message()
        assert "".join(pieces) == message.contents[0].text == "".join(WORDS)
        with pytest.raises(PermissionDeniedError) as caught:
            await grace.usage.get(org_id=org.org_id).first_page()
        assert (caught.value.reason, caught.value.metadata) == ("PERMISSION_MISSING", {"permission": "usage.read"})
        with pytest.raises(NotFoundError):
            await ada.chat.get_conversation(conversation.conversation_id)
        usage = await ada.usage.get(org_id=org.org_id).first_page()
        assert stream.run is not None
        assert usage.total.cost == stream.run.cost
        await ada.orgs.remove_member(org_id=org.org_id, user_id=(await grace.auth.get_me()).user_id)
        with pytest.raises(NotFoundError):
            await grace.workspaces.get(workspace.workspace_id)
        await ada.auth.logout()
        with pytest.raises(UnauthenticatedError):
            await ada.auth.get_me()


def _journey(address: str) -> tuple[str, Run | None, int]:
    with Client(address) as client:
        client.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        org = client.orgs.create(name="Engines")
        workspace = client.workspaces.create(org_id=org.org_id, name="Notes")
        with pytest.raises(InvalidArgumentError) as caught:
            client.chat.create_conversation(workspace.workspace_id, model="nobody/none")
        assert [violation.field for violation in caught.value.field_violations] == ["model"]
        conversation = client.chat.create_conversation(workspace.workspace_id)
        with client.chat.send(conversation.conversation_id, "one two three") as stream:
            said = "".join(stream.text)
        with client.chat.send(conversation.conversation_id, "word " * 2000) as stopped:
            next(stopped.text)
            assert stopped.cancel().cost.nanos > 0
        entries = list(client.usage.list_entries(org_id=org.org_id))
        assert len(list(client.chat.list_messages(conversation.conversation_id))) == 4
        return said, stream.run, len(entries)


async def test_the_journey_with_the_sync_client(app: App) -> None:
    said, run, entries = await asyncio.to_thread(_journey, app.address)
    assert said.endswith("one two three")
    assert run is not None
    assert run.cost.nanos > 0
    assert entries == 2


class Breaker:
    """A TCP proxy before the server that cuts every connection when it is told to."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._writers: set[asyncio.StreamWriter] = set()
        self.cuts = 0

    def cut(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, downstream}
        await asyncio.gather(self._copy(reader, downstream), self._copy(upstream, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def a_breaker(address: str) -> AsyncIterator[tuple[Breaker, str]]:
    breaker = Breaker(address)
    server = await asyncio.start_server(breaker.join, "127.0.0.1", 0)
    yield breaker, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    breaker.cut()
    server.close()


async def test_an_answer_survives_connections_that_break(app: App, standin: Standin) -> None:
    standin.script("gpt-4.1", Script(tokens=WORDS, seconds_per_token=0.02))
    async with a_breaker(app.address) as (breaker, address), AsyncClient(address) as client:
        await client.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        org = await client.orgs.create(name="Engines")
        workspace = await client.workspaces.create(org_id=org.org_id, name="Notes", default_model=MODEL)
        conversation = await client.chat.create_conversation(workspace.workspace_id)
        pieces: list[str] = []
        async with client.chat.send(conversation.conversation_id, "hello") as stream:
            async for text in stream.text:
                pieces.append(text)
                if len(pieces) in {5, 20}:
                    breaker.cut()
        assert breaker.cuts == 2
        assert "".join(pieces) == "".join(WORDS), "text was lost or repeated"
        assert len([entry async for entry in client.usage.list_entries(org_id=org.org_id)]) == 1


async def test_a_failed_run_is_an_error_with_what_was_said(app: App, standin: Standin) -> None:
    standin.script("gpt-4.1", Script(fault=HttpError(429)))
    async with AsyncClient(app.address) as client:
        await client.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        org = await client.orgs.create(name="Engines")
        workspace = await client.workspaces.create(org_id=org.org_id, name="Notes", default_model=MODEL)
        conversation = await client.chat.create_conversation(workspace.workspace_id)
        with pytest.raises(RunFailedError) as caught:
            await client.chat.send(conversation.conversation_id, "hello").final_message()
        assert caught.value.reason == "PROVIDER_RATE_LIMITED"


async def test_fifty_calls_with_an_expired_token_refresh_once(app: App) -> None:
    async with AsyncClient(app.address) as client:
        await client.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        assert client.tokens
        first = client.tokens.refresh_token
        stale = AsyncClient(app.address, access_token="expired", refresh_token=first)
        async with stale:
            people = await asyncio.gather(*(stale.auth.get_me() for _ in range(50)))
            assert len({person.user_id for person in people}) == 1
            assert stale.tokens
            assert stale.tokens.refresh_token != first
            assert len([session async for session in stale.auth.list_sessions()]) == 1


async def test_the_journey_of_a_backend(app: App) -> None:
    async with AsyncClient(app.address) as ada:
        await ada.auth.register(email=new_address(), password=PASSWORD, display_name="Ada")
        org = await ada.orgs.create(name="Engines")
        workspace = await ada.workspaces.create(org_id=org.org_id, name="Notes")
        robot = await ada.service_accounts.create(org_id=org.org_id, name="Robot", role=Role.ROLE_MEMBER)
        scopes = ["org.read", "workspace.read", "chat.read", "chat.send"]
        made = await ada.service_accounts.create_api_key(
            org_id=org.org_id, user_id=robot.user_id, name="production", permissions=scopes
        )
        rotated = await ada.service_accounts.rotate_api_key(
            org_id=org.org_id, api_key_id=made.api_key.api_key_id, overlap_seconds=60
        )
        for secret in (made.secret, rotated.secret):
            async with AsyncClient(app.address, api_key=secret) as backend:
                assert [each.org_id async for each in backend.orgs.list()] == [org.org_id]
                conversation = await backend.chat.create_conversation(workspace.workspace_id)
                message = await backend.chat.send(conversation.conversation_id, "hello").final_message()
                assert "hello" in message.contents[0].text
                with pytest.raises(PermissionDeniedError) as caught:
                    await backend.orgs.create(name="Mine")
                assert caught.value.reason == "SESSION_REQUIRED"
        await ada.service_accounts.revoke_api_key(org_id=org.org_id, api_key_id=rotated.api_key.api_key_id)
        async with AsyncClient(app.address, api_key=rotated.secret) as backend:
            with pytest.raises(UnauthenticatedError):
                await backend.auth.get_me()
        usage = await ada.usage.get(org_id=org.org_id, user_id=robot.user_id).first_page()
        assert usage.total.request_count == 2
