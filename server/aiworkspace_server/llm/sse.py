"""Server-sent events, incrementally: bytes in, the data of complete events out."""

import orjson

_BOM = b"\xef\xbb\xbf"
_ERROR = (b"event: error", b"event:error")
_LARGEST_EVENT = 14 * 2**20  # some servers send the whole answer in one event


class SseParser:
    """Takes the bytes of one stream in pieces that may be split anywhere.

    Only `data` is kept: both wire formats repeat the event's name inside it. An event without its final blank line is
    dropped, as the standard says, unless the caller takes the rest.
    """

    __slots__ = ("_begun", "_rest", "_skip_newline")

    def __init__(self) -> None:
        self._rest = bytearray()  # the beginning of an incomplete event
        self._begun = False
        self._skip_newline = False  # the last piece ended between CR and LF, or with a CR alone

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that `piece` completes. Raises ValueError if an event exceeds 14 MiB."""
        if self._skip_newline or b"\r" in piece:
            piece = self._newlines(piece)
        if b"\n\n" not in piece and not (piece.startswith(b"\n") and self._rest.endswith(b"\n")):
            return self._keep(piece)
        text = bytes(self._rest) + piece if self._rest else piece
        end = text.rfind(b"\n\n")
        self._rest = bytearray(text[end + 2 :])
        if not self._begun:
            self._begun = True
            text = text.removeprefix(_BOM)
            end = text.rfind(b"\n\n")
        return [data for event in text[:end].split(b"\n\n") if (data := _data(event))]

    def rest(self) -> bytes:
        """Return the data of an incomplete event, for streams that end without a blank line."""
        rest, self._rest = bytes(self._rest), bytearray()
        return _data(rest.removeprefix(_BOM).rstrip(b"\n"))

    def _keep(self, piece: bytes) -> list[bytes]:
        self._rest += piece
        if len(self._rest) > _LARGEST_EVENT:
            raise ValueError("event too large")
        return []

    def _newlines(self, piece: bytes) -> bytes:
        """Return the piece with every line end as LF. A CR ends its line at once; a LF after it belongs to it."""
        if not piece:
            return piece
        if self._skip_newline:
            piece = piece.removeprefix(b"\n")
        self._skip_newline = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(event: bytes) -> bytes:
    """Return the data lines of one event, joined; empty for comments and pings."""
    if event.startswith(b"data: ") and b"\n" not in event:  # nearly all of them
        return event[6:]
    name, _, line = event.partition(b"\n")
    if name.startswith(b"event:") and name not in _ERROR and line.startswith(b"data: ") and b"\n" not in line:
        return line[6:]
    lines = event.split(b"\n")
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:") or line == b"data")
    if data and any(name in lines for name in _ERROR) and b'"error"' not in data:
        return _as_error(data)
    return data


def _as_error(data: bytes) -> bytes:
    """Return the data of an error event as JSON with an error field, where only the event's name says so."""
    try:
        return orjson.dumps({"error": orjson.loads(data)})
    except orjson.JSONDecodeError:
        return orjson.dumps({"error": {"message": data.decode("utf-8", "replace")}})
