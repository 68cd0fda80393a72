"""Every statement of the whole surface says whose rows it wants, so that one shard can answer it; or it is listed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest

from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.standin import Script, Standin
from tests.support.belongings import Belongings, furnish
from tests.support.distribution import ACROSS, distributed_tables
from tests.support.people import PASSWORD, make_org, people
from tests.support.plans import How, Planned, Plans, parse, print_plans, scans
from tests.support.postgres import Owner, as_owner
from tests.support.routing import MongoCommands, unrouted
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, migrated_databases
from tests.support.surface import CLOSED, ENDPOINTS, Endpoint, calling_order

_MODEL = "openai/gpt-4o-mini"
_TOKENS = 200
# What people do all day.
_HOT = (
    *("SendMessage", "StreamRun", "GetRun", "GetConversation", "ListConversations", "ListMessages"),
    *("GetWorkspace", "ListWorkspaces", "SearchDocuments", "ListDocuments", "GetDocument", "GetUsage"),
)
_FUNCTION = re.compile(r'SQL function "(\w+)"|PL/pgSQL function (\w+)\(')
_TABLE = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)")

# Scans of hot statements for which only row-level security names the organization: those of the transaction's. One
# machine answers them, if whoever sends them there knows the transaction; a planner that reads the statement does not.
_INSIDE = "in a function that is told the organization, which its statement does not repeat"
_STORE = "a query of a store, which leaves the organization to the policy"
BY_POLICY = {
    **dict.fromkeys(("budgets in count_entries", "ledger_entries in count_entries"), _INSIDE),
    **dict.fromkeys(("api_keys in root_of_key", "ledger_entries in root_of_key"), _INSIDE),
    "workspaces in read_workspace": _INSIDE,
    **dict.fromkeys(("workspaces in SELECT workspaces", "run_claims in SELECT run_claims"), _STORE),
    **dict.fromkeys(("usage_rollups in SELECT usage_rollups", "api_keys in SELECT usage_rollups"), _STORE),
    **dict.fromkeys(("documents in SELECT documents", "collection_documents in SELECT documents"), _STORE),
    **dict.fromkeys(("documents in SELECT document_versions", "document_versions in SELECT document_versions"), _STORE),
    **dict.fromkeys(("document_steps in SELECT document_steps", "collections in SELECT collections"), _STORE),
    **{
        f"{table} in SELECT collection_documents": _STORE  # documents as they are shown, in one query
        for table in ("documents", "document_versions", "blobs", "collection_documents")
    },
}

# Commands to MongoDB that name several organizations, or none.
MONGO_ACROSS = {
    "find in conversations by _id, delete_time, user_id of several organizations": "by id, in those of the caller",
    "find in runs by _id, user_id of several organizations": "by id, in those of the caller",
    "find in conversations by user_id of all organizations": "a job, after the deletion of an account",
    "find in conversations by delete_time, purge_time of all organizations": "a job: each shard answers for its own",
    "find in documents.writes by begin_time of all organizations": "a job: each shard answers for its own",
}


@dataclass(frozen=True)
class Seen:
    """What a server asked both databases while everything in its contract was called."""

    plans: set[Planned]
    hot: set[str]  # statements that calls of the hot methods sent
    columns: dict[int, int]  # tables that are distributed and the number of the column, by oid
    names: dict[int, str]
    mongo: MongoCommands


@pytest.fixture(scope="module")
async def seen(stores: Stores, standin: Standin) -> Seen:
    own = await migrated_databases(stores, "routed")
    await print_plans(own)
    plans, commands = Plans(), MongoCommands()
    settings = Settings.model_validate(store_settings(own) | provider_settings(standin))
    with plans.recording(), commands.recording():
        async with running(settings, migrating=False) as app, people(app.address) as new_person:
            belongings = await furnish(new_person, _MODEL)
            await make_org(belongings.owner)  # an id alone may be in either
            standin.script("gpt-4o-mini", Script(tokens=["word "] * _TOKENS))
            plans.sent.clear()
            await _call([each for each in ENDPOINTS if each.descriptor.name in _HOT], belongings)
            hot = set(plans.sent)
            await _call(sorted(ENDPOINTS, key=calling_order), belongings)
    async with as_owner(own) as owner:
        numbers, names = await _columns(owner)
    return Seen(plans.found, hot, numbers, names, commands)


async def _columns(owner: Owner) -> tuple[dict[int, int], dict[int, str]]:
    columns = await distributed_tables(owner)
    statement = b"SELECT attrelid::int, attnum, relname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
    found = await owner.execute(
        statement + b" WHERE relnamespace = 'public'::regnamespace AND %s::jsonb ->> relname = attname",
        [str(columns).replace("'", '"')],
    )
    rows = await found.fetchall()
    return {oid: number for oid, number, _ in rows}, {oid: name for oid, _, name in rows}


async def _call(endpoints: list[Endpoint], belongings: Belongings) -> None:
    owner = belongings.owner
    for endpoint in endpoints:
        for optional in (True, False):  # some fields exclude each other
            request = endpoint.request(belongings.ids, optional=optional)
            if endpoint.descriptor.name == "ChangePassword":
                request.new_password = PASSWORD  # with which to log in again
            outcome = await endpoint.call(owner, request)
            if outcome.code == grpc.StatusCode.UNAUTHENTICATED and endpoint in CLOSED:
                if endpoint.descriptor.name == "DeleteAccount":
                    break
                await owner.log_in()  # the method before ended the session
                await endpoint.call(owner, request)


# PostgreSQL


async def test_only_functions_that_are_listed_look_beyond_one_organization(seen: Seen) -> None:
    found = {_whence(each) for each, _, how in _scans(seen) if how in (How.NOT, How.SEVERAL)}
    assert {"find_workspace", "active_memberships", "list_due_orgs"} <= found, "the plans are not read any more"
    assert found <= ACROSS.keys()


async def test_hot_statements_name_their_organization(seen: Seen) -> None:
    hot = [(each, table, how) for each, table, how in _scans(seen) if each.statement in seen.hot]
    assert {"run_claims", "ledger_entries", "budgets", "chunk_vectors", "documents"} <= {table for _, table, _ in hot}
    assert {f"{table} in {_whence(each)}" for each, table, how in hot if how == How.POLICY} == BY_POLICY.keys()


def _scans(seen: Seen) -> list[tuple[Planned, str, How]]:
    return [(each, seen.names[oid], how) for each in seen.plans for oid, how in scans(parse(each.plan), seen.columns)]


def _whence(planned: Planned) -> str:
    """The innermost function in which a statement was planned; outside of all, what it does with which table."""
    if called := _FUNCTION.search(planned.context):
        return called[1] or called[2]
    table = _TABLE.search(planned.statement)
    return f"{planned.statement.split()[0]} {table[1] if table else ''}".strip()


# That the check sees what it is about


@pytest.fixture(scope="module")
async def alone(stores: Stores) -> Stores:
    """A database in which everybody is sent plans, and nobody works."""
    own = await migrated_databases(stores, "planned")
    await print_plans(own)
    return own


_ID = "'0198c0de-0000-7000-8000-000000000001'"
STATEMENTS = {
    f"SELECT FROM teams WHERE org_id = {_ID}": {How.NAMED},
    f"SELECT FROM teams WHERE id = {_ID}": {How.NOT},
    "SELECT FROM teams": {How.NOT},
    f"SELECT FROM teams WHERE org_id = {_ID} OR name = 'a'": {How.NOT},
    f"SELECT FROM teams WHERE org_id <> {_ID}": {How.NOT},
    f"SELECT FROM teams WHERE id = {_ID} AND org_id = ANY (ARRAY[{_ID}, gen_random_uuid()]::uuid[])": {How.SEVERAL},
    "SELECT FROM teams WHERE org_id = current_setting('app.org_id', true)::uuid": {How.POLICY},
    f"SELECT FROM teams WHERE org_id = {_ID} AND org_id = current_setting('app.org_id', true)::uuid": {How.NAMED},
    f"SELECT org_id, id FROM teams WHERE org_id = {_ID}": {How.NAMED},  # of an index alone
    f"SELECT (SELECT count(*) FROM budgets) FROM teams WHERE org_id = {_ID}": {How.NAMED, How.NOT},
    f"UPDATE teams SET name = 'a' WHERE id = {_ID}": {How.NOT},
    f"DELETE FROM teams WHERE org_id = {_ID}": {How.NAMED},
    f"SELECT FROM audit_events WHERE chain_id = {_ID}": {How.NAMED},
    f"SELECT FROM replies WHERE user_id = {_ID}": {How.NAMED},
    f"SELECT FROM users WHERE id = {_ID}": set(),  # on every machine
}


@pytest.mark.parametrize(("statement", "expected"), STATEMENTS.items(), ids=STATEMENTS)
async def test_scans_say_how_they_name_the_organization(statement: str, expected: set[How], alone: Stores) -> None:
    assert await _hows(alone, statement) == expected


async def test_statements_inside_functions_are_seen(alone: Stores) -> None:
    async with as_owner(alone) as owner:
        await owner.execute(
            b"CREATE OR REPLACE FUNCTION peep(p_id uuid) RETURNS bigint LANGUAGE plpgsql AS $$"
            b" BEGIN RETURN (SELECT count(*) FROM teams WHERE id = p_id); END $$"
        )
    assert await _hows(alone, f"SELECT peep({_ID})") == {How.NOT}


async def _hows(stores: Stores, statement: str) -> set[How]:
    plans = Plans()
    with plans.recording():
        async with as_owner(stores) as owner:
            await owner.execute(statement.encode())
    async with as_owner(stores) as owner:
        columns, _ = await _columns(owner)
    return {how for each in plans.found for _, how in scans(parse(each.plan), columns)}


# MongoDB


async def test_commands_name_their_organization(seen: Seen) -> None:
    assert seen.mongo.count > 100
    assert {"find in runs by _id, user_id of several organizations"} <= seen.mongo.unrouted <= MONGO_ACROSS.keys()


_OURS = uuid4()
COMMANDS: dict[str, tuple[Mapping[str, Any], str | None]] = {
    "a find": ({"find": "runs", "filter": {"_id": 1, "org_id": _OURS}}, None),
    "a find by id": ({"find": "runs", "filter": {"_id": 1}}, "find in runs by _id of all organizations"),
    "a find in two": (
        {"find": "runs", "filter": {"_id": 1, "org_id": {"$in": [_OURS, uuid4()]}}},
        "find in runs by _id of several organizations",
    ),
    "a find in others": (
        {"find": "runs", "filter": {"org_id": {"$ne": _OURS}}},
        "find in runs by  of all organizations",
    ),
    "an insert": ({"insert": "runs", "documents": [{"org_id": _OURS}]}, None),
    "an insert without": (
        {"insert": "runs", "documents": [{"org_id": _OURS}, {"_id": 1}]},
        "insert in runs by _id of all organizations",
    ),
    "an update": ({"update": "runs", "updates": [{"q": {"org_id": _OURS}, "u": {}}]}, None),
    "an update by id": (
        {"update": "runs", "updates": [{"q": {"_id": 1}, "u": {}, "upsert": True}]},
        "update in runs by _id of all organizations",
    ),
    "a delete by id": (
        {"delete": "runs", "deletes": [{"q": {"_id": 1}}]},
        "delete in runs by _id of all organizations",
    ),
    "a join": ({"aggregate": "runs", "pipeline": [{"$lookup": {}}]}, "aggregate of runs"),
    "more of a find": ({"getMore": 1, "collection": "runs"}, None),
}


@pytest.mark.parametrize(("command", "said"), COMMANDS.values(), ids=COMMANDS)
def test_commands_for_more_than_one_shard_are_seen(command: Mapping[str, Any], said: str | None) -> None:
    assert unrouted(next(iter(command)), command) == said
