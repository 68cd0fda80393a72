"""The interface of model providers: requests, the pieces of an answer, and errors."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

Role = Literal["user", "assistant"]
DeltaKind = Literal["text", "thinking"]
FinishReason = Literal["stop", "length", "content_filter", "refused", "other"]
Effort = Literal["low", "medium", "high"]

# No model reads or writes this much in one request: a larger count is an error of the provider.
_MOST_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a person or a model."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters of an answer. None means the model's default. Providers ignore what they do not support."""

    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class SourceText:
    """A passage of a document that the model may cite. It is data: see `sources`."""

    number: int  # by which the model cites it, from 1
    name: str  # of the document
    place: str  # in its file, for people; empty: unknown
    text: str


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request to one model."""

    model: str  # the provider's own name of it, without the provider
    system: str  # empty: none
    turns: Sequence[Turn]
    max_output_tokens: int
    parameters: Parameters = Parameters()
    request_id: str = ""  # "run/attempt", for the provider's log and bill; empty: none
    sources: Sequence[SourceText] = ()  # for the last turn
    # Called when the first byte of the request is sent: until then the provider cannot charge for it.
    on_sent: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """The next part of the text or of the thinking; never empty."""

    kind: DeltaKind
    text: str
    tokens: int = 1  # an estimate; at least the number of pieces in which the provider sent it


@dataclass(frozen=True, slots=True)
class Cited:
    """The provider says that the text so far is supported by a source, in a form of its own rather than in the text."""

    number: int  # of the source
    quote: str  # words of the source


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one request so far. Each one replaces the previous one.

    Input includes tokens read from and written to the provider's cache; output includes reasoning.
    """

    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool = False  # counted by this server, because the provider reported nothing plausible
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    above_limit: bool = field(default=False, compare=False)  # more than the request allowed

    @property
    def plausible(self) -> bool:
        """Return whether no part is negative or larger than its whole, and no whole is absurd."""
        inputs = (self.cached_input_tokens, self.cache_write_tokens, self.input_audio_tokens)
        outputs = (self.reasoning_tokens, self.output_audio_tokens)
        return (
            min(*inputs, *outputs) >= 0
            and self.cached_input_tokens + self.cache_write_tokens <= self.input_tokens <= _MOST_TOKENS
            and self.input_audio_tokens <= self.input_tokens
            and max(outputs) <= self.output_tokens <= _MOST_TOKENS
        )


@dataclass(frozen=True, slots=True)
class Answering:
    """The provider's id of the answer: it has begun."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider said that the answer is complete. Always the last piece."""

    reason: FinishReason


Piece = Answering | Delta | Cited | TokenUsage | Finish


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """An available model. Prices are nano-USD per million tokens.

    A price is None if it is unknown or depends on the size of the request.
    """

    id: str  # "provider/name"
    provider: str
    name: str
    display_name: str
    context_tokens: int | None = None
    input_price: int | None = None
    cached_input_price: int | None = None
    cache_write_price: int | None = None
    output_price: int | None = None


class ErrorKind(StrEnum):
    """The kinds of failure, as far as they decide what to do next: see `rules`."""

    UNREACHED = "unreached"  # no such host, connection refused or timed out, TLS failed: nothing was sent
    UNAVAILABLE = "unavailable"  # down, overloaded or sending nonsense: another provider may succeed
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"  # the same request will be refused again by the same model
    CONTEXT_TOO_LONG = "context_too_long"
    MODEL_NOT_FOUND = "model_not_found"  # retired, unknown, or not available to this account
    MISCONFIGURED = "misconfigured"  # wrong key or address: only the operator can help
    FORBIDDEN = "forbidden"  # the account may not do this, or a filter in front of the provider refused the content
    QUOTA_EXHAUSTED = "quota_exhausted"  # the account has no credit left
    TIMEOUT = "timeout"  # one of our timeouts
    CUT = "cut"  # the answer began and broke off
    OVERBILLED = "overbilled"  # the answer is complete, and the provider charges for more than was requested


class ProviderError(Exception):
    """An attempt failed. The text is for logs: it may quote the provider, never a key."""

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retry_after: float | None = None,
        status: int | None = None,
        free: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after  # seconds, if the provider gave any
        self.status = status  # HTTP status, if there was one
        self.free = free  # the provider refused the request or was never reached: it cannot have charged for it


class Provider(Protocol):
    """A service that serves models."""

    @property
    def name(self) -> str:
        """Return the part of a model id before the first slash."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        """Yield the answer, one list per network read, with neighbouring deltas of a kind joined.

        A complete answer has at least one TokenUsage and then one Finish as its last piece. Everything else ends in
        ProviderError, after the pieces that came before. Closing the generator closes the connection: iterate inside
        contextlib.aclosing.
        """

    @property
    def away(self) -> bool:
        """Return whether the last request for its list of models failed, so that the list may be outdated."""

    async def models(self) -> Sequence[ModelInfo]:
        """Return the known models. Takes less than a second."""

    async def has(self, model: str) -> bool:
        """Return whether the provider has `model`, by its own name for it, or may have it while that is unknown."""

    def knows(self, model: str) -> bool:
        """Return whether `model` is in the provider's list of models, as far as that is known."""

    def context_tokens(self, model: str) -> int | None:
        """Return the size of a model's context in tokens; None if it is unknown."""

    async def aclose(self) -> None:
        """Close the connections. Streams in progress fail."""


class HostedProvider(Provider, Protocol):
    """A commercial provider, which needs a key."""

    def with_key(self, api_key: str) -> "HostedProvider":
        """Return the provider with another key. Both share connections, so closing this one closes them for both."""

    async def check_key(self) -> None:
        """Request the list of models, which needs a key and is free. Raises ProviderError."""
