"""E-mail: subject and addresses, the text, and the names of attachments."""

from email import policy
from email.errors import MessageError
from email.header import decode_header
from email.message import Message
from email.parser import BytesParser

from ..decoding import decode
from ..text import TextBuilder, is_visible, one_line
from . import html, lines

_HEADERS = ("Subject", "From", "To", "Cc", "Date")
_MOST_OF_HEADER = 10_000
_MOST_PARTS = 1_000


def parse(data: bytes, out: TextBuilder) -> None:
    """The plain text is preferred to HTML. A message that is nested too deep is kept as plain text."""
    try:
        # This policy leaves headers as they are. The newer ones take quadratic time for hostile addresses.
        message = BytesParser(policy=policy.compat32).parsebytes(data)
        parts = _parts(message)
    except (RecursionError, MessageError, ValueError, LookupError):
        lines.parse(decode(data), out)
        return
    out.add("\n".join(_header_lines(message)), {})
    names = [name for part in parts if (name := _file_name(part))]
    plain = [part for part in parts if part.get_content_type() == "text/plain" and not _file_name(part)]
    marked_up = [part for part in parts if part.get_content_type() == "text/html" and not _file_name(part)]
    text = "\n\n".join(map(_text, plain))
    out.add(text, {})
    for part in () if is_visible(text) else marked_up:
        html.parse_text(_text(part), out)
    out.add("\n".join(f"Attachment: {name}" for name in names), {})


def _parts(message: Message) -> list[Message]:
    """The leaves of the message in order, without what is inside of attached messages."""
    parts: list[Message] = []
    stack = [message]
    while stack and len(parts) < _MOST_PARTS:
        part = stack.pop()
        if part.get_content_maintype() == "multipart" and isinstance(children := part.get_payload(), list):
            stack.extend(child for child in reversed(children) if isinstance(child, Message))
        else:
            parts.append(part)
    return parts


def _header_lines(message: Message) -> list[str]:
    return [f"{name}: {text}" for name in _HEADERS if (text := _decoded(message.get(name)))]


def _decoded(value: object) -> str:
    """A header as text: words in other encodings decoded, folded lines joined."""
    raw = str(value or "")[:_MOST_OF_HEADER]
    try:
        pieces = decode_header(raw)
    except (MessageError, ValueError):
        return one_line(raw)
    return one_line("".join(piece if isinstance(piece, str) else decode(piece, charset) for piece, charset in pieces))


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
