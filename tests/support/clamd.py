"""A stand-in for clamd: its protocol, and one signature."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# In two parts, so that no scanner finds this file.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class Clamd:
    """Answers INSTREAM as clamd does. `answer` replaces what it says, None keeps it silent."""

    def __init__(self, stream_max_length: int) -> None:
        self.address = ""
        self.received = bytearray()
        self.largest_chunk = 0
        self.answer: bytes | None = b""
        self.takes_nothing = False
        self.gone_after: int | None = None
        self._stream_max_length = stream_max_length

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received.clear()
        try:
            said = await self._take(reader)
            if said is None:
                await asyncio.Event().wait()
            elif said:
                writer.write(said + b"\0")
                await writer.drain()
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader) -> bytes | None:
        if await reader.readexactly(10) != b"zINSTREAM\0":
            return b"UNKNOWN COMMAND"
        if self.takes_nothing:
            return None
        while size := int.from_bytes(await reader.readexactly(4), "big"):
            self.largest_chunk = max(self.largest_chunk, size)
            if len(self.received) + size > self._stream_max_length:
                return b"INSTREAM size limit exceeded. ERROR"
            self.received += await reader.readexactly(size)
            if self.gone_after is not None and len(self.received) > self.gone_after:
                return b""
        if self.answer != b"":
            return self.answer
        return b"stream: Eicar-Test-Signature FOUND" if EICAR in self.received else b"stream: OK"


@asynccontextmanager
async def clamd(*, stream_max_length: int = 25 << 20, socket: Path | None = None) -> AsyncIterator[Clamd]:
    standin = Clamd(stream_max_length)
    if socket:
        server = await asyncio.start_unix_server(standin.serve, socket)
        standin.address = str(socket)
    else:
        server = await asyncio.start_server(standin.serve, "127.0.0.1", 0)
        standin.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield standin
    server.close()
