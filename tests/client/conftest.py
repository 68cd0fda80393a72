import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from aiworkspace.v1 import auth_pb2, org_pb2, workspace_pb2
from aiworkspace_client import AsyncClient, Backoff, StreamTiming, Tokens, TokenStore
from tests.client.scripted import ScriptedServer, answer

USER = auth_pb2.User(user_id="user-1", email="ada@example.com", display_name="Ada")
ORG = org_pb2.Org(org_id="org-1", name="Acme", role=org_pb2.ROLE_OWNER)
WORKSPACE = workspace_pb2.Workspace(workspace_id="workspace-1", org_id="org-1", name="Notes")

Ran = subprocess.CompletedProcess[str]
Aiws = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def tokens() -> Tokens:
    """What the client has at first."""
    return Tokens("access-1", "refresh-1")


@pytest.fixture
def timing() -> StreamTiming:
    return StreamTiming()


@pytest.fixture
async def client(server: ScriptedServer, tokens: Tokens, timing: StreamTiming) -> AsyncIterator[AsyncClient]:
    store, backoff = TokenStore(tokens), Backoff(first=0.01, longest=0.05)
    async with AsyncClient(server.target, token_store=store, backoff=backoff, stream_timing=timing) as client:
        yield client


@pytest.fixture
def environment(server: ScriptedServer, tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "AIWS_SERVER": server.target, "XDG_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}


@pytest.fixture
def aiws(environment: dict[str, str]) -> Aiws:
    def run(arguments: tuple[str, ...], stdin: str) -> Ran:
        command = [sys.executable, "-m", "aiworkspace_client", *arguments]
        return subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True, timeout=90)

    async def in_thread(*arguments: str, stdin: str = "") -> Ran:
        return await asyncio.to_thread(run, arguments, stdin)

    return in_thread


@pytest.fixture
async def signed_in(server: ScriptedServer, aiws: Aiws) -> None:
    pair = auth_pb2.TokenPair(access_token="access-1", refresh_token="refresh-1")
    server.script("AuthService.Login", answer(auth_pb2.LoginResponse(user=USER, tokens=pair)))
    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse(orgs=[ORG])))
    server.script(
        "WorkspaceService.ListWorkspaces", answer(workspace_pb2.ListWorkspacesResponse(workspaces=[WORKSPACE]))
    )
    ran = await aiws("login", "--email", "ada@example.com", "--password-stdin", stdin="secret password\n")
    assert ran.returncode == 0, ran.stderr
    assert server.calls[0].request.password == "secret password"
