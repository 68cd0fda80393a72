"""Repetitions, deadlines, pages."""

import asyncio
import time
import uuid

import grpc
import pytest
from google.protobuf.message import Message

from aiworkspace.v1 import auth_pb2, org_pb2, usage_pb2, workspace_pb2
from aiworkspace_client import AsyncClient, Client, errors
from aiworkspace_client.transport import Backoff
from tests.client.scripted import Context, ScriptedServer, answer, answers, failure

ORG_ID = "0199c0de-0000-7000-8000-000000000001"
UNAVAILABLE = failure(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


async def test_idempotent_calls_are_repeated_with_the_same_request_id(
    server: ScriptedServer, client: AsyncClient
) -> None:
    made = org_pb2.CreateOrgResponse(org=org_pb2.Org(name="Acme"))
    server.script("OrgService.CreateOrg", answers(UNAVAILABLE, UNAVAILABLE, made))
    org = await client.orgs.create(name="Acme")
    ids = [call.request.request_id for call in server.calls]
    assert org.name == "Acme"
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert uuid.UUID(ids[0]).version == 4


async def test_every_call_has_its_own_request_id(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("OrgService.CreateOrg", answer(org_pb2.CreateOrgResponse()))
    await client.orgs.create(name="Acme")
    await client.orgs.create(name="Acme")
    await client.orgs.create(name="Acme", request_id="mine")
    ids = [call.request.request_id for call in server.calls]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"


async def test_other_calls_are_not_repeated(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("AuthService.Login", answers(UNAVAILABLE, auth_pb2.LoginResponse()))
    with pytest.raises(errors.UnavailableError):
        await client.auth.login(email="a@example.com", password="secret")
    assert len(server.calls) == 1


async def test_other_errors_are_not_repeated(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("OrgService.GetOrg", answers(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")))
    with pytest.raises(errors.ResourceExhaustedError):
        await client.orgs.get(ORG_ID)
    assert len(server.calls) == 1


async def test_the_server_says_when_to_come_back(server: ScriptedServer, client: AsyncClient) -> None:
    later = failure(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", retry_after=0.4)
    server.script("OrgService.GetOrg", answers(later, org_pb2.GetOrgResponse()))
    start = time.monotonic()
    await client.orgs.get(ORG_ID)
    assert time.monotonic() - start >= 0.4


async def test_repetitions_end_with_the_deadline(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("OrgService.GetOrg", answers(UNAVAILABLE))
    start = time.monotonic()
    # The deadline ends either a pause, which is then not begun, or an attempt.
    with pytest.raises((errors.UnavailableError, errors.DeadlineExceededError)):
        await client.orgs.get(ORG_ID, timeout=0.3)
    assert 0.2 < time.monotonic() - start < 60


async def test_a_pause_beyond_the_deadline_is_not_begun(server: ScriptedServer, client: AsyncClient) -> None:
    server.script("OrgService.GetOrg", answers(failure(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", retry_after=60)))
    start = time.monotonic()
    with pytest.raises(errors.UnavailableError):
        await client.orgs.get(ORG_ID, timeout=50)
    assert time.monotonic() - start < 40


async def test_a_call_ends_with_its_deadline_and_the_server_knows_it(
    server: ScriptedServer, client: AsyncClient
) -> None:
    left: list[float] = []

    async def slow(request: org_pb2.GetOrgRequest, context: Context) -> Message:
        left.append(context.time_remaining())
        await asyncio.sleep(120)
        return org_pb2.GetOrgResponse()

    server.script("OrgService.GetOrg", slow)
    for timeout in (0.2, 2, 20):
        with pytest.raises(errors.DeadlineExceededError):
            await client.orgs.get(ORG_ID, timeout=timeout)
        if left:  # A call may end before a busy machine has connected.
            break
    assert 0 < left[0] <= timeout


def test_pauses_grow_and_are_jittered() -> None:
    backoff = Backoff(first=0.1, longest=1.0)
    pauses = [[backoff.pause(failures, None) for _ in range(200)] for failures in (1, 2, 3, 50, 5000)]
    assert all(0.05 <= pause <= 0.1 for pause in pauses[0])
    assert all(0.5 <= pause <= 1.0 for pause in (*pauses[3], *pauses[4]))
    assert len(set(pauses[0])) > 100
    assert backoff.pause(1, 3.0) > 3.0


def paged(server: ScriptedServer) -> None:
    async def handler(request: org_pb2.ListOrgsRequest, context: Context) -> Message:
        start = int(request.page_token or 0)
        names = [f"org {number}" for number in range(start, min(start + request.page_size, 5))]
        after = str(start + request.page_size) if start + request.page_size < 5 else ""
        return org_pb2.ListOrgsResponse(orgs=[org_pb2.Org(name=name) for name in names], next_page_token=after)

    server.script("OrgService.ListOrgs", handler)


async def test_pages_are_fetched_when_they_are_needed(server: ScriptedServer, client: AsyncClient) -> None:
    paged(server)
    pager = client.orgs.list(page_size=2)
    assert server.calls == []
    names = []
    async for org in pager:
        names.append((org.name, len(server.calls)))
    assert names == [("org 0", 1), ("org 1", 1), ("org 2", 2), ("org 3", 2), ("org 4", 3)]


async def test_a_pager_starts_anew_and_goes_on_from_a_token(server: ScriptedServer, client: AsyncClient) -> None:
    paged(server)
    pager = client.orgs.list(page_size=2)
    first = await pager.first_page()
    assert [org.name for org in first.orgs] == ["org 0", "org 1"]
    assert [len(page.orgs) async for page in pager.pages()] == [2, 2, 1]
    rest = client.orgs.list(page_size=2, page_token=first.next_page_token)
    assert [org.name async for org in rest] == ["org 2", "org 3", "org 4"]


async def test_the_synchronous_pager_is_the_same(server: ScriptedServer) -> None:
    paged(server)

    def read() -> tuple[list[str], list[int], int]:
        with Client(server.target) as client:
            pager = client.orgs.list(page_size=2)
            names = [org.name for org in pager]
            return names, [len(page.orgs) for page in pager.pages()], len(pager.first_page().orgs)

    names, sizes, first = await asyncio.to_thread(read)
    assert names == [f"org {number}" for number in range(5)]
    assert (sizes, first) == ([2, 2, 1], 2)


async def test_usage_pages_have_the_total(server: ScriptedServer, client: AsyncClient) -> None:
    total = usage_pb2.UsageTotal(request_count=3)
    server.script("UsageService.GetUsage", answer(usage_pb2.GetUsageResponse(total=total)))
    page = await client.usage.get(ORG_ID, group_by=[usage_pb2.USAGE_DIMENSION_DAY]).first_page()
    assert page.total.request_count == 3
    assert server.calls[0].request.group_by == [usage_pb2.USAGE_DIMENSION_DAY]


async def test_masks_and_messages_are_passed_on(server: ScriptedServer, client: AsyncClient) -> None:
    changed = workspace_pb2.Workspace(name="New")
    server.script("WorkspaceService.UpdateWorkspace", answer(workspace_pb2.UpdateWorkspaceResponse(workspace=changed)))
    assert await client.workspaces.update(workspace=changed, update_mask=["name"]) == changed
    assert server.calls[0].request.update_mask.paths == ["name"]
