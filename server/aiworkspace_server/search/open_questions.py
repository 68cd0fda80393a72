"""Ends the reservations of questions whose server died before it could."""

from datetime import timedelta

import structlog
from sqlalchemy import text

from ..kit.jobs import Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database
from ..kit.timestamps import now
from ..usage.ledger import Ledger

_END = "search.end_open_questions"
_EVERY_HOUR = "37 * * * *"
_ANSWERED = timedelta(minutes=15)  # after which no question is being embedded any more
_LOOKED_BACK = timedelta(days=3)  # in which a server that is down is started again
_MOST = 1000  # in one pass

_LIST = text("SELECT org_id, run_id FROM list_open_questions(:after, :before, :limit)")

log = structlog.get_logger("search")


class OpenQuestions:
    def __init__(self, db: Database, ledger: Ledger) -> None:
        self._db = db
        self._ledger = ledger

    def register(self, jobs: Jobs) -> None:
        jobs.every(_EVERY_HOUR, _END, self.end)

    async def end(self) -> None:
        """Settle what is still reserved for questions that nobody embeds any more."""
        async with self._db.read() as tx:
            time = now()
            values = {"after": time - _LOOKED_BACK, "before": time - _ANSWERED, "limit": _MOST}
            found = (await tx.execute(_LIST, values)).all()
        this = Pass(_END)
        for org_id, question_id in found:
            with this.item(org_id=org_id, question_id=question_id):
                async with self._db.write(org_id) as tx:
                    await self._ledger.settle_left(tx, org_id, question_id)
        if found:
            log.warning("open_questions_ended", count=len(found) - this.failed)
