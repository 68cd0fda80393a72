"""Queries on the claims of runs: which server executes a run, and whether it is to be cancelled."""

import asyncio
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, select, text, update

from ..kit.postgres import Database, ReadSession, WriteSession
from .rights import LIST_STOPPED, MAY_RUN, ROLES_THAT_RUN
from .tables import RunClaim

_LIST_LEASES = text("SELECT id, name, lease_end_time FROM servers WHERE id <> :server_id")
_END_LEASE = text("DELETE FROM servers WHERE id = :id AND lease_end_time = :lease_end_time RETURNING id")
_LIST_ORPHANED = text("SELECT org_id, run_id, conversation_id, server_id FROM list_orphaned_runs()")
# Only from a server whose lease was deleted: one that is merely late may still renew it. Of two servers that try at the
# same time the second sees the first one in the row itself, and would not see it in a join.
_TAKE = text(f"""
  UPDATE run_claims SET server_id = :server_id, stop = CASE WHEN {MAY_RUN} THEN stop ELSE 'cancelled' END
  WHERE run_id = :run_id AND state = 'open' AND server_id IS NOT DISTINCT FROM CAST(:dead_id AS uuid)
    AND NOT EXISTS (SELECT FROM servers WHERE id = CAST(:dead_id AS uuid))
  RETURNING stop
""")
_STOP_UNENTITLED = text(f"""
  UPDATE run_claims SET stop = 'cancelled'
  WHERE state = 'open' AND stop IS NULL AND NOT {MAY_RUN}
  RETURNING run_id
""")
_FIND_LEASE = text("""
  SELECT s.id, s.lease_end_time FROM run_claims c JOIN servers s ON s.id = c.server_id
  WHERE c.run_id = :run_id AND c.state = 'open'
""")
_FIND_CLAIM = text("""
  SELECT c.state, c.stop, c.create_time, c.key_id, c.request_id, c.server_id, s.name AS server_name,
         s.start_time AS server_start_time, s.lease_end_time,
         CAST(round(extract(epoch FROM s.lease_end_time - clock_timestamp()), 1) AS float) AS lease_seconds
  FROM run_claims c LEFT JOIN servers s ON s.id = c.server_id
  WHERE c.run_id = :run_id
""")

_LIST_ORGS = text("SELECT list_run_orgs(:user_id)")
_COUNT_SERVERS = text("SELECT greatest(count(*), 1) FROM servers WHERE lease_end_time > clock_timestamp()")

_POLL_SECONDS, _MOST_POLL_SECONDS = 0.02, 0.5

Found = Row[*tuple[Any, ...]]


async def find_request(tx: ReadSession, user_id: UUID, request_id: UUID) -> Row[UUID, bytes] | None:
    """Return run and content hash of an earlier request of this person."""
    same = RunClaim.user_id == user_id, RunClaim.request_id == request_id
    query = select(RunClaim.run_id, RunClaim.content_hash).where(*same)
    return (await tx.execute(query)).one_or_none()


async def hold(tx: WriteSession, run_id: UUID, server_id: UUID) -> bool:
    """Return whether the run is open and this server's, and keep it so until the transaction ends."""
    own = RunClaim.run_id == run_id, RunClaim.server_id == server_id, RunClaim.state == "open"
    return (await tx.execute(select(RunClaim.run_id).where(*own).with_for_update())).first() is not None


async def withdraw(tx: WriteSession, run_id: UUID) -> None:
    """Close the claim of a run that did not start. Its request_id may be used again."""
    await tx.execute(update(RunClaim).where(RunClaim.run_id == run_id).values(state="closed", request_id=None))


async def list_leases(tx: ReadSession, server_id: UUID) -> Sequence[Found]:
    """List the leases of all servers but one: id, name and lease_end_time."""
    return (await tx.execute(_LIST_LEASES, {"server_id": server_id})).all()


async def end_lease(tx: WriteSession, lease: Found) -> bool:
    """Delete a lease. Return False if it was renewed or deleted since it was read."""
    values = {"id": lease.id, "lease_end_time": lease.lease_end_time}
    return (await tx.execute(_END_LEASE, values)).first() is not None


async def count_servers(tx: ReadSession) -> int:
    """Return the number of living servers, this one included."""
    return int((await tx.execute(_COUNT_SERVERS)).scalar_one())


async def list_orphaned(tx: ReadSession) -> Sequence[Found]:
    """List the runs of every tenant that no living server executes: org_id, run_id, conversation_id and server_id."""
    return (await tx.execute(_LIST_ORPHANED)).all()


async def list_stopped(tx: ReadSession, server_id: UUID) -> Sequence[UUID]:
    """List this server's runs, of every tenant, to cancel: on request, or because their owner lost the right."""
    return (await tx.execute(LIST_STOPPED, {"server_id": server_id} | ROLES_THAT_RUN)).scalars().all()


async def take(tx: WriteSession, orphan: Found, server_id: UUID) -> Found | None:
    """Make an orphaned run this server's, to be cancelled if its owner lost the right to it.

    Return None if another server was faster.
    """
    values = {"run_id": orphan.run_id, "dead_id": orphan.server_id, "server_id": server_id}
    return (await tx.execute(_TAKE, values | ROLES_THAT_RUN)).first()


async def release_claim(tx: WriteSession, run_id: UUID, server_id: UUID) -> None:
    """Make a run of this server an orphan, which any server may take over."""
    own = RunClaim.run_id == run_id, RunClaim.server_id == server_id, RunClaim.state == "open"
    await tx.execute(update(RunClaim).where(*own).values(server_id=None))


async def stop(tx: WriteSession, which: ColumnElement[bool]) -> Sequence[UUID]:
    """Request cancellation of the open ones among these runs, and return them."""
    change = update(RunClaim).where(RunClaim.state == "open", which).values(stop="cancelled")
    return (await tx.execute(change.returning(RunClaim.run_id))).scalars().all()


async def stop_unentitled(tx: WriteSession) -> Sequence[UUID]:
    """Request cancellation of the organization's open runs whose owners lost the right, and return them."""
    return (await tx.execute(_STOP_UNENTITLED, ROLES_THAT_RUN)).scalars().all()


async def list_orgs_of(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """List the organizations in which a person has had runs."""
    return (await tx.execute(_LIST_ORGS, {"user_id": user_id})).scalars().all()


async def list_claimed(
    tx: ReadSession, which: ColumnElement[bool], after: UUID | None, limit: int
) -> Sequence[Row[UUID, UUID, datetime]]:
    """List run, conversation and time of claims, ordered by run, from the one that follows `after`."""
    query = select(RunClaim.run_id, RunClaim.conversation_id, RunClaim.create_time).where(which)
    if after:
        query = query.where(RunClaim.run_id > after)
    return (await tx.execute(query.order_by(RunClaim.run_id).limit(limit))).all()


async def forget_contents(tx: WriteSession, run_ids: Collection[UUID]) -> None:
    """Erase closed claims except for what the ledger refers to: ids and times."""
    which = RunClaim.run_id.in_(run_ids), RunClaim.content_hash != b"", RunClaim.state == "closed"
    await tx.execute(update(RunClaim).where(*which).values(content_hash=b""))


async def wait_until_closed(db: Database, org_id: UUID, run_id: UUID) -> None:
    """Wait until a run has ended and is settled, whichever process executes it."""
    seconds = _POLL_SECONDS
    while True:
        async with db.read(org_id) as tx:
            if not await is_open(tx, run_id):
                return
        await asyncio.sleep(seconds)
        seconds = min(seconds * 1.2, _MOST_POLL_SECONDS)


async def is_open(tx: ReadSession, run_id: UUID) -> bool:
    query = select(RunClaim.run_id).where(RunClaim.run_id == run_id, RunClaim.state == "open")
    return (await tx.execute(query)).first() is not None


async def find_lease(tx: ReadSession, run_id: UUID) -> Found | None:
    """Return id and end of the lease of the server that executes the run."""
    return (await tx.execute(_FIND_LEASE, {"run_id": run_id})).first()


async def find_claim(tx: ReadSession, run_id: UUID) -> Found | None:
    """Return the claim of a run, open or closed, with its server and lease if that server is alive."""
    return (await tx.execute(_FIND_CLAIM, {"run_id": run_id})).first()
