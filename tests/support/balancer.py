"""A load balancer for TCP, which leads each new connection to the next of the servers in use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Balancer:
    """`targets` may change at any time; connections stay where they are."""

    def __init__(self, *targets: str) -> None:
        self.targets = list(targets)
        self.address = ""
        self._count = 0

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        host, _, port = self.targets[self._count % len(self.targets)].rpartition(":")
        try:
            there_reader, there_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return writer.transport.abort()
        both = (reader, there_writer), (there_reader, writer)
        await asyncio.gather(*(_pass_on(*each) for each in both))
        return None


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def balancer(*targets: str) -> AsyncIterator[Balancer]:
    found = Balancer(*targets)
    server = await asyncio.start_server(found.connect, "127.0.0.1", 0)
    found.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield found
    server.close()
