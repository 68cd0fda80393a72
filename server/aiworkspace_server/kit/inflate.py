"""Decodes the Content-Encoding of a response without inflating more than was asked for."""

import zlib
from collections.abc import Iterator

_STEP_BYTES = 256 << 10


class UnsupportedEncoding(Exception):
    """The encoding is none of those that were offered, or the data is not encoded in it."""


class Inflater:
    """Decodes gzip, deflate or nothing."""

    def __init__(self, encoding: str) -> None:
        """`encoding` is the header, which may be empty. Raises UnsupportedEncoding."""
        name = encoding.strip().lower()
        if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise UnsupportedEncoding
        self._plain = name in ("", "identity")
        self._deflate = name == "deflate"
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what the data decodes to, in steps of at most 256 KiB. Raises UnsupportedEncoding."""
        if self._plain:
            yield data
            return
        if not self._begun and self._deflate:
            # Some servers send raw deflate, others the zlib format, whose first byte has 8 in its lower half.
            self._decoder = zlib.decompressobj(zlib.MAX_WBITS if data[:1] and data[0] & 15 == 8 else -zlib.MAX_WBITS)
        self._begun = True
        while data and not self._decoder.eof:
            try:
                yield self._decoder.decompress(data, _STEP_BYTES)
            except zlib.error:
                raise UnsupportedEncoding from None
            data = self._decoder.unconsumed_tail

    def finish(self) -> None:
        """Raise UnsupportedEncoding if the end is missing."""
        if self._begun and not self._decoder.eof:
            raise UnsupportedEncoding
