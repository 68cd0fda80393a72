"""What an erasure found, what went and what stayed: counted in every table and collection, before and after it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Executable, func, select, table, text

from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..runs import claims
from ..runs.tables import RunClaim

POSTGRESQL, MONGODB = "postgresql", "mongodb"


class Counted(NamedTuple):
    """How many rows or documents there are."""

    store: str
    name: str  # of the table or collection
    rows: int


class Line(NamedTuple):
    """One line of a receipt."""

    store: str
    name: str
    erased: int
    kept: int
    reason: str  # why something is kept


_TABLES = text("""
  SELECT c.relname FROM pg_class c
  WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND (c.relname = 'orgs' OR EXISTS (
    SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('org_id', 'chain_id')))
  ORDER BY 1
""")
# Everything that belongs to an organization.
COLLECTIONS = (
    "conversations",
    "runs",
    "run_events",
    "document_texts",
    "documents.files",
    "documents.chunks",
    "documents.writes",
)
# The tables that name people, and whose a row is.
OF_PERSON = {
    "api_keys": ":user_id IN (user_id, creator_id)",
    "audit_events": "user_id = :user_id",
    "audit_origins": "sequence IN (SELECT e.sequence FROM audit_events e WHERE e.user_id = :user_id)",
    "budget_windows": "subject_id = :user_id",
    "budgets": "subject_id = :user_id",
    "documents": "user_id = :user_id",
    "erasures": ":user_id IN (user_id, requester_id)",
    "exports": "user_id = :user_id",
    "invitations": ":user_id IN (accepter_id, inviter_id)",
    "ledger_entries": "user_id = :user_id",
    "memberships": "user_id = :user_id",
    "provider_keys": "creator_id = :user_id",
    "run_claims": "user_id = :user_id",
    "team_members": "user_id = :user_id",
    "uploads": "user_id = :user_id",
    "usage_rollups": "user_id = :user_id",
    "workspace_members": "user_id = :user_id",
}
# A statement for each table, so that none takes long.
_COUNT_OF_PERSON = {name: text(f"SELECT count(*) FROM {name} WHERE {where}") for name, where in OF_PERSON.items()}

_BATCH = 500

_LEDGER = "The ledger refers to it. Only ids, times and amounts are in it."
_BILLED = "What was used has to be billed. Only ids, times and amounts are in it."
_LOG = "The log of what was done. Only ids, times and codes are in it."
# Why rows stay when an organization is erased.
KEPT = {
    "orgs": _LEDGER,
    "workspaces": _LEDGER,
    "run_claims": _LEDGER,
    "ledger_entries": _BILLED,
    "usage_rollups": _BILLED,
    "audit_heads": _LOG,
    "audit_events": _LOG,
    "audit_resources": _LOG,
    "erasures": "This receipt.",
}
_OF_ORG = "It belongs to the organization. Only the id of the person is in it."
# Why rows that name a person stay when the person is erased.
KEPT_OF_PERSON = {
    **{name: _OF_ORG for name in ("api_keys", "documents", "invitations", "provider_keys")},
    **{name: KEPT[name] for name in ("run_claims", "ledger_entries", "usage_rollups", "audit_events", "erasures")},
    "budget_windows": _BILLED,
    "budgets": _OF_ORG,
    "exports": "Deleted, with their bytes. Rows go when no server can still be writing them.",
}
_OLD_LOG = (
    "{} of them, written by a release that could not erase them, still have address and user agent: their hashes are"
    " made of these."
)
_COUNT_OLD = text("""
  SELECT count(*) FROM audit_events
  WHERE (address <> '' OR user_agent <> '') AND address NOT LIKE 'hmac-sha256:%'
    AND (CAST(:user_id AS uuid) IS NULL OR user_id = :user_id)
""")


class Receipts:
    def __init__(self, db: Database, mongo: Mongo) -> None:
        self._db = db
        self._mongo = mongo

    async def count(self, org_id: UUID, user_id: UUID | None) -> list[Counted]:
        """Count what there is of an organization, or of a person in it."""
        async with self._db.read(org_id) as tx:
            if user_id:
                counts: Mapping[str, Executable] = _COUNT_OF_PERSON
            else:
                counts = {name: _count_all(name) for name in (await tx.execute(_TABLES)).scalars()}
            found = [
                Counted(POSTGRESQL, name, (await tx.execute(count, {"user_id": user_id})).scalar_one())
                for name, count in counts.items()
            ]
        if user_id:
            conversations = await self._mongo.tenant("conversations", org_id).count({"user_id": user_id})
            runs = await self._count_runs(org_id, user_id)
            return [*found, Counted(MONGODB, "conversations", conversations), Counted(MONGODB, "runs", runs)]
        for name in COLLECTIONS:
            found.append(Counted(MONGODB, name, await self._mongo.tenant(name, org_id).count({})))
        return found

    async def _count_runs(self, org_id: UUID, user_id: UUID) -> int:
        """Count the runs of a person by their claims, which stay: MongoDB has no index of runs by person."""
        runs, count, after = self._mongo.tenant("runs", org_id), 0, None
        while True:
            async with self._db.read(org_id) as tx:
                claimed = await claims.list_claimed(tx, RunClaim.user_id == user_id, after, _BATCH)
            if not claimed:
                return count
            count += await runs.count({"_id": {"$in": [claim.run_id for claim in claimed]}})
            after = claimed[-1].run_id

    async def write(self, org_id: UUID, user_id: UUID | None, found: Iterable[Sequence[Any]]) -> list[Line]:
        """Return the receipt of an erasure that began with what was found."""
        before = {(store, name): rows for store, name, rows in found}
        reasons = dict(KEPT_OF_PERSON if user_id else KEPT)
        async with self._db.read(org_id) as tx:
            old = (await tx.execute(_COUNT_OLD, {"user_id": user_id})).scalar_one()
        if old:
            reasons["audit_events"] += " " + _OLD_LOG.format(old)
        return [
            Line(store, name, max(before.get((store, name), 0) - kept, 0), kept, reasons.get(name, "") if kept else "")
            for store, name, kept in await self.count(org_id, user_id)
        ]


def _count_all(name: str) -> Executable:
    return select(func.count()).select_from(table(name))
