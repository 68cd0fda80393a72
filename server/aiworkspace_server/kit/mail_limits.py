"""Limits of mail per address, per account and per organization, so that strangers cannot be flooded with mail."""

import hmac
import math
import time
from uuid import UUID

import structlog
from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour
from limits.aio.strategies import FixedWindowRateLimiter

from .errors import RateLimited
from .limits import Counters
from .mail import Mail, Mailer, MailKind

# Per address, over all accounts and organizations. Each kind has its own limits, so that invitations from strangers
# never block a mail that the owner of the address has requested.
_OF_ADDRESS: dict[MailKind, tuple[RateLimitItem, ...]] = {
    MailKind.INVITATION: (RateLimitItemPerHour(3), RateLimitItemPerDay(10)),
    MailKind.CHANGE: (RateLimitItemPerHour(3), RateLimitItemPerDay(10)),
    MailKind.VERIFICATION: (RateLimitItemPerHour(6), RateLimitItemPerDay(20)),
    MailKind.RESET: (RateLimitItemPerHour(6), RateLimitItemPerDay(20)),
    MailKind.NOTICE: (RateLimitItemPerHour(60),),
}
_TAGGED = 4  # factor for all addresses of one mailbox together, which differ only after a "+"
_ONCE = RateLimitItemPerDay(1, 2)  # in two days, which is longer than a mail is retried

log = structlog.get_logger("mail")


class LimitedMailer:
    """Sends mail through another mailer, within limits that hold across processes."""

    def __init__(self, mailer: Mailer, counters: Counters, key: bytes) -> None:
        self._mailer = mailer
        self._counters = counters
        self._key = key

    async def send(self, mail: Mail) -> None:
        """Drop mail above the limit. A retried mail counts once."""
        if await self._hit(_ONCE, "mail", str(mail.id)) and not await self._fits(mail):
            log.warning("mail_limit_reached", mail=str(mail.id), kind=mail.kind)
            return
        await self._mailer.send(mail)

    async def _fits(self, mail: Mail) -> bool:
        local, _, domain = mail.to.rpartition("@")
        mailbox = self._hash(f"{local.partition('+')[0]}@{domain}")
        counted = [
            await self._hit(each, mail.kind, whose)
            for allowed in _OF_ADDRESS[mail.kind]
            for whose, each in ((self._hash(mail.to), allowed), (f"mailbox {mailbox}", _for_mailbox(allowed)))
        ]
        return all(counted)

    def _hash(self, address: str) -> str:
        """Hash the text with a key, so that counters reveal no address."""
        return hmac.digest(self._key, address.encode(), "sha256").hex()

    async def _hit(self, allowed: RateLimitItem, *name: str) -> bool:
        return await self._counters.ask(FixedWindowRateLimiter, lambda limiter: limiter.hit(allowed, "mails", *name))


def _for_mailbox(allowed: RateLimitItem) -> RateLimitItem:
    return type(allowed)(_TAGGED * allowed.amount, allowed.multiples)


class SenderLimit:
    """Limits the invitations per hour of each account and each organization."""

    def __init__(self, counters: Counters, per_hour: int) -> None:
        self._counters = counters
        self._allowed = RateLimitItemPerHour(per_hour, namespace="invitations")

    async def count(self, user_id: UUID, org_id: UUID) -> None:
        """Count an invitation. Raises RateLimited if either has sent too many."""
        for whose in (f"account:{user_id}", f"org:{org_id}"):
            if not await self._hit(whose):
                raise await self._refusal(whose)

    async def _hit(self, whose: str) -> bool:
        return await self._counters.ask(FixedWindowRateLimiter, lambda limiter: limiter.hit(self._allowed, whose))

    async def _refusal(self, whose: str) -> RateLimited:
        window = await self._counters.ask(
            FixedWindowRateLimiter, lambda limiter: limiter.get_window_stats(self._allowed, whose)
        )
        wait = max(1, math.ceil(window.reset_time - time.time()))
        return RateLimited(whose, f"The limit is {self._allowed.amount} invitations per hour; retry in {wait} s.", wait)
