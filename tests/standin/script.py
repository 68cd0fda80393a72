"""What the stand-in is told to do."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from aiworkspace_server.llm.base import TokenUsage

Counted = Literal["counted"]
COUNTED: Final = "counted"
Bytes = Literal["bytes"]
BYTES: Final = "bytes"


@dataclass(frozen=True, slots=True)
class HttpError:
    """Answers with an error status instead of a stream. "{key}" in the message becomes the caller's key."""

    status: int
    message: str = "Something went wrong."
    type: str = "invalid_request_error"
    code: str | None = None  # OpenAI's format only
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """Sends an error in the stream after that many tokens, and ends it."""

    after: int
    message: str = "The server had an error while processing your request."
    type: str = "server_error"
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """Falls silent after that many tokens, for ever. With `ping_seconds` it goes on sending pings."""

    after: int
    ping_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Ends after that many tokens without the end mark: the connection breaks, or the body ends as if complete."""

    after: int
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. What the request allows in tokens is kept to."""

    tokens: Sequence[str] = ("Hello", ", ", "world", "!")
    thinking: Sequence[str] = ()  # said before the tokens
    # By the index of a token: the document that it cites, and the words of it. Anthropic's format only.
    cited: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    # counted: words of the request, and a token for each token; bytes: the most that an honest provider can count
    usage: TokenUsage | Counted | Bytes | None = COUNTED
    finish: str = "stop"  # OpenAI's word for it; "length" when the request's limit comes first
    seconds_before: float = 0  # until the response begins
    until: asyncio.Event | None = None  # the response does not begin before it
    seconds_per_token: float = 0
    goes_on: bool = False  # leaves out as much as the assistant has said in the request already
    enough: asyncio.Event | None = None  # once it is set, the rest comes without pauses
    piece_bytes: int | None = None  # the bytes are sent in pieces of this size, whatever they split
    newline: str = "\n"
    fault: HttpError | ErrorEvent | Stall | Cut | None = None
