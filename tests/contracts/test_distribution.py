"""Both catalogues as they have to be to spread organizations over machines, and that the check sees every breach."""

import ast
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import aiworkspace_server
from aiworkspace_server.kit.mongo import Mongo
from tests.support.distribution import (
    ACROSS,
    LOCAL,
    REFERENCE,
    SCANNED,
    TRIGGERS,
    UNIQUE_ALONE,
    UNSHARDED,
    breaches_of_collections,
    breaches_of_tables,
)
from tests.support.postgres import Owner, as_owner
from tests.support.stores import Stores, connected, migrated_databases

_EXCEPTIONS = (REFERENCE, LOCAL, UNIQUE_ALONE, ACROSS, TRIGGERS)


@pytest.fixture(scope="module")
async def migrated(stores: Stores) -> Stores:
    return await migrated_databases(stores, "distribution")


@pytest.fixture(scope="module")
async def scratch(migrated: Stores) -> AsyncIterator[Owner]:
    """The owner of a migrated database of its own."""
    async with as_owner(migrated) as connection:
        yield connection


@pytest.fixture(scope="module")
async def mongo(migrated: Stores) -> AsyncIterator[Mongo]:
    async with connected(migrated) as mongo:
        yield mongo


# PostgreSQL


async def test_every_table_can_be_distributed(scratch: Owner) -> None:
    assert await breaches_of_tables(scratch) == []


_TABLE = "CREATE TABLE things (org_id uuid NOT NULL{}, id uuid NOT NULL{}, PRIMARY KEY (org_id, id))"
_GOOD = _TABLE.format(" REFERENCES orgs", "")

# What somebody may do wrong, and what has to be said about it.
BREACHES: dict[str, tuple[tuple[str, ...], str]] = {
    "nobody's table": (("CREATE TABLE things (id uuid PRIMARY KEY)",), "things: is in 0 of"),
    "a table in two lists": (("ALTER TABLE users ADD org_id uuid NOT NULL",), "users: is in 2 of"),
    "a table that is gone": (("DROP TABLE operators",), "operators: listed, but does not exist"),
    "a primary key of ids": (
        ("CREATE TABLE things (org_id uuid NOT NULL, id uuid PRIMARY KEY)",),
        "things_pkey is unique without org_id",
    ),
    "a unique constraint": ((_GOOD, "ALTER TABLE things ADD UNIQUE (id)"), "things_id_key is unique without org_id"),
    "a unique index": (("CREATE UNIQUE INDEX names ON teams (name)",), "teams: names is unique without org_id"),
    "the organization beside a unique index": (
        ("CREATE UNIQUE INDEX names ON teams (name) INCLUDE (org_id)",),
        "teams: names is unique without org_id",
    ),
    "a unique index of an expression": (
        ("CREATE UNIQUE INDEX names ON teams (lower(org_id::text), name)",),
        "teams: names is unique without org_id",
    ),
    "an exclusion": (
        (_GOOD, "ALTER TABLE things ADD CONSTRAINT apart EXCLUDE USING hash (id WITH =)"),
        "things: apart is unique without org_id",
    ),
    "an exception that is none": (
        (
            "ALTER TABLE workspaces DROP CONSTRAINT workspaces_id_key",
            "CREATE INDEX workspaces_id_key ON workspaces (id)",
        ),
        "workspaces_id_key: listed, but is no unique index",
    ),
    "an exception that is gone": (
        ("ALTER TABLE uploads DROP CONSTRAINT uploads_id_key",),
        "uploads_id_key: listed, but is no unique index",
    ),
    "a foreign key by id": (
        (_GOOD, "ALTER TABLE things ADD FOREIGN KEY (id) REFERENCES workspaces (id)"),
        "things_id_fkey lacks org_id",
    ),
    "a foreign key with the organization elsewhere": (
        (_GOOD, "ALTER TABLE things ADD CONSTRAINT crossed FOREIGN KEY (id, org_id) REFERENCES teams (org_id, id)"),
        "crossed lacks org_id",
    ),
    "a foreign key to one machine": (
        (_GOOD, "ALTER TABLE things ADD FOREIGN KEY (id) REFERENCES sessions"),
        "things_id_fkey leads to rows that are on one machine",
    ),
    "a foreign key from everywhere": (
        ("ALTER TABLE users ADD home uuid REFERENCES orgs",),
        "users_home_fkey leads to rows that are on other machines",
    ),
    "a foreign key from one machine": (
        ("ALTER TABLE sessions ADD org_id_of uuid REFERENCES orgs",),
        "sessions_org_id_of_fkey leads to rows that are on other machines",
    ),
    "a foreign key from copies to one machine": (
        ("ALTER TABLE users ADD session uuid REFERENCES sessions",),
        "users_session_fkey leads to rows that are on other machines",
    ),
    "a foreign key that moves rows": (
        ("ALTER TABLE teams ADD CONSTRAINT moving FOREIGN KEY (org_id) REFERENCES orgs ON UPDATE CASCADE",),
        "moving would move rows",
    ),
    "a foreign key that empties the column": (
        (
            "ALTER TABLE api_keys ADD CONSTRAINT emptying FOREIGN KEY (org_id, creator_id)"
            " REFERENCES memberships ON DELETE SET NULL",
        ),
        "emptying would move rows",
    ),
    "a column that may be empty": (("CREATE TABLE things (org_id uuid)",), "a row may leave org_id out"),
    "a column with a default": ((_TABLE.format(" DEFAULT gen_random_uuid()", ""),), "a row may leave org_id out"),
    "a column of another type": (
        ("CREATE TABLE things (org_id bigint PRIMARY KEY)",),
        "things: is placed by a bigint",
    ),
    "a counter": (
        (_GOOD, "ALTER TABLE things ADD number bigint GENERATED ALWAYS AS IDENTITY"),
        "things: number is counted on one machine",
    ),
    "a sequence": ((_GOOD, "ALTER TABLE things ADD number serial"), "things: number is counted on one machine"),
    "a trigger": (
        (
            "CREATE TRIGGER watching AFTER INSERT ON teams FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        ),
        "teams.watching: a trigger of a distributed table",
    ),
    "a trigger that is gone": (("DROP TRIGGER add_allowance ON orgs",), "orgs.add_allowance: listed, but does not"),
}


@pytest.mark.parametrize(("statements", "said"), BREACHES.values(), ids=BREACHES)
async def test_a_table_that_cannot_be_distributed_is_reported(
    statements: tuple[str, ...], said: str, scratch: Owner
) -> None:
    async with scratch.transaction(force_rollback=True):
        for statement in statements:
            await scratch.execute(statement.encode())
        found = await breaches_of_tables(scratch)
    assert [line for line in found if said in line], found


async def test_a_table_that_keeps_the_rules_is_no_breach(scratch: Owner) -> None:
    async with scratch.transaction(force_rollback=True):
        await scratch.execute(_GOOD.encode())
        assert await breaches_of_tables(scratch) == []


async def test_functions_for_all_organizations_are_listed_and_no_others(
    scratch: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ACROSS, "list_due_orgs")
    monkeypatch.setitem(ACROSS, "may_run", "")
    assert await breaches_of_tables(scratch) == [
        "list_due_orgs: reads all organizations, and is not listed",
        "may_run: listed, but names its organization or is gone",
    ]


# Transactions of several organizations


_SEVERAL = {
    "orgs/service.py: leave_all": "an account is deleted: every organization has to let it go, or none",
    "orgs/service.py: give_up_address": "an account changes its address: no invitation to the old one may stay open",
    "events/outbox.py: _enter": "events of these changes, each with its organization",
}


def test_transactions_of_several_organizations_are_known() -> None:
    assert set(_callers_of("set_tenant")) == _SEVERAL.keys()


def _callers_of(name: str) -> list[str]:
    root = Path(aiworkspace_server.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                calls = (node.func for node in ast.walk(function) if isinstance(node, ast.Call))
                if any(getattr(call, "id", getattr(call, "attr", "")) == name for call in calls):
                    found.append(f"{path.relative_to(root)}: {function.name}")
    return found


def test_mongodb_has_no_transactions() -> None:
    assert [_callers_of(name) for name in ("start_session", "start_transaction", "aggregate")] == [[], [], []]


# MongoDB


async def test_every_collection_can_be_sharded(mongo: Mongo) -> None:
    assert await breaches_of_collections(mongo.database) == []


INDEXES: dict[str, tuple[str, list[tuple[str, int]], dict[str, Any], str]] = {
    "no shard key": ("things", [("name", 1)], {}, "things: no index of all documents leads with org_id"),
    "the shard key at the end": ("things", [("name", 1), ("org_id", 1)], {}, "things: no index of all documents"),
    "a shard key of some documents": (
        "things",
        [("org_id", 1)],
        {"partialFilterExpression": {"name": {"$exists": True}}},
        "things: no index of all documents",
    ),
    "unique without the organization": ("runs", [("user_id", 1)], {"unique": True}, "is unique without org_id"),
    "unique with it at the end": (
        "runs",
        [("user_id", 1), ("org_id", 1)],
        {"unique": True},
        "runs: user_id_1_org_id_1 is unique without org_id",
    ),
    "an index for all organizations": ("runs", [("user_id", 1)], {}, "runs: user_id_1 does not lead with org_id"),
}


@pytest.mark.parametrize(("collection", "keys", "options", "said"), INDEXES.values(), ids=INDEXES)
async def test_a_collection_that_cannot_be_sharded_is_reported(
    collection: str, keys: list[tuple[str, int]], options: dict[str, Any], said: str, mongo: Mongo
) -> None:
    name = await mongo.database[collection].create_index(keys, **options)
    try:
        found = await breaches_of_collections(mongo.database)
    finally:
        await mongo.database[collection].drop_index(name)
        await mongo.database.drop_collection("things")
    assert [line for line in found if said in line], found


async def test_exceptions_for_what_mongodb_does_not_have_are_reported(
    mongo: Mongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(UNSHARDED, "gone", "")
    monkeypatch.setitem(SCANNED, "runs.gone", "")
    assert await breaches_of_collections(mongo.database) == [
        "gone: listed, but does not exist",
        "runs.gone: listed, but does not exist",
    ]


def test_every_exception_has_its_reason() -> None:
    reasons = [reason for exceptions in (*_EXCEPTIONS, UNSHARDED, SCANNED) for reason in exceptions.values()]
    assert all(len(reason) > 15 for reason in reasons)
