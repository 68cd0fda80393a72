"""What has to hold so that both databases can be spread over machines by organization: every breach of it, in words.

The rules are those of Citus and of sharded MongoDB: a row or document is placed by its distribution column, and nothing
that has to be decided on one machine, such as uniqueness or a foreign key, may need a second one.
"""

from collections.abc import Iterator
from typing import Any

from psycopg import AsyncConnection
from pymongo.asynchronous.database import AsyncDatabase

from tests.support.catalog import DOORS, GLOBAL_PREFIX, PERSONAL, tenant_tables

# Copied to every machine: read by all, written seldom, and foreign keys may lead to them.
REFERENCE = {
    "users": "rows of organizations refer to people, who belong to several; written when an account is made or changed",
    "embedding_generations": "one row for each model that has ever been used",
}
# On one machine, where no row of an organization refers to them.
LOCAL = {
    "alembic_version": "the schema's own",
    "sessions": "of a person; found by its id alone, before an organization is known",
    "email_tokens": "of a person; found by a token alone, and gone within days",
    "former_addresses": "of people without an account; found by a hash",
    "operators": "a handful of people",
    "servers": "one row for each process",
}
LOCAL_PREFIXES = {GLOBAL_PREFIX: "the queue: a job names its organization, and may be worked anywhere"}

_DIRECTORY = "a directory of ids and their organizations, hashed by id, that is written before the row"
# Unique without the organization. PostgreSQL alone can promise that, on one machine; nothing relies on the promise but
# the lookup: ids are UUIDv7, and secrets have 256 random bits.
UNIQUE_ALONE = {
    "workspaces_id_key": f"calls name a workspace by its id alone: {_DIRECTORY}",
    "documents_id_key": f"calls name a document by its id alone: {_DIRECTORY}",
    "collections_id_key": f"calls name a collection by its id alone: {_DIRECTORY}",
    "uploads_id_key": f"streams name an upload by its id alone: {_DIRECTORY}",
    "erasures_id_key": f"receipts name an erasure by its id alone: {_DIRECTORY}",
    "api_keys_secret_hash_key": "a key is found by its secret alone: a directory of hashes and their organizations",
}

_OF_PERSON = "organizations of one person: a directory of people and their organizations, or a question to each shard"
_SWEEP = "a job that goes over all organizations: each shard answers for its own"
# Functions that read tables of organizations without naming one.
ACROSS = {
    "find_principal": f"memberships of who calls, kept for a second: {_OF_PERSON}",
    "active_memberships": f"part of find_principal and find_key: {_OF_PERSON}",
    "find_api_key": "by a secret, for servers of the release before: a directory of hashes",
    "find_key": "by a secret, kept for a second: a directory of hashes",
    "find_workspace": f"by id alone, kept for a second: {_DIRECTORY}",
    "find_document": f"by id alone: {_DIRECTORY}",
    "find_collection": f"by id alone: {_DIRECTORY}",
    "find_upload": f"by id alone: {_DIRECTORY}",
    "find_erasure": f"by id alone: {_DIRECTORY}",
    "is_invited": "registration, by address: a question to each shard",
    "list_user_orgs": _OF_PERSON,
    "list_membership_orgs": f"a change of an account: {_OF_PERSON}",
    "list_invitation_orgs": f"a change of an account: {_OF_PERSON}",
    "list_run_orgs": f"deletion of an account: {_OF_PERSON}",
    "list_upload_orgs": f"deletion of an account: {_OF_PERSON}",
    "list_all_orgs": "for operators: a page of each shard, merged",
    "find_ledger_orgs": "reconciliation, an operator's command: a question to each shard",
    "is_any_held": "deletion of an account, with the ids of its organizations",
    "list_event_heads": "of the organizations that this process watches, once a second: by shard",
    "list_stopped_runs": "runs of this process, every two seconds: by shard",
    "list_orphaned_runs": _SWEEP,
    "list_retention_orgs": _SWEEP,
    "list_ledger_orgs": _SWEEP,
    "list_provider_key_orgs": _SWEEP,
    "list_unerased": _SWEEP,
    "list_expired_replies": _SWEEP,
    "list_expired_uploads": _SWEEP,
    "list_ended_uploads": _SWEEP,
    "count_unready_versions": _SWEEP,
    "list_due_orgs": _SWEEP,
    "list_ended_versions": _SWEEP,
    "list_orgs_to_embed": _SWEEP,
    "list_large_orgs": _SWEEP,
    "list_open_questions": _SWEEP,
    "list_old_event_orgs": _SWEEP,
    "list_due_webhooks": _SWEEP,
    "list_webhook_orgs": _SWEEP,
    "list_due_erasures": _SWEEP,
    "list_open_erasures": _SWEEP,
    "list_ended_exports": _SWEEP,
}
# Triggers are refused for distributed tables unless told that they stay on their shard.
TRIGGERS = {"orgs.add_allowance": "writes one row of the organization that was inserted"}

_FACTS = {
    "tables": "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
    "columns": """SELECT c.relname, a.attname, format_type(a.atttypid, NULL), a.attnotnull,
        a.atthasdef OR a.attidentity <> '', a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval%'
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relnamespace = 'public'::regnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped""",
    "unique": """SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, ARRAY(
        SELECT a.attname::text FROM unnest(i.indkey[:i.indnkeyatts - 1]) k
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k)
      FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace
      WHERE i.indisunique OR i.indisexclusion""",
    "foreign": """SELECT conrelid::regclass::text, conname, confrelid::regclass::text, ARRAY(
        SELECT ARRAY[a.attname::text, b.attname::text] FROM generate_subscripts(conkey, 1) n
        JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[n]
        JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = confkey[n]),
        confupdtype IN ('c', 'n', 'd'), CASE WHEN confdeltype IN ('n', 'd') THEN ARRAY(
          SELECT a.attname::text FROM unnest(coalesce(nullif(confdelsetcols, '{}'), conkey)) k
          JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k) ELSE '{}' END
      FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace""",
    "triggers": """SELECT tgrelid::regclass::text, tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
      WHERE NOT tgisinternal AND c.relnamespace = 'public'::regnamespace""",
}

Facts = dict[str, list[tuple[Any, ...]]]
Columns = dict[str, str]


async def distributed_tables(connection: AsyncConnection[Any]) -> Columns:
    """Every table that is spread over machines, with the column by which it is."""
    return await tenant_tables(connection) | PERSONAL


async def breaches_of_tables(connection: AsyncConnection[Any]) -> list[str]:
    """All that keeps PostgreSQL from being distributed, one line each, and exceptions for what is not there."""
    columns = await distributed_tables(connection)
    facts = {name: await (await connection.execute(query.encode())).fetchall() for name, query in _FACTS.items()}
    checks = (_placing, _keys, _unique, _foreign, _triggers)
    return [line for check in checks for line in check(facts, columns)] + list(_doors())


def _placing(facts: Facts, columns: Columns) -> Iterator[str]:
    tables = {name for (name,) in facts["tables"]}
    for table in sorted(tables):
        homes = [table in columns, table in REFERENCE, table in LOCAL or table.startswith(tuple(LOCAL_PREFIXES))]
        if sum(homes) != 1:
            yield f"{table}: is in {sum(homes)} of: distributed, reference, local"
    for table in sorted((REFERENCE.keys() | LOCAL.keys()) - tables):
        yield f"{table}: listed, but does not exist"


def _keys(facts: Facts, columns: Columns) -> Iterator[str]:
    for table, column, kind, required, default, counted in facts["columns"]:
        if table not in columns:
            continue
        if column == columns[table] and kind != "uuid":
            yield f"{table}: is placed by a {kind}, not with the others"
        if column == columns[table] and (default or not required):
            yield f"{table}: a row may leave {column} out"
        if counted:
            yield f"{table}: {column} is counted on one machine"


def _unique(facts: Facts, columns: Columns) -> Iterator[str]:
    alone = set()
    for table, index, keys in facts["unique"]:
        if table in columns and columns[table] not in keys:
            alone.add(index)
            if index not in UNIQUE_ALONE:
                yield f"{table}: {index} is unique without {columns[table]}"
    for index in sorted(UNIQUE_ALONE.keys() - alone):
        yield f"{index}: listed, but is no unique index without the organization"


def _foreign(facts: Facts, columns: Columns) -> Iterator[str]:
    for here, name, there, pairs, updates, set_columns in facts["foreign"]:
        if here not in columns:
            if there in columns or (here in REFERENCE and there not in REFERENCE):
                yield f"{here}: the foreign key {name} leads to rows that are on other machines"
        elif there in columns:
            if [columns[here], columns[there]] not in pairs:
                yield f"{here}: the foreign key {name} lacks {columns[here]}"
            if updates or columns[here] in set_columns:
                yield f"{here}: the foreign key {name} would move rows to another machine"
        elif there not in REFERENCE:
            yield f"{here}: the foreign key {name} leads to rows that are on one machine"


def _triggers(facts: Facts, columns: Columns) -> Iterator[str]:
    found = {f"{table}.{name}" for table, name in facts["triggers"] if table in columns}
    yield from (f"{name}: a trigger of a distributed table" for name in sorted(found - TRIGGERS.keys()))
    yield from (f"{name}: listed, but does not exist" for name in sorted(TRIGGERS.keys() - found))


def _doors() -> Iterator[str]:
    """Which functions may look past row-level security is checked against the catalogue elsewhere."""
    without = {name.partition("(")[0] for name in DOORS if "p_org_id " not in name}
    yield from (f"{name}: reads all organizations, and is not listed" for name in sorted(without - ACROSS.keys()))
    yield from (f"{name}: listed, but names its organization or is gone" for name in sorted(ACROSS.keys() - without))


# MongoDB

UNSHARDED = {"migrations": "one document for each migration"}
# Found without an organization by jobs, of which each shard answers a part.
SCANNED = {
    "conversations.user_id_1": "the organizations in which somebody has conversations whose account is deleted",
    "conversations.deleted": "conversations that were deleted and are still to be erased",
}
_ID = "_id_"  # unique on each shard; that it is unique at all is a matter of UUIDv7


async def breaches_of_collections(database: AsyncDatabase[dict[str, Any]]) -> list[str]:
    """All that keeps MongoDB from being sharded by org_id, one line each, and exceptions for what is not there."""
    found, scanned, names = [], set(), set(await database.list_collection_names())
    for name in sorted(names - UNSHARDED.keys()):
        indexes = await database[name].index_information()
        if not any(_supports_shard_key(index) for index in indexes.values()):
            found.append(f"{name}: no index of all documents leads with org_id")
        for index, facts in indexes.items():
            if index == _ID or facts["key"][0][0] == "org_id":
                continue
            scanned.add(f"{name}.{index}")
            if facts.get("unique"):
                found.append(f"{name}: {index} is unique without org_id")
            elif f"{name}.{index}" not in SCANNED:
                found.append(f"{name}: {index} does not lead with org_id")
    found += [f"{name}: listed, but does not exist" for name in sorted(UNSHARDED.keys() - names)]
    return found + [f"{name}: listed, but does not exist" for name in sorted(SCANNED.keys() - scanned)]


def _supports_shard_key(index: dict[str, Any]) -> bool:
    partial = {"partialFilterExpression", "sparse", "collation"} & index.keys()
    return index["key"][0] == ("org_id", 1) and not partial
