"""Isolation as PostgreSQL's catalogue shows it, and that the check of it sees every sort of breach."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from aiworkspace.v1 import org_pb2
from aiworkspace_server.app import App
from tests.support.catalog import GLOBAL, LEADING_ELSEWHERE, breaches, tenant_tables
from tests.support.people import NewPerson, join, make_place
from tests.support.postgres import Owner, as_owner, sql
from tests.support.stores import Stores, migrated_databases


@pytest.fixture(scope="module")
async def scratch(stores: Stores) -> AsyncIterator[Owner]:
    """The owner of a migrated database of its own."""
    async with as_owner(await migrated_databases(stores, "catalogue")) as connection:
        yield connection


async def test_the_schema_keeps_tenants_apart(scratch: Owner) -> None:
    assert await breaches(scratch) == []


async def test_the_exceptions_are_about_what_exists(scratch: Owner) -> None:
    names = {name for (name,) in await _rows(scratch, "SELECT relname FROM pg_class")}
    assert GLOBAL.keys() | LEADING_ELSEWHERE.keys() <= names
    assert {"orgs", "memberships", "workspaces", "audit_events"} <= (await tenant_tables(scratch)).keys()


async def _rows(connection: Owner, statement: str) -> list[tuple[Any, ...]]:
    return await (await connection.execute(statement.encode())).fetchall()


_TABLE = "CREATE TABLE things (org_id uuid NOT NULL REFERENCES orgs, id uuid NOT NULL, PRIMARY KEY (org_id, id))"
_POLICY = "CREATE POLICY tenant ON things TO aiworkspace_app USING (org_id = {})"
_SETTING = "NULLIF(current_setting('app.org_id', true), '')::uuid"
_GOOD = (
    _TABLE,
    "ALTER TABLE things ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE things FORCE ROW LEVEL SECURITY",
    _POLICY.format(_SETTING),
)
_FUNCTION = "CREATE FUNCTION peep() RETURNS bigint LANGUAGE sql SECURITY DEFINER {} AS 'SELECT count(*) FROM orgs'"
_FIXED = "SET search_path = public, pg_temp"

# What somebody may do wrong, and what has to be said about it.
BREACHES: dict[str, tuple[tuple[str, ...], str]] = {
    "nobody's table": (("CREATE TABLE things (id uuid PRIMARY KEY)",), "neither a tenant's nor listed as global"),
    "no row-level security": ((*_GOOD[:1], *_GOOD[2:]), "row-level security is not enabled"),
    "not forced": ((*_GOOD[:2], *_GOOD[3:]), "row-level security is not forced"),
    "no policy": (_GOOD[:3], "has no policy for the server"),
    "a cast of the column": (
        (*_GOOD[:3], _POLICY.replace("(org_id", "(org_id::text").format("current_setting('app.org_id', true)")),
        "does not compare org_id with the setting",
    ),
    "a policy that is always true": (
        (*_GOOD[:3], "CREATE POLICY tenant ON things TO aiworkspace_app USING (true)"),
        "does not compare org_id with the setting",
    ),
    "a second policy that is always true": (
        (*_GOOD, "CREATE POLICY also ON things TO aiworkspace_app USING (true)"),
        "the policy also does not compare org_id",
    ),
    "a check that is always true": (
        (*_GOOD[:3], _POLICY.format(_SETTING) + " WITH CHECK (true)"),
        "does not compare org_id with the setting",
    ),
    "a policy for everybody": ((*_GOOD, "CREATE POLICY all_ ON things USING (true)"), "the policy all_ lets {public}"),
    "a lookup that may write": (
        ("CREATE POLICY write ON teams TO aiworkspace_lookup USING (true)",),
        "the policy write lets {aiworkspace_lookup}",
    ),
    "a view": (("CREATE VIEW peep AS SELECT * FROM orgs",), "passes row-level security by"),
    "no primary key": (("CREATE TABLE things (org_id uuid NOT NULL)",), "has no primary key"),
    "a primary key that leads elsewhere": (
        ("CREATE TABLE things (org_id uuid NOT NULL, id uuid PRIMARY KEY)",),
        "the index things_pkey does not lead with org_id",
    ),
    "an index that leads elsewhere": (("CREATE INDEX names ON teams (name)",), "the index names does not lead with"),
    "an index over an expression": (("CREATE INDEX names ON teams (lower(name))",), "the index names does not lead"),
    "a foreign key without the organization": (
        ("ALTER TABLE teams ADD workspace_id uuid REFERENCES workspaces (id)",),
        "the foreign key teams_workspace_id_fkey reaches across",
    ),
    "a foreign key with somebody else's organization": (
        (
            "ALTER TABLE teams ADD home_id uuid, ADD home_org uuid",
            "ALTER TABLE teams ADD FOREIGN KEY (home_org, home_id) REFERENCES workspaces (org_id, id)",
        ),
        "reaches across organizations",
    ),
    "no foreign key": (("ALTER TABLE teams ADD workspace_id uuid",), "workspace_id is no foreign key to workspaces"),
    "owned by the server": (("ALTER TABLE teams OWNER TO aiworkspace_app",), "owned by the server"),
    "truncate": (("GRANT TRUNCATE ON teams TO aiworkspace_app",), "the server may TRUNCATE"),
    "references": (("GRANT REFERENCES ON users TO aiworkspace_app",), "the server may REFERENCES"),
    "trigger": (("GRANT TRIGGER ON teams TO aiworkspace_app",), "the server may TRIGGER"),
    "a ledger that can be changed": (
        ("GRANT UPDATE (cost_nanos) ON ledger_entries TO aiworkspace_app",),
        "the server may UPDATE what is written once",
    ),
    "a log that can be cut": (("GRANT DELETE ON audit_events TO aiworkspace_app",), "may DELETE what is written once"),
    "lookups that write": (("GRANT INSERT ON teams TO aiworkspace_lookup",), "the lookup functions may write"),
    "open to everybody": (("GRANT SELECT ON teams TO PUBLIC",), "everybody may SELECT"),
    "a column open to everybody": (("GRANT SELECT (name) ON teams TO PUBLIC",), "teams.name: everybody may SELECT"),
    "a schema to create in": (("GRANT CREATE ON SCHEMA public TO aiworkspace_app",), "may create in it"),
    "a role past row-level security": (("ALTER ROLE aiworkspace_app BYPASSRLS",), "aiworkspace_app: is not bound"),
    "a role in another": (("GRANT aiworkspace_lookup TO aiworkspace_app",), "aiworkspace_app: is not bound"),
    "a new door": ((_FUNCTION.format(_FIXED),), "peep(): a function that nobody declared"),
    "a door of the owner's": ((_FUNCTION.format(_FIXED),), "peep(): works as"),
    "a door without a path": ((_FUNCTION.format(""),), "peep(): its search_path is not fixed"),
    "a door for everybody": ((_FUNCTION.format(_FIXED),), "peep(): everybody may call it"),
    "an inner door": (
        ("GRANT EXECUTE ON FUNCTION active_memberships(uuid) TO aiworkspace_app",),
        "active_memberships(p_user_id uuid): the wrong role may call it",
    ),
    "a door that is gone": (("DROP FUNCTION list_orphaned_runs()",), "declared, but does not exist"),
}


@pytest.mark.parametrize(("statements", "said"), BREACHES.values(), ids=BREACHES)
async def test_a_breach_is_reported(statements: tuple[str, ...], said: str, scratch: Owner) -> None:
    async with scratch.transaction(force_rollback=True):
        for statement in statements:
            await scratch.execute(statement.encode())
        found = await breaches(scratch)
    assert [line for line in found if said in line], found


async def test_a_new_table_that_keeps_the_rules_is_no_breach(scratch: Owner) -> None:
    async with scratch.transaction(force_rollback=True):
        for statement in _GOOD:
            await scratch.execute(statement.encode())
        assert await breaches(scratch) == []
        assert (await tenant_tables(scratch))["things"] == "org_id"


# What the functions answer that look past row-level security


@pytest.fixture(scope="module")
async def pair(new_person: NewPerson) -> list[dict[str, UUID]]:
    """Two organizations of two people each, with a workspace."""
    made = []
    for _ in range(2):
        place, member = await make_place(await new_person()), await new_person()
        await join(place.owner, place.org_id, member, org_pb2.ROLE_VIEWER)
        ids = {"org": place.org_id, "workspace": place.workspace_id, "owner": place.owner.user_id}
        ids |= {"member": member.user_id, "session": member.tokens.session_id}
        made.append({name: UUID(value) for name, value in ids.items()})
    return made


async def ask(app: App, question: str, **values: object) -> list[tuple[Any, ...]]:
    """Rows that a lookup gives to the server before any tenant is known."""
    async with app.db.read() as tx:
        return [tuple(row) for row in await tx.execute(text(f"SELECT * FROM {question}"), values)]


async def test_a_session_is_answered_with_its_own_persons_organizations(pair: list[dict[str, UUID]], app: App) -> None:
    ours, theirs = pair
    ((user_id, _, _, memberships),) = await ask(app, "find_principal(:id)", id=ours["session"])
    assert user_id == ours["member"]
    assert [(found["org_id"], found["role"]) for found in memberships] == [(str(ours["org"]), "viewer")]
    assert await ask(app, "find_principal(:id)", id=uuid4()) == []
    assert str(theirs["org"]) not in str(memberships)


async def test_a_workspace_is_found_by_members_of_its_organization_alone(pair: list[dict[str, UUID]], app: App) -> None:
    ours, theirs = pair
    question = "find_workspace(:workspace, :person)"
    ((org_id, visibility, roles),) = await ask(app, question, workspace=ours["workspace"], person=ours["owner"])
    assert (org_id, visibility, roles) == (ours["org"], "org", [{"role": "manager", "team_id": None}])
    ((_, _, none),) = await ask(app, question, workspace=ours["workspace"], person=ours["member"])
    assert none == [], "the roles of others are not the member's"
    assert await ask(app, question, workspace=theirs["workspace"], person=ours["owner"]) == []


async def test_a_workspace_is_read_in_its_own_organization_alone(pair: list[dict[str, UUID]], app: App) -> None:
    """Although the function that reads it compares no organization: row-level security does."""
    ours, theirs = pair
    read = "SELECT name, visibility FROM read_workspace(%s, %s)"
    assert [row[1] for row in await app.db.fetch(read, (ours["org"], ours["workspace"]))] == ["org"]
    assert await app.db.fetch(read, (ours["org"], theirs["workspace"])) == []
    assert await app.db.fetch(read, (None, theirs["workspace"])) == []
    left = "SELECT nullif(current_setting('app.org_id', true), '')"
    assert await app.db.fetch(left, ()) == [(None,)], "the tenant of a call is gone with it"


async def test_a_person_is_answered_with_their_own_organizations(pair: list[dict[str, UUID]], app: App) -> None:
    for whose in pair:
        rows = await ask(app, "list_user_orgs(:person, NULL, 10)", person=whose["member"])
        assert [row[0] for row in rows] == [whose["org"]]
    assert await ask(app, "list_user_orgs(:person, NULL, 10)", person=uuid4()) == []


async def test_a_secret_is_answered_with_its_own_key(pair: list[dict[str, UUID]], app: App, stores: Stores) -> None:
    secrets = [uuid4().bytes for _ in pair]
    for whose, secret in zip(pair, secrets, strict=True):
        await sql(
            stores,
            "INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited,"
            " creator_id, create_time) VALUES (%s, %s, %s, 'key', 'aiws_', %s, '{org.read}', false, %s, now())",
            *(whose["org"], uuid4(), whose["member"], secret, whose["owner"]),
        )
    for whose, secret in zip(pair, secrets, strict=True):
        for look_up in ("find_key", "find_api_key"):
            ((_, org_id, user_id, _, _, _, memberships, *_),) = await ask(app, f"{look_up}(:secret)", secret=secret)
            assert (org_id, user_id) == (whose["org"], whose["member"])
            assert [found["org_id"] for found in memberships] == [str(whose["org"])]
    for look_up in ("find_key", "find_api_key"):
        assert await ask(app, f"{look_up}(:secret)", secret=uuid4().bytes) == []


async def test_the_lookups_of_the_server_itself_tell_ids_alone(app: App) -> None:
    """Nothing that anybody said or paid."""
    async with app.db.read() as tx:
        names = list((await tx.execute(text("SELECT * FROM list_orphaned_runs()"))).keys())
        assert names == ["org_id", "run_id", "conversation_id", "server_id"]
        stopped = "SELECT * FROM list_stopped_runs(gen_random_uuid(), '{}', '{}', '{}')"
        assert list((await tx.execute(text(stopped))).keys()) == ["list_stopped_runs"]


async def test_the_inner_function_is_not_the_servers_to_call(app: App) -> None:
    async with app.db.read() as tx:
        with pytest.raises(Exception, match="permission denied for function active_memberships"):
            await tx.execute(text("SELECT active_memberships(:id)"), {"id": uuid4()})
