"""Standard streams of every kind: other encodings, closed ones, pipes that nobody reads."""

import codecs
import io
import os
import sys

# Nothing of an answer is lost where it cannot be shown: what the terminal has no character for is written as \uXXXX.
_UNSHOWN = "backslashreplace"
# Bytes that are no text in the terminal's encoding, kept to be looked at once they are all there.
_UNREAD = "surrogateescape"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class NotTextError(Exception):
    """What was typed or piped in is no text."""


def prepare_streams() -> None:
    """Make reading and writing survive every encoding. Closed streams become empty ones.

    The descriptors of closed streams are taken, too: a connection that got one of them would be written into.
    """
    # They live as long as the process.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream, errors in ((sys.stdin, _UNREAD), (sys.stdout, _UNSHOWN), (sys.stderr, _UNSHOWN)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def read_all() -> str:
    """Return everything on standard input: UTF-8, UTF-16 with its mark, or what the locale says."""
    return _decoded(sys.stdin.buffer.read())


def read_line() -> str:
    """Return the next line of standard input without its end."""
    return typed(sys.stdin.readline()).rstrip("\r\n").removeprefix("\ufeff")


def typed(text: str) -> str:
    """Return what a person typed, or raise NotTextError for bytes that are no text."""
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
    raise NotTextError(f"Standard input is no {encodings[0].removesuffix('-sig').upper()} text.")
