"""What PostgreSQL's catalogue says about isolation: every breach of its rules, in words.

A table belongs to tenants when it has a column org_id or chain_id or stands in TENANTS. Every other one has to be in
GLOBAL with the reason why no organization owns its rows. So a new table is held against the rules without being named.
"""

from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from aiworkspace_server.kit.postgres import APP_ROLE

LOOKUP_ROLE = "aiworkspace_lookup"

# The column that says whose a row is, where that is not org_id or, in the audit log, chain_id.
TENANTS = {"orgs": "id"}
# Rows of one person: bound by app.user_id as those of an organization are by app.org_id.
PERSONAL = {"replies": "user_id"}
GLOBAL = {
    "users": "people are found by their address before anybody is signed in, and are members of many organizations",
    "sessions": "of a person, in all organizations alike",
    "email_tokens": "of a person; found by a token before anybody is signed in",
    "former_addresses": "of people, by a hash of an address that no account has",
    "alembic_version": "the schema's own",
    "embedding_generations": "names of models and their dimensions",
    "operators": "people who run the server, for all organizations",
    "servers": "the processes of this server, which work for all organizations",
}
# Jobs are the server's own work for all tenants; a job names its organization in its arguments.
GLOBAL_PREFIX = "procrastinate_"

# Indexes that do not lead with the tenant: each finds a row before its tenant is known.
LEADING_ELSEWHERE = {
    "memberships_user": "the organizations of a person",
    "workspaces_id_key": "the organization of a workspace",
    "api_keys_secret_hash_key": "the key of a secret",
    "invitations_email": "whether somebody who registers is invited",
    "invitations_accepter": "the organizations that have invited somebody whose account is deleted",
    "run_claims_user": "the organizations in which somebody has had runs whose account is deleted",
    "documents_id_key": "the organization of a document",
    "collections_id_key": "the organization of a collection",
    "uploads_id_key": "the organization of an upload",
    "uploads_user": "the organizations in which somebody uploads",
    "uploads_expire_time": "uploads that have expired, whosever they are",
    "uploads_end_time": "uploads that were given up, whosever they are",
    "document_versions_due_time": "organizations with documents to read",
    "document_versions_end_time": "versions that have ended, whosever they are",
    "document_versions_unready": "how many versions are not ready, whosever they are",
    "ledger_entries_questions": "questions whose reservation nobody ended, whosever they are",
    "erasures_id_key": "the organization of an erasure, also when it is gone",
    "erasures_due": "erasures that are due or in progress, whosever they are",
    "events_create_time": "events that were kept for long enough, whosever they are",
    "replies_time": "answers that were kept for long enough, whosever they are",
}
# Rows that are written once and never changed.
APPEND_ONLY = ("ledger_entries", "audit_events", "audit_resources")

# Functions that look past row-level security, and whether the server calls them (or one of them does).
DOORS = {
    "find_principal(p_session_id uuid)": True,
    "find_api_key(p_secret_hash bytea)": True,  # by servers of the release before
    "find_key(p_secret_hash bytea)": True,
    "is_invited(p_email text)": True,
    "find_workspace(p_workspace_id uuid, p_user_id uuid)": True,
    "list_user_orgs(p_user_id uuid, p_after uuid, p_limit integer)": True,
    "list_all_orgs(p_operator_id uuid, p_suspended boolean, p_after uuid, p_limit integer)": True,
    "list_retention_orgs()": True,
    "is_any_held(p_org_ids uuid[])": True,
    "list_orphaned_runs()": True,
    "may_run(p_org_id uuid, p_workspace_id uuid, p_user_id uuid, p_key_id uuid, p_administering text[],"
    " p_sending text[], p_sending_inside text[])": True,
    "may_read_documents(p_org_id uuid, p_workspace_id uuid, p_user_id uuid, p_key_id uuid, p_administering text[],"
    " p_reading text[], p_reading_inside text[])": True,
    "list_stopped_runs(p_server_id uuid, p_administering text[], p_sending text[], p_sending_inside text[])": True,
    "list_ledger_orgs()": True,
    "find_ledger_orgs(p_run_ids uuid[])": True,
    "list_provider_key_orgs()": True,
    "list_unerased(p_before timestamp with time zone)": True,
    "list_membership_orgs(p_user_id uuid)": True,
    "list_invitation_orgs(p_user_id uuid)": True,
    "list_run_orgs(p_user_id uuid)": True,
    "list_expired_replies(p_before timestamp with time zone, p_limit integer)": True,
    "find_document(p_id uuid)": True,
    "find_collection(p_id uuid)": True,
    "find_upload(p_id uuid, p_user_id uuid)": True,
    "list_expired_uploads(p_before timestamp with time zone, p_limit integer)": True,
    "list_ended_uploads(p_before timestamp with time zone, p_limit integer)": True,
    "list_upload_orgs(p_user_id uuid)": True,
    "count_unready_versions()": True,
    "list_due_orgs(p_before timestamp with time zone, p_limit integer)": True,
    "list_ended_versions(p_before timestamp with time zone, p_limit integer)": True,
    "list_orgs_to_embed(p_generation integer, p_limit integer)": True,
    "list_large_orgs(p_least bigint, p_limit integer)": True,
    "list_open_questions(p_after timestamp with time zone, p_before timestamp with time zone, p_limit integer)": True,
    "list_event_heads(p_org_ids uuid[])": True,
    "list_old_event_orgs(p_before timestamp with time zone, p_limit integer)": True,
    "list_due_webhooks(p_before timestamp with time zone)": True,
    "list_webhook_orgs()": True,
    "find_erasure(p_id uuid)": True,
    "list_due_erasures(p_before timestamp with time zone, p_limit integer)": True,
    "list_open_erasures(p_before timestamp with time zone, p_limit integer)": True,
    "list_ended_exports(p_before timestamp with time zone, p_now timestamp with time zone, p_limit integer)": True,
    "active_memberships(p_user_id uuid)": False,
}

_ORG = "(NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid"
_PERSON = "(NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid"
# The comparisons that let PostgreSQL use an index: the column as it is, and not a cast of it.
CONDITIONS = {
    **{column: f"({column} = {_ORG})" for column in ("org_id", "id")},
    "chain_id": f"(chain_id = ANY (ARRAY[{_ORG}, {_PERSON}]))",
    "user_id": f"(user_id = {_PERSON})",
}

_TABLES = """
WITH tables AS (
  SELECT c.oid, c.relname AS name, c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
         coalesce(%(owned)s::jsonb ->> c.relname, (
           SELECT max(a.attname::text) FROM pg_attribute a
           WHERE a.attrelid = c.oid AND a.attname IN ('org_id', 'chain_id'))) AS tenant
  FROM pg_class c
  WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
), tenants AS (
  SELECT * FROM tables WHERE tenant IS NOT NULL
), policies AS (
  SELECT p.*, t.tenant, %(conditions)s::jsonb ->> t.tenant AS wanted
  FROM pg_policies p JOIN tenants t ON t.name = p.tablename AND p.schemaname = 'public'
)
"""

# Each gives one line per breach.
RULES = (
    """SELECT format('%%s: neither a tenant''s nor listed as global', name) FROM tables
       WHERE tenant IS NULL AND name <> ALL (%(global)s) AND NOT starts_with(name, %(prefix)s)""",
    """SELECT format('%%s: a view or foreign table passes row-level security by', relname) FROM pg_class
       WHERE relnamespace = 'public'::regnamespace AND relkind IN ('v', 'm', 'f')""",
    "SELECT format('%%s: row-level security is not enabled', name) FROM tenants WHERE NOT enabled",
    "SELECT format('%%s: row-level security is not forced on the owner', name) FROM tenants WHERE NOT forced",
    """SELECT format('%%s: has no policy for the server', name) FROM tenants
       WHERE NOT EXISTS (SELECT FROM policies WHERE tablename = name AND roles = ARRAY[%(app)s::name])""",
    """SELECT format('%%s: the policy %%s does not compare %%s with the setting', tablename, policyname, tenant)
       FROM policies WHERE roles = ARRAY[%(app)s::name]
         AND (qual IS DISTINCT FROM wanted OR coalesce(with_check, wanted) <> wanted OR cmd <> 'ALL')""",
    """SELECT format('%%s: the policy %%s lets %%s pass', tablename, policyname, roles) FROM policies
       WHERE roles <> ARRAY[%(app)s::name] AND (roles <> ARRAY[%(lookup)s::name] OR cmd <> 'SELECT')""",
    """SELECT format('%%s: has no primary key', name) FROM tenants
       WHERE NOT EXISTS (SELECT FROM pg_index WHERE indrelid = tenants.oid AND indisprimary)""",
    """SELECT format('%%s: the index %%s does not lead with %%s', name, indexrelid::regclass, tenant)
       FROM tenants JOIN pg_index ON indrelid = tenants.oid
       LEFT JOIN pg_attribute a ON a.attrelid = indrelid AND a.attnum = indkey[0]
       WHERE a.attname IS DISTINCT FROM tenant AND indexrelid::regclass::text <> ALL (%(elsewhere)s)""",
    """SELECT format('%%s: the foreign key %%s reaches across organizations', here.name, conname)
       FROM pg_constraint f JOIN tenants here ON here.oid = conrelid JOIN tenants there ON there.oid = confrelid
       WHERE contype = 'f' AND NOT EXISTS (
         SELECT FROM generate_subscripts(conkey, 1) n
         JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = conkey[n] AND a.attname = here.tenant
         JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = confkey[n] AND b.attname = there.tenant)""",
    """SELECT format('%%s: %%s is no foreign key to %%s', here.name, a.attname, there.name)
       FROM tenants here JOIN pg_attribute a ON a.attrelid = here.oid AND a.attnum > 0
       JOIN tenants there ON a.attname = rtrim(there.name, 's') || '_id' AND a.attname <> here.tenant
       WHERE here.tenant = 'org_id' AND NOT EXISTS (
         SELECT FROM pg_constraint WHERE contype = 'f' AND conrelid = here.oid AND confrelid = there.oid
           AND a.attnum = ANY (conkey))""",
    """SELECT format('%%s: owned by the server', relname) FROM pg_class
       WHERE relowner IN (%(app)s::regrole, %(lookup)s::regrole)""",
    """SELECT format('%%s: the server may %%s', name, privilege) FROM tables,
         unnest(ARRAY['TRUNCATE', 'REFERENCES', 'TRIGGER']) privilege
       WHERE has_table_privilege(%(app)s, oid, privilege)""",
    """SELECT format('%%s: the server may %%s what is written once', name, privilege) FROM tables,
         unnest(ARRAY['UPDATE', 'DELETE']) privilege
       WHERE name = ANY (%(append_only)s)
         AND (has_table_privilege(%(app)s, oid, privilege) OR has_any_column_privilege(%(app)s, oid, 'UPDATE'))""",
    """SELECT format('%%s: the lookup functions may write', name) FROM tables
       WHERE has_table_privilege(%(lookup)s, oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')""",
    """SELECT format('%%s: everybody may %%s', relname, privilege_type)
       FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'public'::regnamespace AND grantee = 0""",
    """SELECT format('%%s.%%s: everybody may %%s', attrelid::regclass, attname, privilege_type)
       FROM pg_attribute JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
       WHERE relnamespace = 'public'::regnamespace AND grantee = 0""",
    """SELECT format('schema %%s: %%s may create in it', nspname, role) FROM pg_namespace,
         unnest(ARRAY['public', %(app)s, %(lookup)s]) role
       WHERE nspname = 'public' AND has_schema_privilege(role, oid, 'CREATE')""",
    """SELECT format('%%s: is not bound', rolname) FROM pg_roles WHERE rolname IN (%(app)s, %(lookup)s)
         AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication OR rolcanlogin
              OR EXISTS (SELECT FROM pg_auth_members WHERE member = pg_roles.oid))""",
)

_DOORS = """
SELECT format('%%s(%%s)', proname, pg_get_function_arguments(oid)), proowner::regrole::text, proconfig,
       has_function_privilege('public', oid, 'EXECUTE'), has_function_privilege(%(app)s, oid, 'EXECUTE')
FROM pg_proc WHERE prosecdef AND pronamespace = 'public'::regnamespace
"""


async def tenant_tables(connection: AsyncConnection[Any]) -> dict[str, str]:
    """Every table of tenants, with the column that says whose a row is."""
    cursor = await connection.execute(_TABLES.encode() + b"SELECT name, tenant FROM tenants", _parameters(TENANTS))
    return dict(await cursor.fetchall())


async def breaches(connection: AsyncConnection[Any]) -> list[str]:
    """All that is wrong with the schema, one line each."""
    found = []
    for rule in RULES:
        cursor = await connection.execute(f"{_TABLES}{rule}".encode(), _parameters(TENANTS | PERSONAL))
        found += [line for (line,) in await cursor.fetchall()]
    return found + await _breaches_of_doors(connection)


async def _breaches_of_doors(connection: AsyncConnection[Any]) -> list[str]:
    cursor = await connection.execute(_DOORS.encode(), _parameters({}))
    doors = {name: facts for name, *facts in await cursor.fetchall()}
    found = [f"{name}: a function that nobody declared looks past row-level security" for name in doors.keys() - DOORS]
    found += [f"{name}: declared, but does not exist" for name in DOORS.keys() - doors.keys()]
    for name, (owner, configuration, everybody, server) in doors.items():
        if owner != LOOKUP_ROLE:
            found.append(f"{name}: works as {owner}")
        if configuration != ["search_path=public, pg_temp"]:
            found.append(f"{name}: its search_path is not fixed")
        if everybody or server != DOORS.get(name, server):
            found.append(f"{name}: {'everybody' if everybody else 'the wrong role'} may call it")
    return found


def _parameters(owned: dict[str, str]) -> dict[str, Any]:
    return {
        "app": APP_ROLE,
        "lookup": LOOKUP_ROLE,
        "owned": Jsonb(owned),
        "conditions": Jsonb(CONDITIONS),
        "global": list(GLOBAL),
        "prefix": GLOBAL_PREFIX,
        "elsewhere": list(LEADING_ELSEWHERE),
        "append_only": list(APPEND_ONLY),
    }
