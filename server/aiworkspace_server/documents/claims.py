"""Claims on versions. A worker holds a claim during a step, and stores the result only while the claim is valid.

A claim ends when another worker claims the version, or when the version ends. So a worker that was taken for dead, or
whose document was deleted, changes nothing any more.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from ..kit.postgres import Database, WriteSession
from . import versions
from .models import DocumentStep, DocumentVersion, Reason


class StepFailed(Exception):
    """A step failed for a reason that people are told. `retried`: another attempt may succeed."""

    def __init__(self, reason: Reason, detail: str, *, retried: bool) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retried = retried


class ClaimLost(Exception):
    """Another worker has claimed the version, or it has ended."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A version as it was when a worker claimed it for one step."""

    db: Database
    id: UUID
    version: DocumentVersion

    @property
    def org_id(self) -> UUID:
        return self.version.org_id

    async def check(self) -> None:
        """Raise ClaimLost if nothing must be stored any more."""
        async with self.db.read(self.org_id) as tx:
            if not await versions.is_claimed(tx, self.version.id, self.id):
                raise ClaimLost

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[tuple[WriteSession, DocumentVersion, DocumentStep]]:
        """A transaction during which the claim holds. Raises ClaimLost."""
        async with self.db.write(self.org_id) as tx:
            version = await self.lock(tx)
            yield tx, version, await versions.find_step(tx, version)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[WriteSession]:
        """As `holding`, for what is stored beside the version."""
        async with self.db.write(self.org_id) as tx:
            await self.lock(tx)
            yield tx

    async def lock(self, tx: WriteSession) -> DocumentVersion:
        """Keep the claim until the transaction ends. Raises ClaimLost."""
        version = await versions.lock_claimed(tx, self.version.id, self.id)
        if version is None:
            raise ClaimLost
        return version
