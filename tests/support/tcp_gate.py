"""A connection to a server that can be cut, slowed down, or made silent, at a chosen moment."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

_RESET = struct.pack("ii", 1, 0)  # close without a word: the kernel sends RST
_PIECE_BYTES = 1 << 16


class TcpGate:
    """Passes everything on to a port of this machine or a socket, in both directions, until it is told otherwise."""

    def __init__(self, target: int | Path, chance: Random | None = None) -> None:
        self.port = 0
        self.target = target
        self.delay: tuple[float, float] | None = None  # the least and the most seconds that bytes are on their way
        self._chance = chance or Random(1)
        self._budget: int | None = None
        self._silent = {"there": False, "back": False}
        self._writers: set[asyncio.StreamWriter] = set()

    def cut_after(self, size: int) -> None:
        """Let so many bytes of the caller through, then close all connections, also new ones."""
        self._budget = size

    def fall_silent(self, *, there: bool = True, back: bool = True) -> None:
        """Keep connections open, and pass nothing on to the server (`there`), nor to its caller (`back`)."""
        self._silent = {"there": there, "back": back}

    def speak(self) -> None:
        """Pass everything on again. Connections on which bytes were lost stay silent: nothing may follow these."""
        self.fall_silent(there=False, back=False)

    def open(self) -> None:
        self._budget = None
        self.speak()
        self.close_all()

    def close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def reset_all(self) -> None:
        """Break all connections, in the middle of whatever is said, on both sides."""
        for writer in self._writers:
            with suppress(OSError, ValueError):  # it is closed already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close_all()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._budget == 0:
            return writer.transport.abort()
        try:
            there_reader, there_writer = await self._open()
        except OSError:
            return writer.transport.abort()
        self._writers |= {writer, there_writer}
        both = self._pass_on("there", reader, there_writer), self._pass_on("back", there_reader, writer)
        try:
            await asyncio.gather(*both)
        except (ConnectionError, OSError):
            pass
        finally:
            for each in (writer, there_writer):
                each.transport.abort()
                self._writers.discard(each)
        return None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pass_on(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lost = False
        late: deque[tuple[float, bytes]] = deque()  # by the time at which the bytes arrive
        sending: asyncio.Task[None] | None = None
        while data := await reader.read(_PIECE_BYTES):
            if way == "there" and self._budget is not None:
                self._budget = max(0, self._budget - len(data))
                if self._budget == 0:
                    return self.close_all()
            lost = lost or self._silent[way]
            if lost:
                continue
            if self.delay:
                late.append((asyncio.get_running_loop().time() + self._chance.uniform(*self.delay), data))
            elif late:
                late.append((0.0, data))
            else:
                writer.write(data)
                await writer.drain()
            if late and (sending is None or sending.done()):
                sending = asyncio.create_task(_send_late(late, writer))
        if sending:
            await sending
        if not (lost or self._silent[way]):
            writer.close()
        return None


async def _send_late(late: deque[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
    while late:
        time, data = late[0]
        await asyncio.sleep(max(0.0, time - asyncio.get_running_loop().time()))
        writer.write(data)
        late.popleft()


@asynccontextmanager
async def tcp_gate(target: int | Path, chance: Random | None = None) -> AsyncIterator[TcpGate]:
    gate = TcpGate(target, chance)
    server = await asyncio.start_server(gate.connect, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        gate.cut_after(0)
        gate.close_all()
        server.close()
