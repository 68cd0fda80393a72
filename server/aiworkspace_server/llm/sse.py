"""Server-sent events, incrementally: bytes in, the data of complete events out."""

_BOM = b"\xef\xbb\xbf"
_LARGEST_EVENT = 1024 * 1024


class SseParser:
    """Takes the bytes of one stream in pieces that may be split anywhere.

    Only `data` is kept: both wire formats repeat the event's name inside it. An event whose blank line never comes is
    no event, as the standard says.
    """

    __slots__ = ("_begun", "_rest", "_skip_newline")

    def __init__(self) -> None:
        self._rest = b""  # the beginning of an event that is not complete
        self._begun = False
        self._skip_newline = False  # the last piece ended between CR and LF, or with a CR alone

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that `piece` completes. Raises ValueError when one event grows beyond 1 MiB."""
        if self._skip_newline or b"\r" in piece:
            piece = self._newlines(piece)
        text = self._rest + piece if self._rest else piece
        end = text.rfind(b"\n\n")
        if end < 0:
            return self._keep(text)
        self._rest = text[end + 2 :]
        if not self._begun:
            self._begun = True
            text = text.removeprefix(_BOM)
            end = text.rfind(b"\n\n")
        return [data for event in text[:end].split(b"\n\n") if (data := _data(event))]

    def _keep(self, text: bytes) -> list[bytes]:
        if len(text) > _LARGEST_EVENT:
            raise ValueError("event too large")
        self._rest = text
        return []

    def _newlines(self, piece: bytes) -> bytes:
        """`piece` with every line end a LF. A CR ends its line at once; a LF that follows it belongs to it."""
        if not piece:
            return piece
        if self._skip_newline:
            piece = piece.removeprefix(b"\n")
        self._skip_newline = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data(event: bytes) -> bytes:
    """The data lines of one event, joined; empty when it has none, as comments and pings."""
    if event.startswith(b"data: ") and b"\n" not in event:  # all but all of them
        return event[6:]
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(line.removeprefix(b" ") for line in lines)
