"""Links of a server that are slow, break, or fall silent, under a steady load of calls."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any

from tests.support.tcp_gate import TcpGate

from ..links import NAMES, links
from ..load import load
from ..site import Site
from ..trial import trial
from ..verdict import Figures, figures

Fault = Callable[[TcpGate, Random], Awaitable[None]]

_SILENT_SECONDS = 7.0  # longer than a lease
_SLOW_SECONDS = 6.0
_DELAY = (0.02, 0.2)  # there and again on the way back
_RESETS, _MOST_SECONDS_BETWEEN = 6, 1.0
# A connection on which bytes were lost is silent for good. The server gives up a statement after 30 seconds, and has to
# try again what it was about; callers notice after 40, by their pings, that their connection is dead.
_RECOVERY_SECONDS = {"clients": 60.0}
_OTHERS_RECOVERY_SECONDS = 45.0


async def slow(gate: TcpGate, chance: Random) -> None:
    gate.delay = _DELAY
    await asyncio.sleep(_SLOW_SECONDS)
    gate.delay = None


async def reset(gate: TcpGate, chance: Random) -> None:
    for _ in range(_RESETS):
        gate.reset_all()
        await asyncio.sleep(chance.random() * _MOST_SECONDS_BETWEEN)


async def fall_silent(gate: TcpGate, chance: Random, *, there: bool = True, back: bool = True) -> None:
    gate.fall_silent(there=there, back=back)
    await asyncio.sleep(_SILENT_SECONDS)
    gate.speak()


async def half_open(gate: TcpGate, chance: Random) -> None:
    there = bool(chance.getrandbits(1))
    await fall_silent(gate, chance, there=there, back=not there)


async def break_link(name: str, fault: Fault, site: Site, chance: Random) -> Figures:
    async with links(site, chance) as broken:
        gate = broken.gates[name]
        settings = {"provider_first_token_seconds": 5, "provider_idle_seconds": 3}
        async with trial(site, settings | dict(broken.settings), gate=broken.gates["clients"]) as at:
            async with load(at) as working:
                await working.begun()
                await asyncio.sleep(chance.random())
                await fault(gate, chance)
                at.fault()  # from here on nothing is broken but what does not recover
                await working.settled()
            gate.close_all()  # so that the provider notices the end of what it was asked on dead connections
            return await figures(at, died=True, most_seconds=_RECOVERY_SECONDS.get(name, _OTHERS_RECOVERY_SECONDS))


_FAULTS: dict[str, Fault] = {
    "slow": slow,
    "reset again and again": reset,
    "silent": fall_silent,
    "silent in one direction": half_open,
}

EXPERIMENTS: dict[str, Any] = {
    f"link to {title}: {how}": partial(break_link, name, fault)
    for name, title in NAMES.items()
    for how, fault in _FAULTS.items()
}
