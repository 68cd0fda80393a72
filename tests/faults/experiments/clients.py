"""Clients that vanish, that read nothing, and that send everything twice."""

import asyncio
from contextlib import AsyncExitStack
from random import Random

from aiworkspace.v1 import chat_pb2 as pb
from tests.standin import Script
from tests.support.http2 import unread

from ..asking import Asked, until_deltas
from ..site import Site
from ..trial import Trial, trial, words
from ..verdict import Figures, figures

_SLOW = Script(tokens=words(20), seconds_per_token=0.02)
_READERS = 10
_LONG = Script(tokens=("x" * 4095 + " ",) * 1700)  # 7 MB
_MOST_HELD = 10 * 2**20
_CANCELLED = "run_cancelled"
_ENTRIES = "SELECT kind, count(*) FROM ledger_entries WHERE org_id = %s GROUP BY kind ORDER BY kind"


async def vanish_at_once(site: Site, chance: Random) -> Figures:
    """Some before anything was acknowledged. Everybody comes back later with the same request."""
    async with trial(site) as at:
        for _ in range(30):
            await at.ask(1, _SLOW)
            await asyncio.sleep(chance.random() * 0.02)
            asked, at.asked = at.asked, []
            await at.vanish()
            at.asked = asked
        at.come_back()
        return await figures(at, cut=False)


async def vanish_in_the_middle(site: Site, chance: Random) -> Figures:
    """For so long that the answer ends without them."""
    async with trial(site) as at:
        asked = await at.ask(30, _SLOW)
        await until_deltas(asked, 2)
        await at.vanish()
        await site.standin.quiet()
        at.come_back()
        return await figures(at, cut=False)


async def cancel(site: Site, chance: Random) -> Figures:
    """At any token. The provider has sent as many then, or a few more that were under way: the bill says."""
    async with trial(site) as at:
        stopping = [asyncio.create_task(_cancel_at(at, chance.randint(1, 15))) for _ in range(15)]
        await asyncio.gather(*stopping)
        found = await figures(at)
        found.wrong += [f"{each.run_id} ended with {each.terminal}" for each in at.asked if each.terminal != _CANCELLED]
        return found


async def _cancel_at(at: Trial, token: int) -> None:
    asked = await at.ask(1, Script(tokens=words(1000), seconds_per_token=0.02))
    await until_deltas(asked, token)
    await at.asker.now.chat.CancelRun(pb.CancelRunRequest(run_id=asked[0].run_id))


async def send_a_hundred_times(site: Site, chance: Random) -> Figures:
    async with trial(site) as at:
        (first,) = await at.prepare(1, _SLOW)
        again = [Asked(first.content, first.conversation_id, first.model, first.whole) for _ in range(99)]
        for each in again:
            each.request_id = first.request_id
        at.send(first, *again)
        found = await figures(at, cut=False)
        if len({each.run_id for each in at.asked}) != 1 or len(at.bill) != 1:
            found.wrong.append("it was not one run with one call of the provider")
        entries = await site.rows(_ENTRIES, at.org_id)
        if entries != [("reserve", 1), ("settle", 1)]:
            found.wrong.append(f"its entries are {entries}")
        return found


async def read_nothing(site: Site, chance: Random) -> Figures:
    """Many who follow a long answer and take nothing of it, while it lasts and when it has ended."""
    async with trial(site) as at, AsyncExitStack() as unread_streams:
        at.fault()
        (asked,) = await at.ask(1, _LONG)
        await until_deltas([asked], 1)
        for _ in range(_READERS):
            await _follow_unread(at, asked.run_id, unread_streams)
        await at.settle_down()
        await at.ask(5, _SLOW)
        await at.settle_down()
        if at.slowest > site.end_seconds:
            at.wrong.append(f"others had to wait for {at.slowest:.1f} s")
        before = at.server.resident_bytes
        for _ in range(_READERS):
            await _follow_unread(at, asked.run_id, unread_streams)
        held = await _most_held(at) - before
        if held > _READERS * _MOST_HELD:
            at.wrong.append(f"{_READERS} unread streams hold {held / 2**20:.0f} MiB")
        return await figures(at, cut=False)


async def _follow_unread(at: Trial, run_id: str, streams: AsyncExitStack) -> None:
    path, message = "/aiworkspace.v1.ChatService/StreamRun", pb.StreamRunRequest(run_id=run_id).SerializeToString()
    token = [(b"authorization", f"Bearer {at.asker.now.bearer.token}".encode())]
    await streams.enter_async_context(unread(at.server.address, path, message, token))


async def _most_held(at: Trial) -> int:
    """The greatest memory while others are served."""
    most = 0
    for _ in range(5):
        await at.ask(5, _SLOW)
        await at.settle_down()
        most = max(most, at.server.resident_bytes)
    return most


EXPERIMENTS = {
    "clients vanish at once": vanish_at_once,
    "clients vanish in the middle": vanish_in_the_middle,
    "clients cancel at any token": cancel,
    "clients read nothing": read_nothing,
    "a request is sent a hundred times at once": send_a_hundred_times,
}
