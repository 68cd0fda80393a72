"""When a delivery is attempted again, as the Standard Webhooks specification recommends."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

# After the first attempt, which is immediate, the second one, and so on: ten attempts within 75 hours.
DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
MOST_WAIT = timedelta(hours=24)  # that an endpoint may ask for
_JITTER = 0.1  # so that what failed together is not repeated together

Uniform = Callable[[float, float], float]


def next_attempt(attempt_count: int, time: datetime, uniform: Uniform = random.uniform) -> datetime | None:
    """Return when to try again after so many attempts, the last of which failed at a time. None: not at all."""
    if attempt_count > len(DELAYS):
        return None
    return time + DELAYS[attempt_count - 1] * uniform(1 - _JITTER, 1 + _JITTER)


def resume_time(retry_after: str, time: datetime) -> datetime | None:
    """Return the time in a Retry-After header of a response that came at `time`; None without a valid one."""
    try:
        if retry_after.isascii() and retry_after.isdigit():
            wanted = time + min(timedelta(seconds=int(retry_after[:9])), MOST_WAIT)
        else:
            wanted = parsedate_to_datetime(retry_after)
        return min(wanted, time + MOST_WAIT) if wanted > time else None
    except (TypeError, ValueError, OverflowError):  # also of a date without a time zone, which cannot be compared
        return None
