"""Rules of the log: how entries are chained, and how it is found that somebody changed one."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from . import store
from .models import AuditEvent

# All columns but the hash itself.
_HASHED = [column.name for column in AuditEvent.__table__.columns if column.name != "hash"]


class Chain:
    """Chains entries with a key, without which nobody can make a hash that fits."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def hash(self, before: bytes, entry: Mapping[str, Any]) -> bytes:
        """Hash of an entry, given by its columns, that follows the entry with the hash `before`."""
        content = orjson.dumps([entry[name] for name in _HASHED], option=orjson.OPT_SORT_KEYS | orjson.OPT_NAIVE_UTC)
        return hmac.digest(self._key, before + content, "sha256")

    async def append(self, tx: WriteSession, chain_id: UUID, entry: Mapping[str, Any]) -> None:
        """Adds an entry to a log, which is locked from here to the commit: to be called last in a transaction."""
        await tx.flush()
        head = await store.lock_head(tx, chain_id)
        time = max(now(), head.create_time or now())
        values = {**entry, "chain_id": chain_id, "sequence": head.sequence + 1, "create_time": time}
        values["hash"] = self.hash(head.hash, values)
        ids = resource_ids(entry["resources"])
        await store.append(tx, {**values, "resources": orjson.dumps(entry["resources"]).decode(), "resource_ids": ids})


def resource_ids(resources: Mapping[str, str]) -> list[UUID]:
    return sorted(map(UUID, set(resources.values())))


@dataclass(frozen=True, slots=True)
class Noted:
    """What somebody wrote down of a log at an earlier time."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """The first place where a log is not as it was written."""

    sequence: int
    problem: str


class Verification:
    """Follows a chain from its first entry, batch by batch, and holds no more of it than the last hash."""

    def __init__(self, chain: Chain, last: int, last_hash: bytes, greatest: int, noted: Noted | None) -> None:
        """Number and hash with which the log says that it ends, and the greatest number of an entry."""
        self._chain = chain
        self.last = last
        self._last_hash = last_hash
        self._greatest = greatest
        self._noted = noted
        self._hash = b""
        self.checked = 0  # number of the last entry that is as it should be

    def check(self, rows: Sequence[Any]) -> Break | None:
        """Takes the rows that follow, of store.list_forward. Returns what is wrong with the first that is wrong."""
        for row in rows:
            if self.checked == self.last:
                break
            if problem := self._problem(row):
                return Break(self.checked + 1, problem)
            self.checked, self._hash = row.sequence, row.hash
        return None

    def _problem(self, row: Any) -> str:
        if row.sequence != self.checked + 1:
            return (
                "The entry is missing." if row.sequence > 0 else f"An entry with the number {row.sequence} was added."
            )
        if self._chain.hash(self._hash, row._mapping) != row.hash:
            return "The entry is not the one that was written here."
        if row.ids != resource_ids(row.resources):
            return "The entry is not found by the ids that it is about."
        noted = self._noted
        if noted and noted.sequence == row.sequence and noted.hash.lower() != row.hash.hex():
            return "The entry is not the one that was noted: the log was written anew."
        return ""

    def end(self) -> Break | None:
        """To be called when all rows were checked."""
        if self.checked < self.last:
            return Break(self.checked + 1, "The entry is missing.")
        if self._last_hash != self._hash:
            return Break(self.last, "The entry is not the one that the log ends with.")
        if self._greatest > self.last:
            return Break(self.last + 1, "The entry was added beyond the end of the log.")
        if self._noted and self._noted.sequence > self.last:
            return Break(self.last + 1, "The entry is missing: more were there when it was noted.")
        return None
