"""What the server asks of a model provider, and the pieces that an answer arrives in."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

Role = Literal["user", "assistant"]
DeltaKind = Literal["text", "thinking"]
FinishReason = Literal["stop", "length", "content_filter", "refused", "other"]
Effort = Literal["low", "medium", "high"]

# No model reads or writes this much in one request: a larger count is a fault, not a bill.
_MOST_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Parameters:
    """How to answer. None, and no stop texts: as the model does by itself. Providers leave out what they cannot do."""

    temperature: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning_effort: Effort | None = None


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One question to one model."""

    model: str  # the provider's own name of it, without the provider
    system: str  # empty: none
    turns: Sequence[Turn]
    max_output_tokens: int
    parameters: Parameters = Parameters()
    request_id: str = ""  # "run/attempt", for the provider's log and bill; empty: none
    # Called when the first byte of the request is sent: until then the provider cannot charge for it.
    on_sent: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Delta:
    """The next part of the text or of the thinking; never empty."""

    kind: DeltaKind
    text: str
    tokens: int = 1  # an estimate, and no fewer than the pieces in which the provider sent it


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one request so far. Each one replaces the one before it.

    Input includes what came from the provider's cache and what was written to it, output includes reasoning.
    """

    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool = False  # counted here, because the provider reported nothing (plausible)
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    above_limit: bool = field(default=False, compare=False)  # it is more than the request allowed

    @property
    def plausible(self) -> bool:
        """Whether no part is negative or larger than its whole, and no whole is absurd."""
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
    """The provider has begun: its own id of the answer."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The provider said that the answer is complete. Always the last piece."""

    reason: FinishReason


Piece = Answering | Delta | TokenUsage | Finish


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that can be asked. Prices are nano-USD for a million tokens.

    A price is None when it is not known or depends on the size of the request.
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
    """What went wrong, as far as it decides what to do next: see `rules`."""

    UNREACHED = "unreached"  # no such host, connection refused or not made in time, TLS failed: nothing was sent
    UNAVAILABLE = "unavailable"  # down, overloaded or talking nonsense: another provider may do better
    RATE_LIMITED = "rate_limited"
    REJECTED = "rejected"  # the same request will be refused again by the same model
    CONTEXT_TOO_LONG = "context_too_long"
    MODEL_NOT_FOUND = "model_not_found"  # retired, never there, or not for this account
    MISCONFIGURED = "misconfigured"  # key or address: only the operator can help
    FORBIDDEN = "forbidden"  # the account may not do this, or a filter in front of the provider refused the content
    QUOTA_EXHAUSTED = "quota_exhausted"  # the account has no credit left
    TIMEOUT = "timeout"  # one of our clocks
    CUT = "cut"  # the answer began and stopped before it was whole
    OVERBILLED = "overbilled"  # the answer is whole, and the provider charges for more than was asked of it


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
        self.retry_after = retry_after  # seconds, when the provider said so
        self.status = status  # HTTP status, when there was one
        self.free = free  # the provider refused the request or was never reached: it cannot have charged for it


class Provider(Protocol):
    """Somebody who runs models."""

    @property
    def name(self) -> str:
        """The part of a model id before the first slash."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[list[Piece], None]:
        """The answer, one list per network read, neighbouring deltas of a kind joined.

        An answer that comes to its end has at least one TokenUsage and then one Finish, as the last piece; everything
        else ends in ProviderError, after the pieces that came before. Closing the generator hangs up on the provider:
        iterate inside contextlib.aclosing.
        """

    @property
    def away(self) -> bool:
        """Whether the last request for its list of models failed, so that the list may be out of date."""

    async def models(self) -> Sequence[ModelInfo]:
        """The models that can be asked, as far as they are known. Takes less than a second."""

    async def has(self, model: str) -> bool:
        """Return whether the provider has `model`, by its own name for it, or may have it while that is unknown."""

    def context_tokens(self, model: str) -> int | None:
        """Tokens that fit into its context. None when that is not known."""

    async def aclose(self) -> None:
        """Closes the connections; streams in progress fail."""


class HostedProvider(Provider, Protocol):
    """A company that sells what models say, to whoever has a key."""

    def with_key(self, api_key: str) -> "HostedProvider":
        """The same provider asked with another key. Connections are shared, so that this one closes them for both."""

    async def check_key(self) -> None:
        """Asks for the list of models, which wants a key and costs nothing. Raises ProviderError."""
