"""A connection to a server that can be cut, or made silent, at a chosen moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpGate:
    """Passes everything on to a port of this machine, in both directions, until it is told otherwise."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._budget: int | None = None
        self._silent = False
        self._writers: set[asyncio.StreamWriter] = set()

    def cut_after(self, size: int) -> None:
        """Let so many bytes of the caller through, then close all connections, also new ones."""
        self._budget = size

    def fall_silent(self) -> None:
        """Keep connections open, and pass nothing on."""
        self._silent = True

    def open(self) -> None:
        self._budget, self._silent = None, False
        self.close_all()

    def close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._budget == 0:
            return writer.transport.abort()
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers |= {writer, there_writer}
        both = self._pass_on(reader, there_writer, counting=True), self._pass_on(there_reader, writer, counting=False)
        try:
            await asyncio.gather(*both)
        except ConnectionError:
            pass
        finally:
            for each in (writer, there_writer):
                each.transport.abort()
                self._writers.discard(each)
        return None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counting: bool) -> None:
        while data := await reader.read(1 << 16):
            if counting and self._budget is not None:
                self._budget = max(0, self._budget - len(data))
                if self._budget == 0:
                    return self.close_all()
            if self._silent:
                continue
            writer.write(data)
            await writer.drain()
        writer.close()
        return None


@asynccontextmanager
async def tcp_gate(port: int) -> AsyncIterator[TcpGate]:
    gate = TcpGate(port)
    server = await asyncio.start_server(gate.connect, "127.0.0.1", 0)
    gate.port = server.sockets[0].getsockname()[1]
    yield gate
    gate.cut_after(0)
    gate.close_all()
    server.close()
