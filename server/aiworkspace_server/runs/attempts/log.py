"""Keeps the records of a run's attempts, which are stored with the run: the AI log."""

import asyncio
from dataclasses import dataclass, field

from ...kit.stores import retry_until_available
from ..models import AttemptRecord
from ..store import RunStore
from ..streams.local import LocalRun
from .attempt import Attempt


@dataclass(slots=True)
class AttemptLog:
    """The attempts of one run.

    The first attempt is stored with the run and all of them with its end. In between they are stored when another
    attempt begins; the run does not wait for that until its end.
    """

    store: RunStore
    run: LocalRun
    _attempts: list[Attempt] = field(default_factory=list)
    _saving: asyncio.Task[None] | None = None

    def add(self, attempt: Attempt) -> None:
        self._attempts.append(attempt)
        if attempt.number > 1:
            self._update()
            self._saving = asyncio.create_task(self._save(self._saving))

    async def finish(self) -> None:
        """Wait for what is being stored, and bring the records in the run's document up to date."""
        if self._saving:
            await self._saving
        self._update()

    def close(self) -> None:
        if self._saving:
            self._saving.cancel()

    async def _save(self, before: asyncio.Task[None] | None) -> None:
        if before:
            await before
        await retry_until_available(lambda: self.store.save_attempts(self.run.document))

    def _update(self) -> None:
        records = {record["number"]: record for record in self.run.document["attempts"]}
        records |= {attempt.number: attempt.record() for attempt in self._attempts}
        self.run.document["attempts"] = sorted(records.values(), key=_number)


def _number(record: AttemptRecord) -> int:
    return record["number"]
