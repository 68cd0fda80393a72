"""Rules of the audit log: how entries are chained, and how a change is detected."""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any
from uuid import UUID

import orjson

from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from . import store
from .models import AuditEvent

# All columns except the hash itself.
_HASHED = [column.name for column in AuditEvent.__table__.columns if column.name != "hash"]
# From where a call came. Entries have digests of it with a salt, and the salt is erased together with the rest.
_ORIGIN = ("address", "user_agent")
_SEAL = "hmac-sha256:"
_SALT_BYTES = 16


class Chain:
    """Chains entries with a key, without which no valid hash can be computed."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def hash(self, before: bytes, entry: Mapping[str, Any]) -> bytes:
        """Return the hash of an entry, given by its columns, that follows the entry with the hash `before`."""
        content = orjson.dumps([entry[name] for name in _HASHED], option=orjson.OPT_SORT_KEYS | orjson.OPT_NAIVE_UTC)
        return hmac.digest(self._key, before + content, "sha256")

    def seal(self, name: str, salt: bytes, value: str) -> str:
        """Return what an entry has of the address or user agent of its caller. Only salts have a fixed length."""
        return _SEAL + hmac.digest(self._key, f"{name} ".encode() + salt + value.encode(), "sha256").hex()

    async def append(self, tx: WriteSession, chain_id: UUID, entry: Mapping[str, Any]) -> None:
        """Append an entry. Must come last in a transaction, because it locks the log until the commit."""
        await tx.flush()
        head = await store.lock_head(tx, chain_id)
        time = max(now(), head.create_time or now())
        values = {**entry, "chain_id": chain_id, "sequence": head.sequence + 1, "create_time": time}
        salt = token_bytes(_SALT_BYTES) if entry["address"] or entry["user_agent"] else None
        if salt:
            values |= {name: self.seal(name, salt, entry[name]) for name in _ORIGIN}
        values["hash"] = self.hash(head.hash, values)
        ids = resource_ids(entry["resources"])
        values |= {"resources": orjson.dumps(entry["resources"]).decode(), "resource_ids": ids, "salt": salt}
        await store.append(tx, values | {f"origin_{name}": entry[name] for name in _ORIGIN})


def recorded_origin(event: AuditEvent) -> tuple[str, str]:
    """Return address and user agent in an entry without an origin: empty, but in entries of earlier releases."""
    return ("", "") if event.address.startswith(_SEAL) else (event.address, event.user_agent)


def resource_ids(resources: Mapping[str, str]) -> list[UUID]:
    return sorted(map(UUID, set(resources.values())))


@dataclass(frozen=True, slots=True)
class Noted:
    """Number and hash of an entry that the caller noted earlier."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Break:
    """The first entry that is not as it was written."""

    sequence: int
    problem: str


class Verification:
    """Checks a chain from its first entry, batch by batch, keeping only the last hash."""

    def __init__(self, chain: Chain, last: int, last_hash: bytes, greatest: int, noted: Noted | None) -> None:
        """`last` and `last_hash` are those of the head, `greatest` is the greatest number of an entry."""
        self._chain = chain
        self.last = last
        self._last_hash = last_hash
        self._greatest = greatest
        self._noted = noted
        self._hash = b""
        self.checked = 0  # number of the last correct entry

    def check(self, rows: Sequence[Any]) -> Break | None:
        """Check the next rows of store.list_forward. Return the first break, if there is one."""
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
        if not self._is_origin(row):
            return "The entry is not of a call from this address and user agent."
        if row.ids != resource_ids(row.resources):
            return "The entry is not found by the ids that it is about."
        noted = self._noted
        if noted and noted.sequence == row.sequence and noted.hash.lower() != row.hash.hex():
            return "The entry is not the one that was noted: the log was rewritten."
        return ""

    def _is_origin(self, row: Any) -> bool:
        """Return whether the call came from where the log says; also if that was erased."""
        if row.salt is None:
            return True
        sealed = (self._chain.seal(name, row.salt, getattr(row, f"origin_{name}")) for name in _ORIGIN)
        return len(row.salt) == _SALT_BYTES and [*sealed] == [getattr(row, name) for name in _ORIGIN]

    def end(self) -> Break | None:
        """Check the end of the chain, after all rows. Return the break, if there is one."""
        if self.checked < self.last:
            return Break(self.checked + 1, "The entry is missing.")
        if self._last_hash != self._hash:
            return Break(self.last, "The entry is not the one that the log ends with.")
        if self._greatest > self.last:
            return Break(self.last + 1, "The entry was added beyond the end of the log.")
        if self._noted and self._noted.sequence > self.last:
            return Break(self.last + 1, "The entry is missing: the log had more entries when it was noted.")
        return None
