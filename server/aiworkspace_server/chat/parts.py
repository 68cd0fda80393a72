"""Messages in parts, since plain gRPC clients take no response of more than 4 MiB."""

from aiworkspace.v1 import chat_pb2 as pb

from .events import message_to_proto
from .models import Content, Message

PART_BYTES = 3 * 2**20
_CONTENT_BYTES = 16  # that a piece of content takes besides its text


def part(message: Message, begin: int = 0) -> tuple[pb.Message, int]:
    """The part of a message that begins after so many characters, and where the next one begins; 0: there is none."""
    contents: list[Content] = []
    at, left, end, continues = 0, PART_BYTES, 0, False
    for content in message["contents"]:
        text = content["text"][max(0, begin - at) :]
        skipped = len(content["text"]) - len(text)
        at += len(content["text"])
        if not text:
            continue
        continues = continues or (not contents and skipped > 0)
        fitting = _beginning(text, left - _CONTENT_BYTES)
        if fitting:
            contents.append({"kind": content["kind"], "text": fitting})
        if len(fitting) < len(text):
            end = at - len(text) + len(fitting)
            break
        left -= _CONTENT_BYTES + len(fitting.encode())
    found = message_to_proto({**message, "contents": contents})
    found.more_contents = end > 0
    if continues:
        found.contents[0].continues = True
    return found, end


def _beginning(text: str, size: int) -> str:
    """As much of the text as takes no more than so many bytes."""
    if size <= 0:
        return ""
    return text if len(text) * 4 <= size else text[:size].encode()[:size].decode(errors="ignore")
