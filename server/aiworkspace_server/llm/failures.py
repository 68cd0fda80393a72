"""What goes wrong with a provider, as ProviderError: which kind, when to try again, and no keys in the text."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from .base import ErrorKind, ProviderError

_LONGEST_MESSAGE = 300
# Providers quote keys whole, masked in the middle, or in part.
_KEYLIKE = re.compile(r"\S*\*{3,}\S*|\b(?:sk|pk|key)-[\w-]+|\bBearer\s+\S+", re.IGNORECASE)
_REDACTED = "[redacted]"
_UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_FRAGMENT = 6  # characters in a row of a key that count as a part of it

# OpenAI's code, llama.cpp's type, then the wordings of OpenAI, DeepSeek and vLLM, Anthropic, llama.cpp.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|prompt is too long"
    r"|exceeds? (?:the )?(?:available )?context|request_too_large",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient_quota|billing_error|credit balance is too low|insufficient balance", re.IGNORECASE
)

# Errors inside a stream have no status: these are the ones their names stand for.
_STATUS_OF = {
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "request_too_large": 413,
}


class Failures:
    """Makes the ProviderErrors of one provider."""

    def __init__(self, provider: str, secrets: Iterable[str]) -> None:
        self._provider = provider
        self._secrets = [secret for secret in secrets if len(secret) >= _FRAGMENT]

    def from_status(self, status: int, headers: Mapping[str, str], body: object) -> ProviderError:
        """An answer with an error status."""
        names, text = _read(body)
        kind = _kind(status, f"{names} {text}")
        # Whoever refuses a key quotes it. What the status says is enough there.
        said = names if kind is ErrorKind.MISCONFIGURED else f"{names}: {text}"
        return self._error(kind, f"status {status}: {said}", retry_after(headers), status, free=True)

    def from_event(self, body: object) -> ProviderError:
        """An error event in the middle of a stream."""
        names, text = _read(body)
        status = next((_STATUS_OF[name] for name in names.split() if name in _STATUS_OF), 500)
        return self._error(_kind(status, f"{names} {text}"), f"error in the stream: {names}: {text}")

    def from_connection(self, error: BaseException) -> ProviderError:
        """No answer at all. The transport calls a lost connection a timeout too: what lies below tells them apart.

        What was lost after it was made may have carried the request to somebody who works on it.
        """
        causes = list(_causes(error))
        kind = ErrorKind.TIMEOUT if any(isinstance(cause, TimeoutError) for cause in causes) else ErrorKind.UNAVAILABLE
        unreached = any(isinstance(cause, _UNREACHED) for cause in causes)
        return self._error(kind, f"no connection: {type(causes[-1]).__name__}", free=unreached)

    def cut(self, why: str) -> ProviderError:
        return self._error(ErrorKind.CUT, f"the stream ended without its end mark: {why}")

    def unreadable(self, error: Exception) -> ProviderError:
        """An event that is not what the wire format promises. The event itself may hold what the model said."""
        return self._error(ErrorKind.UNAVAILABLE, f"unreadable event: {type(error).__name__}")

    def interrupted(self, reason: str) -> ProviderError:
        return self._error(ErrorKind.UNAVAILABLE, f"the provider gave up: {reason}")

    def _error(
        self,
        kind: ErrorKind,
        message: str,
        retry_after: float | None = None,
        status: int | None = None,
        *,
        free: bool = False,
    ) -> ProviderError:
        text = redact(f"{self._provider}: {message[: 2 * _LONGEST_MESSAGE]}", self._secrets)[:_LONGEST_MESSAGE]
        return ProviderError(kind, text, retry_after=retry_after, status=status, free=free)


def _read(body: object) -> tuple[str, str]:
    """(code and type, message) of an error body, whichever of the usual shapes it has."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", error if isinstance(error, str) else ""
    names = [name for key in ("code", "type") if isinstance(name := error.get(key), str)]
    message = error.get("message")
    return " ".join(names), message if isinstance(message, str) else ""


def _kind(status: int, text: str) -> ErrorKind:
    if status in (401, 402, 403) or status < 400 or _NO_MONEY.search(text):
        return ErrorKind.MISCONFIGURED
    if status == 413 or (status != 429 and _TOO_LONG.search(text)):
        return ErrorKind.CONTEXT_TOO_LONG
    if status == 429:
        return ErrorKind.RATE_LIMITED
    return ErrorKind.REJECTED if status < 500 and status not in (408, 409, 425) else ErrorKind.UNAVAILABLE


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait: milliseconds, seconds or a date, in this order of preference."""
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without the secrets, the words that hold a part of one, and whatever else looks like a key."""
    text = _KEYLIKE.sub(_REDACTED, text)
    for secret in secrets:
        words = re.split(r"(\s+)", text.replace(secret, _REDACTED))
        text = "".join(_REDACTED if _quotes(word, secret) else word for word in words)
    return text


def _quotes(word: str, secret: str) -> bool:
    return any(word[at : at + _FRAGMENT] in secret for at in range(len(word) - _FRAGMENT + 1))
