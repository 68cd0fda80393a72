"""The server's side of the text process."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np
import orjson
import structlog

from ..kit import children
from ..kit.children import Child
from .base import Block, Chunk, Embedded, EmbeddingRefused, EmbeddingUnavailable
from .frames import LENGTHS, pack, pack_texts
from .parts import parts

_SECONDS = 600.0  # for one request, however busy the machine is
_END_SECONDS = 2.0  # until a process whose input has ended is killed
_ATTEMPTS = 2
_WRITE_BYTES = 1 << 20  # handed to the transport at once
# One thread: more would take the cores of the server.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
_ENVIRONMENT = {**dict.fromkeys(_ONE_THREAD, "1"), "TOKENIZERS_PARALLELISM": "false"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TextConfig:
    """How texts are counted and embedded."""

    window: int  # tokens of a chunk, special ones included
    tokenizer: Path | None  # None: every byte of UTF-8 counts as a token
    weights: Path | None = None  # the directory of the built-in model, if it is used


class TextProcess:
    """A child process that splits and embeds, one request at a time in the order of the calls.

    It starts with the first request and, if it dies, again with the next. A request during which it dies is tried once
    more. Cancelling a call gives up its place in the queue; a request in progress is completed and its answer dropped.
    """

    def __init__(self, config: TextConfig, seconds: float = _SECONDS) -> None:
        self._config = config
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._child: Child | None = None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._exchange: asyncio.Task[tuple[dict[str, Any], bytes]] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Return the id of the process; None if none is running."""
        return self._child.pid if self._child and self._child.is_running else None

    async def split(self, text: str, blocks: Sequence[Block]) -> list[Chunk]:
        """Return the chunks of the blocks [start, end) of a text, in order. No chunk crosses a block.

        They cover everything but white space, without overlap, and have at most 4,000 characters and the tokens of the
        window. Raises EmbeddingUnavailable, or EmbeddingRefused if the splitter fails for this text.
        """
        chunks: list[Chunk] = []
        for part in parts(text, blocks):
            begin, end = part[0].start, part[-1].end
            spans = [(piece.start - begin, piece.end - begin) for piece in part]
            headings = [blocks[piece.block][2].get("headings") for piece in part]
            header = {"op": "split", "spans": spans, "headings": headings}
            answer, _ = await self._request(header, text[begin:end].encode("utf-8", "replace"))
            names = answer["headings"]
            chunks += (
                Chunk(begin + start, begin + end, blocks[part[number].block][2], names[number], tokens)
                for start, end, number, tokens in answer["chunks"]
            )
        return chunks

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors of texts by the built-in model, which reads the beginning of those above its window.

        Raises EmbeddingUnavailable, or EmbeddingRefused if the model fails for these texts.
        """
        sizes, body = pack_texts(list(texts))
        answer, vectors = await self._request({"op": "embed", "sizes": sizes}, body)
        return Embedded(np.frombuffer(vectors, "<f4").reshape(answer["shape"]), answer["tokens"])

    async def aclose(self) -> None:
        """End the process. Requests in progress and later ones fail."""
        self._closed = True
        await self._end()

    async def _request(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        await self._turn.acquire()
        # The task has the turn until the answer is read: the next request would get it otherwise.
        self._exchange = asyncio.create_task(self._try(pack(header, body)))
        self._exchange.add_done_callback(self._done)
        answer, vectors = await asyncio.shield(self._exchange)
        if "error" in answer:
            raise EmbeddingRefused(answer["error"])
        return answer, vectors

    def _done(self, exchange: "asyncio.Task[tuple[dict[str, Any], bytes]]") -> None:
        self._turn.release()
        if not exchange.cancelled():
            exchange.exception()  # of a call that was cancelled, nobody else asks for it

    async def _try(self, message: bytes) -> tuple[dict[str, Any], bytes]:
        for _ in range(_ATTEMPTS):
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._ask(message)
            except TimeoutError:
                await self._end(kill=True)
                raise EmbeddingUnavailable(f"the text process gave no answer for {self._seconds:g} s") from None
            except (OSError, EOFError, RuntimeError) as error:  # uvloop's RuntimeError: the pipe is closed
                code = await self._end(kill=True)
                if self._closed:
                    break
                log.error("text_process_died", exit_code=code, error=type(error).__name__)
            except BaseException:  # the next request would read what is left of this answer
                await self._end(kill=True)
                raise
        raise EmbeddingUnavailable("the server is stopping" if self._closed else "the text process died")

    async def _ask(self, message: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a request and return the answer. Raises OSError, EOFError or RuntimeError if the process dies."""
        reader, writer = self._streams or await self._start()
        for at in range(0, len(message), _WRITE_BYTES):
            writer.write(message[at : at + _WRITE_BYTES])
            await writer.drain()
        header, body = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
        return orjson.loads(await reader.readexactly(header)), await reader.readexactly(body)

    async def _start(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._closed:
            raise EOFError
        config = {
            "window": self._config.window,
            "tokenizer": self._config.tokenizer and str(self._config.tokenizer),
            "weights": self._config.weights and str(self._config.weights),
        }
        here, there = socket.socketpair()
        with there:
            # Its standard error is dropped: a panic in Rust may quote the text.
            self._child = children.start(
                f"{__package__}.worker", env=_ENVIRONMENT, stdin=there.fileno(), stdout=there.fileno(), stderr=DEVNULL
            )
        self._streams = reader, writer = await self._child.connect(here)
        if self._closed:  # meanwhile
            raise EOFError
        writer.write(pack(config))
        return reader, writer

    async def _end(self, *, kill: bool = False) -> int | None:
        """End the process, and return its exit code. Its input ends first, unless it is to be killed."""
        child, self._child, self._streams = self._child, None, None
        if child is None:
            return None
        child.close()
        if not kill:
            with suppress(TimeoutError):
                return await asyncio.wait_for(child.wait(), _END_SECONDS)
        with suppress(ProcessLookupError):
            child.kill()
        return await child.wait()
