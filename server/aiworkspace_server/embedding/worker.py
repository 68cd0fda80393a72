"""The text process: splits texts and runs the built-in model, beside the server's event loop.

It is started by `process.TextProcess`, gets its configuration and then one request after another on standard input, and
answers on standard output. It ends when its standard input does, even in the middle of a request.
"""

import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from .base import SPECIAL_TOKENS, Vectors
from .counting import count_bytes, load_tokenizer, token_counter
from .frames import LENGTHS, pack, unpack_texts
from .model import Ids, Model
from .splitting import Splitter

_NICENESS = 5
_BATCH_TOKENS = 1_024  # of the texts that the model gets at once: 6 MB for the widest matrix

Message = tuple[dict[str, Any], bytes]


class LocalModel:
    """The built-in model and its tokenizer, loaded when they are first used."""

    def __init__(self, directory: Path, window: int) -> None:
        self._model = Model(directory)
        self._tokenizer = load_tokenizer(directory / "tokenizer.json")
        self._tokenizer.enable_truncation(window)

    def embed(self, texts: list[str]) -> tuple[Vectors, int]:
        """Return a row for each text, and the number of tokens read."""
        encoded = [np.array(each.ids, np.int64) for each in self._tokenizer.encode_batch_fast(texts)]
        vectors = np.empty((len(texts), self._model.dimension), np.float32)
        for numbers in _batches(encoded):
            vectors[numbers] = self._model.embed([encoded[number] for number in numbers])
        return vectors, sum(map(len, encoded))


def _batches(encoded: list[Ids]) -> Iterator[list[int]]:
    """Yield the numbers of texts that are embedded together."""
    batch: list[int] = []
    tokens = 0
    for number, ids in enumerate(encoded):
        if batch and tokens + len(ids) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += len(ids)
    if batch:
        yield batch


class Worker:
    """Answers requests."""

    def __init__(self, config: dict[str, Any]) -> None:
        """`config` has the tokenizer's file and the directory of the weights, or null, and the window."""
        tokenizer, self._weights, self._window = config["tokenizer"], config["weights"], config["window"]
        count, special = token_counter(Path(tokenizer)) if tokenizer else (count_bytes, SPECIAL_TOKENS)
        self._splitter = Splitter(count, special, self._window)
        self._model: LocalModel | None = None

    def answer(self, request: dict[str, Any], body: bytes) -> bytes:
        """Return the answer to a request, which is an error if it fails in any way."""
        try:
            return self._split(request, body) if request["op"] == "split" else self._embed(request, body)
        except BaseException as error:  # a panic in Rust is no Exception
            return pack({"error": f"{request['op']} failed: {type(error).__name__}"})  # its text may quote the document

    def _split(self, request: dict[str, Any], body: bytes) -> bytes:
        headings = [self._splitter.heading({"headings": path}) for path in request["headings"]]
        blocks = [(*span, heading) for span, heading in zip(request["spans"], headings, strict=True)]
        chunks = [tuple(cut) for cut in self._splitter.split(body.decode(), blocks)]
        return pack({"chunks": chunks, "headings": headings})

    def _embed(self, request: dict[str, Any], body: bytes) -> bytes:
        if self._model is None:
            self._model = LocalModel(Path(self._weights), self._window)
        vectors, tokens = self._model.embed(unpack_texts(request["sizes"], body))
        return pack({"shape": vectors.shape, "tokens": tokens}, vectors.astype("<f4").tobytes())


def _read(file: BinaryIO) -> Message:
    """Return the next message. Raises EOFError at the end."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        raise EOFError
    header, body = LENGTHS.unpack(lengths)
    return orjson.loads(file.read(header)), file.read(body)


def _read_all(file: BinaryIO, messages: "queue.SimpleQueue[Message]") -> None:
    """Read requests until the server has ended, then end this process: nobody waits for what it does."""
    with suppress(EOFError, ValueError, OSError):
        while True:
            messages.put(_read(file))
    os._exit(0)


def main() -> None:
    # Whatever else writes to standard output would end up in the middle of an answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with suppress(OSError, AttributeError):  # not on Windows
        os.nice(_NICENESS)
    messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_all, args=(sys.stdin.buffer, messages), daemon=True).start()
    worker = Worker(messages.get()[0])
    while True:
        out.write(worker.answer(*messages.get()))
        out.flush()


if __name__ == "__main__":
    main()
