"""What the strictest providers refuse of a request, gathered from all of them."""

from itertools import pairwise
from typing import Any

from .bill import texts_in

_LONGEST = 1024 * 1024


def violation(body: dict[str, Any]) -> str:
    """The first rule that the request breaks, in the words of the provider that has it; empty when it breaks none."""
    system = [body["system"]] if "system" in body else []
    messages = body["messages"]
    if messages and messages[0]["role"] == "system":  # OpenAI's format
        system, messages = [messages[0]["content"]], messages[1:]
    roles = [message["role"] for message in messages]
    texts = [*system, *(text for message in messages for text in texts_in(message["content"]) if text)]
    if not roles:
        return "messages: at least one message is required"
    if "system" in roles:
        return "system messages are only allowed at the beginning"
    if roles[0] != "user":
        return "messages: first message must use the user role"
    if roles[-1] != "user":
        return "This model does not support assistant message prefill"
    if any(one == two for one, two in pairwise(roles)):
        return "does not support successive user or assistant messages"
    if not all(text.strip() for text in texts):
        return "text content blocks must contain non-whitespace text"
    if any("\0" in text for text in texts):
        return "unsupported Unicode escape sequence"
    if any(len(text) > _LONGEST for text in texts):
        return "string too long"
    return ""
