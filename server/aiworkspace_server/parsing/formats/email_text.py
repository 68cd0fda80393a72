"""E-mail: subject and addresses, the text, and the names of attachments."""

from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser
from email.policy import Compat32
from functools import lru_cache

from ..decoding import decode
from ..failures import ParseFailed
from ..text import TextBuilder, is_visible, one_line
from . import html, lines

_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_MOST_OF_HEADER = 10_000
_MOST_PARTS = 1_000


def parse(data: bytes, out: TextBuilder) -> None:
    """All texts in order, of alternatives the plain one. A message that is nested too deep is kept as plain text."""
    try:
        message = BytesParser(policy=_Policy()).parsebytes(data)
        parts = _parts(message)
    except (RecursionError, MessageError, ValueError, LookupError):
        lines.parse(decode(data), out)
        return
    out.add("\n".join(_header_lines(message)), {})
    for part in parts:
        if _is_text(part, "plain"):
            out.add(_text(part), {})
        elif _is_text(part, "html"):
            html.parse_text(_text(part), out)
    names = [name for part in parts if (name := _file_name(part))]
    out.add("\n".join(f"Attachment: {name}" for name in names), {})


class _Policy(Compat32):
    """Leaves headers as they are written. The newer policies take quadratic time for hostile addresses."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        """What is not ASCII is text as well, mostly in UTF-8 (RFC 6532)."""
        return value if value.isascii() else _decoded_bytes(value[:_MOST_OF_HEADER])


@lru_cache(1_000)  # types are asked for again and again
def _decoded_bytes(value: str) -> str:
    data = value.encode(errors="surrogateescape")
    try:
        return decode(data)
    except ParseFailed:  # no text in any encoding
        return data.decode(errors="replace")


def _parts(message: Message) -> list[Message]:
    """The leaves of the message in order, without what is inside of attached messages, and HTML if plain text has it.

    The HTML version may be a whole tree of texts, pictures and attachments.
    """
    parts: list[Message] = []
    stack = [(message, False)]
    while stack and len(parts) < _MOST_PARTS:
        part, has_plain = stack.pop()
        if part.get_content_maintype() == "multipart" and isinstance(payload := part.get_payload(), list):
            children = [child for child in payload if isinstance(child, Message)]
            if part.get_content_type() == "multipart/alternative":
                has_plain |= any(_is_text(child, "plain") and is_visible(_text(child)) for child in children)
            stack.extend((child, has_plain) for child in reversed(children))
        elif not (has_plain and _is_text(part, "html")):
            parts.append(part)
    return parts


def _is_text(part: Message, subtype: str) -> bool:
    """Whether a leaf is to be read, and is no attachment."""
    return part.get_content_type() == f"text/{subtype}" and not _file_name(part)


def _header_lines(message: Message) -> list[str]:
    return [f"{name}: {text}" for name in _HEADERS if (text := _decoded(message.get(name)))]


def _decoded(value: object) -> str:
    """A header as text: words in other encodings decoded, folded lines joined."""
    raw = str(value or "")[:_MOST_OF_HEADER]
    try:
        pieces = decode_header(raw)
    except (MessageError, ValueError):
        return one_line(raw)
    # Outside of encoded words, decode_header escapes what is not ASCII. The codec would also unescape "C:\\users".
    plain = "latin-1" if raw.isascii() else "raw-unicode-escape"
    texts = (
        piece if isinstance(piece, str) else decode(piece, charset) if charset else piece.decode(plain, "replace")
        for piece, charset in pieces
    )
    return one_line("".join(texts))


def _file_name(part: Message) -> str:
    name = part.get_filename()
    if not name and part.get_content_type() == "message/rfc822" and isinstance(inner := part.get_payload(), list):
        name = _decoded(inner[0].get("Subject")) if isinstance(inner[0], Message) else None
    if not name and part.get_content_disposition() == "attachment":
        name = part.get_content_type()
    return _decoded(name)


def _text(part: Message) -> str:
    data = part.get_payload(decode=True)
    charset = part.get_content_charset()
    return decode(data, charset) if isinstance(data, bytes) else ""
