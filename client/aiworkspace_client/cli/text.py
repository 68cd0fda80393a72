"""Standard streams in any state: other encodings, closed streams, broken pipes."""

import codecs
import io
import os
import sys

# Characters that the terminal cannot show are written as \uXXXX, so that nothing of an answer is lost.
_UNSHOWN = "backslashreplace"
# Bytes that are invalid in the terminal's encoding are kept and decoded when all input has been read.
_UNREAD = "surrogateescape"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotTextError(Exception):
    """The input is not text."""


def prepare_streams() -> None:
    """Make reading and writing work with every encoding. Closed streams become empty ones.

    The descriptors of closed streams are occupied, too: otherwise output could go into a connection.
    """
    # They live as long as the process.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    for stream, errors in ((sys.stdin, _UNREAD), (sys.stdout, _UNSHOWN), (sys.stderr, _UNSHOWN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def read_all() -> str:
    """Return all of standard input: UTF-8, UTF-16 with a byte-order mark, or the locale's encoding."""
    return _decoded(sys.stdin.buffer.read())


def read_line() -> str:
    """Return the next line of standard input without its end."""
    return typed(sys.stdin.readline()).rstrip("\r\n").removeprefix("\ufeff")


def typed(text: str) -> str:
    """Return typed text. Raises NotTextError for bytes that are not text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _decoded(text.encode(sys.stdin.encoding, _UNREAD))
    return text


def shows_everything() -> bool:
    """Return whether standard output has a character for everything."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def _decoded(data: bytes) -> str:
    encodings = ["utf-16"] if data.startswith(_UTF_16) else ["utf-8-sig", sys.stdin.encoding]
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            pass
    raise NotTextError(f"Standard input is not {encodings[0].removesuffix('-sig').upper()} text.")
