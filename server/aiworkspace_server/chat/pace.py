"""Whether the process has time to send every token in a message of its own."""

import time

_BUSY_SHARE = 0.7


class Pace:
    """Measures how much of one core the process used of late.

    A message costs more than the token in it. While there is time every token goes out at once; when there is none,
    those of up to `gather_seconds` share a message.
    """

    gather_seconds = 0.04

    def __init__(self) -> None:
        self.busy = False
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def measure(self) -> None:
        """To be called a few times a second."""
        wall, cpu = time.monotonic(), time.process_time()
        self.busy = cpu - self._cpu > _BUSY_SHARE * (wall - self._wall)
        self._wall, self._cpu = wall, cpu
