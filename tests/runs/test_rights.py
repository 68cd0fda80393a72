"""Whoever loses the right to a run neither starts nor keeps one, however the change and the start interleave.

Changes are made on one server, messages are sent over another. The order of their steps is forced by locks that a test
holds in the database.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import pytest

from aiworkspace.v1 import model_pb2, org_pb2, service_account_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.caches import TtlCache
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.runs import claims, rights, transactions
from aiworkspace_server.runs.cancellation import Cancellation
from aiworkspace_server.settings import Settings
from tests.standin import HttpError, Script, Standin
from tests.support.custom_roles import ALL, assign, make_role, update
from tests.support.orgs import delete_org, remove_member, suspend
from tests.support.outcomes import refusal
from tests.support.people import Person, join, make_conversation, make_org, make_workspace, reconnected
from tests.support.postgres import as_owner, sql
from tests.support.runs import OPENAI, endings_of, events_of, kinds_of, play, send_in
from tests.support.service_accounts import make_account, make_key, revoke_key, rotate_key
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.teams import delete_group, make_group, take_out
from tests.support.waiting import until, until_true
from tests.support.workspaces import CLOSED, EDITOR, OPEN, READER, delete_workspace, set_visibility, share, unshare

MEMBER, VIEWER, BILLING = org_pb2.ROLE_MEMBER, org_pb2.ROLE_VIEWER, org_pb2.ROLE_BILLING
_WITHOUT = [permission for permission in ALL if permission not in ("chat.send", "workspace.administer")]
_REFUSALS = {"NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}


@dataclass(frozen=True)
class Pair:
    one: App
    other: App
    stores: Stores


@pytest.fixture(scope="module")
async def pair(stores: Stores, standin: Standin) -> AsyncIterator[Pair]:
    """Two servers on databases of their own, that know each other through Redis."""
    shared = await other_databases(stores, "rights")
    values = store_settings(shared) | provider_settings(standin) | {"redis_url": stores.redis}
    settings = Settings.model_validate(values)
    async with running(settings, migrating=True) as one, running(settings, migrating=False) as other:
        yield Pair(one, other, shared)


@dataclass
class Scene:
    """Somebody who may send in a workspace, connected with the other server, and what gives them the right."""

    owner: Person
    actor: Person
    org_id: str
    workspace_id: str
    conversation_id: str = ""
    given_id: str = ""  # of the team, role or API key


async def as_member(owner: Person, scene: Scene) -> None:
    await join(owner, scene.org_id, scene.actor, MEMBER)


async def by_custom_role(owner: Person, scene: Scene) -> None:
    await as_member(owner, scene)
    scene.given_id = await make_role(owner, scene.org_id, "chat.send", *_WITHOUT)
    await assign(owner, scene.org_id, scene.actor, role_id=scene.given_id)


async def by_team(owner: Person, scene: Scene) -> None:
    await join(owner, scene.org_id, scene.actor, VIEWER)
    await set_visibility(owner, scene.workspace_id, CLOSED)
    scene.given_id = await make_group(owner, scene.org_id, scene.actor)
    await share(owner, scene.workspace_id, EDITOR, team_id=scene.given_id)


async def in_workspace(owner: Person, scene: Scene) -> None:
    await join(owner, scene.org_id, scene.actor, VIEWER)
    await set_visibility(owner, scene.workspace_id, CLOSED)
    await share(owner, scene.workspace_id, EDITOR, user_id=scene.actor.user_id)


async def by_key(owner: Person, scene: Scene) -> None:
    scene.actor.user_id = await make_account(owner, scene.org_id, role=MEMBER)
    made = await make_key(owner, scene.org_id, scene.actor.user_id, ["chat.read", "chat.send", "workspace.read"])
    scene.actor.bearer.token, scene.given_id = made.secret, made.api_key.api_key_id


def remove(scene: Scene) -> Any:
    return remove_member(scene.owner, scene.org_id, scene.actor)


def end_org(scene: Scene) -> Any:
    return delete_org(scene.owner, scene.org_id)


def end_workspace(scene: Scene) -> Any:
    return delete_workspace(scene.owner, scene.workspace_id)


def key_of(scene: Scene) -> service_account_pb2.ApiKey:
    return service_account_pb2.ApiKey(org_id=scene.org_id, api_key_id=scene.given_id)


def delete_account(scene: Scene) -> Any:
    request = service_account_pb2.DeleteServiceAccountRequest(org_id=scene.org_id, user_id=scene.actor.user_id)
    return scene.owner.service_accounts.DeleteServiceAccount(request)


Give = Callable[[Person, Scene], Awaitable[None]]
Lose = Callable[[Scene], Any]
LOSSES: dict[str, tuple[Give, Lose]] = {
    "removed": (as_member, remove),
    "suspended": (as_member, lambda scene: suspend(scene.owner, scene.org_id, scene.actor)),
    "demoted": (as_member, lambda scene: assign(scene.owner, scene.org_id, scene.actor, VIEWER)),
    "another role": (by_custom_role, lambda scene: assign(scene.owner, scene.org_id, scene.actor, BILLING)),
    "role changed": (
        by_custom_role,
        lambda scene: update(scene.owner, scene.org_id, scene.given_id, "permissions", permissions=_WITHOUT),
    ),
    "out of the team": (
        by_team,
        lambda scene: take_out(scene.owner, scene.org_id, scene.given_id, scene.actor.user_id),
    ),
    "team deleted": (by_team, lambda scene: delete_group(scene.owner, scene.org_id, scene.given_id)),
    "team demoted": (by_team, lambda scene: share(scene.owner, scene.workspace_id, READER, team_id=scene.given_id)),
    "out of the workspace": (
        in_workspace,
        lambda scene: unshare(scene.owner, scene.workspace_id, user_id=scene.actor.user_id),
    ),
    "workspace closed": (as_member, lambda scene: set_visibility(scene.owner, scene.workspace_id, CLOSED)),
    "workspace deleted": (in_workspace, end_workspace),
    "organization deleted": (as_member, end_org),
    "key revoked": (by_key, lambda scene: revoke_key(scene.owner, key_of(scene))),
    "key rotated": (by_key, lambda scene: rotate_key(scene.owner, key_of(scene))),
    "suspended account": (by_key, lambda scene: suspend(scene.owner, scene.org_id, scene.actor)),
    "account deleted": (by_key, delete_account),
}


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> tuple[Give, Lose]:
    return LOSSES[request.param]


async def make_scene(pair: Pair, give: Give) -> Scene:
    owner, actor = await Person(pair.one.address).register(), await Person(pair.one.address).register()
    org_id = await make_org(owner)
    scene = Scene(owner, actor, org_id, await make_workspace(owner, org_id, visibility=OPEN))
    await give(owner, scene)
    scene.actor = reconnected(actor, pair.other.address)
    scene.conversation_id = await make_conversation(scene.actor, scene.workspace_id)
    return scene


def long_answer(standin: Standin, **fields: Any) -> None:
    play(standin, OPENAI, Script(tokens=("word ",) * 6000, seconds_per_token=0.1, **fields))


async def what_came(stream: Any) -> tuple[str | None, str]:
    """The last event that arrived, and the status code."""
    last = None
    with suppress(grpc.aio.AioRpcError):
        async for response in stream:
            last = response.event.WhichOneof("event") or last
    return last, (await stream.code()).name


async def until_waiting(pair: Pair, task: asyncio.Future[Any], *locks: str) -> None:
    """Waits until somebody waits for a lock of one of these sorts."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = ANY (%s)"

    async def there() -> bool:
        assert not task.done()
        return bool(await sql(pair.stores, waiting, list(locks)))

    await until(there)


async def claim_of(pair: Pair, scene: Scene) -> tuple[UUID, str, str | None] | None:
    query = "SELECT run_id, state, stop FROM run_claims WHERE conversation_id = %s"
    rows = await sql(pair.stores, query, scene.conversation_id)
    return rows[0] if rows else None


async def until_cancelled(pair: Pair, scene: Scene) -> str:
    """Waits until the scene's one run has ended, cancelled. Returns its id."""

    async def closed() -> bool:
        claim = await claim_of(pair, scene)
        return claim is not None and claim[1] == "closed"

    await until(closed)
    claim = await claim_of(pair, scene)
    assert claim
    run = await pair.one.mongo.database["runs"].find_one({"_id": claim[0]})
    # With what was deleted its runs are erased, once they are settled.
    assert run is None or run["state"] == "cancelled"
    return str(claim[0])


async def test_a_run_that_is_starting_is_cancelled(loss: tuple[Give, Lose], pair: Pair, standin: Standin) -> None:
    """The start has checked the right and waits. The change, or the sweep after it, waits for the start."""
    give, lose = loss
    scene = await make_scene(pair, give)
    long_answer(standin)
    async with as_owner(pair.stores) as db, db.transaction():
        await db.execute("LOCK TABLE ledger_entries IN SHARE MODE")
        sending = asyncio.create_task(what_came(send_in(scene.actor, scene.conversation_id, model=OPENAI)))
        await until_waiting(pair, sending, "relation")
        losing = asyncio.ensure_future(lose(scene))
        await until_waiting(pair, losing, "advisory", "transactionid")
        assert not sending.done()
        assert not losing.done()
    await losing
    last, code = await sending
    assert last in ("run_cancelled", "run_started", None) or code in _REFUSALS
    run_id = await until_cancelled(pair, scene)
    entries = await endings_of(pair.stores, run_id)
    assert [attempt for attempt, _ in entries] == [1, 1], "asked once, at most"
    assert entries[0] == (1, "reserve")


async def test_a_run_that_is_going_on_is_cancelled(loss: tuple[Give, Lose], pair: Pair, standin: Standin) -> None:
    give, lose = loss
    scene = await make_scene(pair, give)
    long_answer(standin)
    stream = send_in(scene.actor, scene.conversation_id, model=OPENAI)
    await stream.read()
    await lose(scene)
    claim = await claim_of(pair, scene)
    assert claim
    assert claim[2] == "cancelled", "asked for when the call that took the right had returned"
    run_id = await until_cancelled(pair, scene)
    assert [attempt for attempt, _ in await endings_of(pair.stores, run_id)] == [1, 1]


async def test_a_start_that_waits_while_the_right_goes_is_refused(
    loss: tuple[Give, Lose], pair: Pair, standin: Standin
) -> None:
    """The start has the ledger's lock and has not checked yet; the change commits meanwhile."""
    give, lose = loss
    scene = await make_scene(pair, give)
    elsewhere = await make_workspace(scene.owner, scene.org_id)  # so that the rival keeps nobody from the scene's own
    asked = len(standin.received)
    async with as_owner(pair.stores) as db:
        with suppress(_Undo):
            async with db.transaction():
                await db.execute(_RIVAL, (scene.org_id, elsewhere, scene.conversation_id, scene.owner.user_id))
                sending = asyncio.create_task(
                    refusal(events_of(send_in(scene.actor, scene.conversation_id, model=OPENAI)))
                )
                await until_waiting(pair, sending, "transactionid")
                losing = asyncio.ensure_future(lose(scene))
                await until_waiting(pair, losing, "advisory")
                assert not sending.done()
                assert not losing.done()
                raise _Undo
    refused = await sending
    await losing
    await nothing_began(pair, scene, standin, asked)
    assert refused is not None
    assert refused.code in _REFUSALS


class _Undo(Exception):
    """Takes back the rival of a start."""


# Another run of the conversation, which is not committed: whoever claims it waits to see whether it will be.
_RIVAL = """
INSERT INTO run_claims (org_id, run_id, workspace_id, conversation_id, user_id, content_hash, state, create_time)
VALUES (%s, gen_random_uuid(), %s, %s, %s, '', 'open', now())
"""


async def nothing(*_: Any) -> list[UUID]:
    return []


async def nothing_began(pair: Pair, scene: Scene, standin: Standin, asked: int) -> None:
    assert await claim_of(pair, scene) is None
    assert await sql(pair.stores, "SELECT 1 FROM ledger_entries WHERE org_id = %s", scene.org_id) == []
    assert len(standin.received) == asked


async def test_a_start_on_what_is_remembered_is_refused(
    loss: tuple[Give, Lose], pair: Pair, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server remembers for ever who may what, instead of for a second."""
    give, lose = loss
    scene = await make_scene(pair, give)
    authenticator, finder = pair.other.credentials.authenticator, pair.other.workspaces
    monkeypatch.setattr(authenticator, "remembered", TtlCache(1000, 1, clock=lambda: 0.0))
    monkeypatch.setattr(finder, "remembered", TtlCache(1000, 1, clock=lambda: 0.0))
    refusals: list[Exception] = []

    async def noted(*arguments: Any) -> Any:
        try:
            return await transactions.start_run(*arguments)
        except rights.RightLost as error:
            refusals.append(error)
            raise

    monkeypatch.setattr("aiworkspace_server.runs.start.start_run", noted)
    await make_conversation(scene.actor, scene.workspace_id)
    asked = len(standin.received)
    await lose(scene)
    refused = await refusal(events_of(send_in(scene.actor, scene.conversation_id, model=OPENAI)))
    await nothing_began(pair, scene, standin, asked)
    assert refused is not None
    assert refused.code in _REFUSALS
    if lose not in (end_workspace, end_org):  # else there may be no workspace to be read before the start
        assert len(refusals) == 1, "authorization had let it pass"


@pytest.mark.parametrize("name", ["suspended", "workspace closed", "key revoked"])
async def test_a_run_is_cancelled_though_the_server_died_before_it_swept(
    name: str, pair: Pair, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    give, lose = LOSSES[name]
    scene = await make_scene(pair, give)
    long_answer(standin)
    await send_in(scene.actor, scene.conversation_id, model=OPENAI).read()

    async def died(*_: Any) -> None: ...

    monkeypatch.setattr(Cancellation, "cancel_unentitled", died)
    await lose(scene)
    assert await until_cancelled(pair, scene)


async def test_the_runs_of_a_key_end_when_it_expires(pair: Pair, standin: Standin) -> None:
    scene = await make_scene(pair, by_key)
    long_answer(standin)
    await send_in(scene.actor, scene.conversation_id, model=OPENAI).read()
    await sql(pair.stores, "UPDATE api_keys SET expire_time = now() WHERE id = %s", scene.given_id)
    assert await until_cancelled(pair, scene)


async def test_a_run_ends_with_the_scopes_of_its_key(pair: Pair, standin: Standin) -> None:
    scene = await make_scene(pair, by_key)
    long_answer(standin)
    await send_in(scene.actor, scene.conversation_id, model=OPENAI).read()
    await sql(pair.stores, "UPDATE api_keys SET workspaces_limited = true WHERE id = %s", scene.given_id)
    assert await until_cancelled(pair, scene)


async def test_a_further_attempt_is_not_made_without_the_right(
    pair: Pair, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the sweep nor the upkeep has come by when the first attempt fails."""
    scene = await make_scene(pair, as_member)
    failing = asyncio.Event()
    play(standin, OPENAI, Script(until=failing, fault=HttpError(503)), Script())

    monkeypatch.setattr(Cancellation, "cancel_unentitled", nothing)
    monkeypatch.setattr(claims, "list_stopped", nothing)
    asked = len(standin.received)
    stream = send_in(scene.actor, scene.conversation_id, model=OPENAI)
    await stream.read()
    await until_true(lambda: len(standin.received) > asked)
    await suspend(scene.owner, scene.org_id, scene.actor)
    failing.set()
    run_id = await until_cancelled(pair, scene)
    assert [attempt for attempt, _ in await endings_of(pair.stores, run_id)] == [1, 1]
    assert len(standin.received) == asked + 1


async def test_a_run_is_not_taken_over_without_the_right(
    pair: Pair, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await make_scene(pair, as_member)
    policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
    await scene.owner.models.SetOrgModelPolicy(model_pb2.SetOrgModelPolicyRequest(org_id=scene.org_id, policy=policy))
    long_answer(standin)
    await send_in(scene.actor, scene.conversation_id, model=OPENAI).read()
    claim = await claim_of(pair, scene)
    assert claim

    monkeypatch.setattr(claims, "list_stopped", nothing)
    async with as_owner(pair.stores) as db, db.transaction():
        await db.execute("UPDATE run_claims SET server_id = %s WHERE run_id = %s", (new_id(), claim[0]))
        await db.execute("UPDATE memberships SET suspend_time = now() WHERE user_id = %s", (scene.actor.user_id,))
    await until_cancelled(pair, scene)


async def test_a_session_that_has_ended_starts_nothing(
    pair: Pair, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await make_scene(pair, as_member)
    authenticator = pair.other.credentials.authenticator
    monkeypatch.setattr(authenticator, "remembered", TtlCache(1000, 1, clock=lambda: 0.0))
    await make_conversation(scene.actor, scene.workspace_id)
    await sql(pair.stores, "UPDATE sessions SET revoke_time = now() WHERE user_id = %s", scene.actor.user_id)
    asked = len(standin.received)
    refused = await refusal(events_of(send_in(scene.actor, scene.conversation_id, model=OPENAI)))
    assert refused is not None
    assert refused.code == "UNAUTHENTICATED"
    await nothing_began(pair, scene, standin, asked)


async def test_others_keep_their_runs(pair: Pair, standin: Standin) -> None:
    scene = await make_scene(pair, as_member)
    other = reconnected(scene.owner, pair.other.address)
    conversation_id = await make_conversation(other, scene.workspace_id)
    enough = asyncio.Event()
    long_answer(standin, enough=enough)
    stream = send_in(other, conversation_id, model=OPENAI)
    await stream.read()
    await set_visibility(scene.owner, scene.workspace_id, CLOSED)
    await remove(scene)
    enough.set()
    assert kinds_of(await events_of(stream))[-1] == "run_completed"
