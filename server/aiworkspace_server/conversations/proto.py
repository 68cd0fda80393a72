"""Conversations and messages in the contract's form.

Messages are sent in parts, since plain gRPC clients refuse responses of more than 4 MiB.
"""

from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import document_pb2

from ..kit.timestamps import timestamp
from ..llm.base import DeltaKind
from ..workspaces.retrieval import retrieval_to_proto
from .models import Citation, Content, Conversation, Message, Omission

KINDS: dict[DeltaKind, pb.ContentKind.ValueType] = {
    "text": pb.CONTENT_KIND_TEXT,
    "thinking": pb.CONTENT_KIND_THINKING,
}
OMISSIONS: dict[str, pb.RetrievalOmission.ValueType] = {
    each: pb.RetrievalOmission.Value(f"RETRIEVAL_OMISSION_{each.name}") for each in Omission
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
        retrieval=retrieval_to_proto(conversation.get("retrieval")),
    )


def citation_to_proto(citation: Citation) -> pb.Citation:
    return pb.Citation(
        start=citation["start"],
        end=citation["end"],
        document_id=str(citation["document_id"]),
        version_id=str(citation["version_id"]),
        version=citation["version"],
        document_name=citation["document_name"],
        place=document_pb2.Place(**citation["place"]),
        quote=citation["quote"],
        quote_start=citation["quote_start"],
        quote_end=citation["quote_end"],
    )


def citation_from_proto(sent: pb.Citation) -> Citation:
    """Return a citation that was sent, so that it can be stored with the answer."""
    return Citation(
        start=sent.start,
        end=sent.end,
        document_id=UUID(sent.document_id),
        version_id=UUID(sent.version_id),
        version=sent.version,
        document_name=sent.document_name,
        place={field.name: list(value) if field.is_repeated else value for field, value in sent.place.ListFields()},
        quote=sent.quote,
        quote_start=sent.quote_start,
        quote_end=sent.quote_end,
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
        citations=map(citation_to_proto, message["citations"]),
        retrieval_omissions=[OMISSIONS[omission] for omission in message["omissions"]],
    )


def part(message: Message, begin: int = 0, most_bytes: int = PART_BYTES) -> tuple[pb.Message, int]:
    """Return the part of a message from character `begin` on, and the character at which the next part begins.

    The latter is 0 for the last part.
    """
    contents: list[Content] = []
    if begin:
        message = {**message, "citations": (), "omissions": ()}
    at, left, end, continues = 0, most_bytes - citations_size(message), 0, False
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


def citations_size(message: Message) -> int:
    """Return an upper bound of the size of the citations of a message, as events and lists send them."""
    return sum(citation_to_proto(citation).ByteSize() + _CONTENT_BYTES for citation in message["citations"])


def _prefix(text: str, size: int) -> str:
    """Return the longest prefix of at most `size` bytes in UTF-8."""
    if size <= 0:
        return ""
    return text if len(text) * 4 <= size else text[:size].encode()[:size].decode(errors="ignore")
