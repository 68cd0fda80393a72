"""Reserves for the attempts of a run and settles them, while the run's claim is this server's."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from ..kit.postgres import WriteSession
from ..kit.stores import retry_until_available
from ..llm.base import ModelRequest, TokenUsage
from ..llm.prices import Price
from ..llm.tokens import bound_input, expect_input
from ..policies.plan import Target
from ..usage import ledger
from ..usage.ledger import Ledger, Spender
from . import claims, rights
from .deps import RunDeps
from .models import ClaimLost, Settlement


class Reservations:
    """Owns what the ledger does not know yet about a run: the settlements of attempts that have ended."""

    def __init__(
        self,
        deps: RunDeps,
        spender: Spender,
        settled: Iterable[Settlement] = (),
        unsettled: Iterable[Settlement] = (),
    ) -> None:
        """`settled` and `unsettled`: attempts of a server that had the run before."""
        self._deps = deps
        self.spender = spender
        self._settled = list(settled)
        self._unsettled = list(unsettled)
        self._last = max((each["number"] for each in (*self._settled, *self._unsettled)), default=1)

    @property
    def settled(self) -> Sequence[Settlement]:
        return self._settled

    @property
    def unsettled(self) -> Sequence[Settlement]:
        return self._unsettled

    @property
    def next_number(self) -> int:
        """The number of the attempt that is reserved next."""
        return self._last + 1

    def ended(self, settlement: Settlement) -> None:
        """Take the settlement of an attempt. It is written before the next reservation, or when the run ends."""
        self._unsettled.append(settlement)

    def abandon(self, unpaid: Sequence[Settlement]) -> None:
        """Take these settlements for attempts that have none, since accounting failed."""
        known = {each["number"] for each in (*self._settled, *self._unsettled)}
        self._unsettled += [each for each in unpaid if each["number"] not in known]

    async def reserve(self, target: Target, request: ModelRequest, time: datetime, *, settle: bool) -> None:
        """Reserve for the attempt `next_number`, after settling those that have ended if `settle`.

        Raise BudgetExhausted, RightLost, or ClaimLost.
        """
        number = self.next_number
        amount, expected = (
            ledger.reservation(target.model, count(request), request.max_output_tokens, time)
            for count in (bound_input, expect_input)
        )
        if settle:
            await self._settle()

        async def reserve() -> None:
            async with self._as_owner() as tx:
                await rights.check(tx, self.spender)
                reserved = await ledger.list_reserved(tx, self.spender.run_id)
                if number not in {entry.attempt for entry in reserved}:  # else a lost reply is being repeated
                    await self._deps.ledger.reserve(
                        tx,
                        self.spender,
                        number,
                        target.model,
                        amount,
                        own_key=target.own_key,
                        time=time,
                        expected_nanos=expected.nanos,
                    )

        await retry_until_available(reserve)
        self._last = number

    async def _settle(self) -> None:
        """Settle each attempt in a transaction of its own: see Ledger."""
        for settlement in list(self._unsettled):

            async def end(settlement: Settlement = settlement) -> None:
                async with self._as_owner() as tx:
                    await end_reservation(tx, self._deps.ledger, self.spender.org_id, self.spender.run_id, settlement)

            await retry_until_available(end)
            self._settled.append(settlement)
            self._unsettled.remove(settlement)

    @asynccontextmanager
    async def _as_owner(self) -> AsyncIterator[WriteSession]:
        """A transaction that holds the run's claim. Raises ClaimLost if another server has taken it over."""
        async with self._deps.db.write(self.spender.org_id, self.spender.user_id) as tx:
            await ledger.count_together(tx, self.spender.org_id)  # before the claim, as in end_run
            if not await claims.hold(tx, self.spender.run_id, self._deps.server_id):
                raise ClaimLost
            yield tx


async def end_reservation(tx: WriteSession, book: Ledger, org_id: UUID, run_id: UUID, settlement: Settlement) -> bool:
    """Settle or release the reservation of an attempt. Return False if it had ended before."""
    usage, cost, number = settlement["usage"], settlement["cost"], settlement["number"]
    if usage is None:
        return await book.release(tx, org_id, run_id, number)
    price = Price(cost["nanos"], cost["version"], cost["currency"])
    return await book.settle(tx, org_id, run_id, number, TokenUsage(**usage), price)
