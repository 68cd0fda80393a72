"""Messages in parts: one response holds at most 4 MiB."""

from aiworkspace.v1.chat_pb2 import Message


class WholeMessages:
    """Joins the parts of messages."""

    def __init__(self) -> None:
        self._begun: Message | None = None

    def take(self, item: Message) -> Message | None:
        """Return the whole message, or None while parts of it are missing."""
        whole = join(self._begun, item) if self._begun is not None else item
        self._begun = whole if item.more_contents else None
        return None if item.more_contents else whole


def join(begun: Message, part: Message) -> Message:
    """Return the message with its next part appended."""
    whole = Message()
    whole.CopyFrom(begun)
    contents = list(part.contents)
    if contents and contents[0].continues and whole.contents:
        whole.contents[-1].text += contents.pop(0).text
    whole.contents.extend(contents)
    whole.more_contents = part.more_contents
    return whole
