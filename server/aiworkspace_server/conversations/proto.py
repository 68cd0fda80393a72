"""Conversations and messages in the contract's form.

Messages are sent in parts, since plain gRPC clients refuse responses of more than 4 MiB.
"""

from aiworkspace.v1 import chat_pb2 as pb

from ..kit.timestamps import timestamp
from ..llm.base import DeltaKind
from .models import Content, Conversation, Message

KINDS: dict[DeltaKind, pb.ContentKind.ValueType] = {
    "text": pb.CONTENT_KIND_TEXT,
    "thinking": pb.CONTENT_KIND_THINKING,
}
_ROLES = {"user": pb.MESSAGE_ROLE_USER, "assistant": pb.MESSAGE_ROLE_ASSISTANT}

PART_BYTES = 3 * 2**20
_CONTENT_BYTES = 16  # overhead of one piece of content beside its text


def kind_name(kind: pb.ContentKind.ValueType) -> DeltaKind:
    return "thinking" if kind == pb.CONTENT_KIND_THINKING else "text"


def conversation_to_proto(conversation: Conversation) -> pb.Conversation:
    return pb.Conversation(
        conversation_id=str(conversation["_id"]),
        workspace_id=str(conversation["workspace_id"]),
        title=conversation["title"],
        model=conversation["model"],
        active_run_id=str(conversation["active_run_id"] or ""),
        create_time=timestamp(conversation["create_time"]),
        update_time=timestamp(conversation["update_time"]),
        etag=str(conversation["version"]),
    )


def message_to_proto(message: Message) -> pb.Message:
    return pb.Message(
        message_id=str(message["message_id"]),
        conversation_id=str(message["conversation_id"]),
        run_id=str(message["run_id"]),
        role=_ROLES[message["role"]],
        contents=[pb.Content(kind=KINDS[content["kind"]], text=content["text"]) for content in message["contents"]],
        state=pb.MESSAGE_STATE_PARTIAL if message["partial"] else pb.MESSAGE_STATE_COMPLETE,
        model=message["model"],
        create_time=timestamp(message["create_time"]),
    )


def part(message: Message, begin: int = 0, most_bytes: int = PART_BYTES) -> tuple[pb.Message, int]:
    """Return the part of a message from character `begin` on, and the character at which the next part begins.

    The latter is 0 for the last part.
    """
    contents: list[Content] = []
    at, left, end, continues = 0, most_bytes, 0, False
    for content in message["contents"]:
        text = content["text"][max(0, begin - at) :]
        skipped = len(content["text"]) - len(text)
        at += len(content["text"])
        if not text:
            continue
        continues = continues or (not contents and skipped > 0)
        fitting = _prefix(text, left - _CONTENT_BYTES)
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


def _prefix(text: str, size: int) -> str:
    """Return the longest prefix of at most `size` bytes in UTF-8."""
    if size <= 0:
        return ""
    return text if len(text) * 4 <= size else text[:size].encode()[:size].decode(errors="ignore")
