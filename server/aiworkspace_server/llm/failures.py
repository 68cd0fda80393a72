"""Maps failures of a provider to ProviderError: the kind, when to retry, and a text without keys."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp

from .base import ErrorKind, ProviderError
from .lenient import SURROGATE

_LONGEST_MESSAGE = 300
_LONGEST_READ = 2000  # characters of an error body that are searched
# Providers quote keys whole, masked in the middle, or in part.
_KEYLIKE = re.compile(r"\S*\*{3,}\S*|\b(?:sk|pk|key)-[\w-]+|\bBearer\s+\S+", re.IGNORECASE)
_REDACTED = "[redacted]"
_UNREACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_FRAGMENT = 6  # consecutive characters of a key that count as a part of it

# OpenAI's code, llama.cpp's type, then the wordings of OpenAI, DeepSeek and vLLM, Anthropic, llama.cpp.
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|prompt is too long"
    r"|exceeds? (?:the )?(?:available )?context|request_too_large",
    re.IGNORECASE,
)
# Kinds that open an account's circuit for all must not be found in text that a provider quotes from the request. So
# only codes, types and the beginning of the message are searched.
_NO_MONEY = re.compile(r"(?:^|\s)(?:insufficient_(?:quota|balance|credits|funds)|billing_\w+)(?:\s|$)", re.IGNORECASE)
_SAYS_NO_MONEY = re.compile(
    r"\W*(?:your credit balance is too low|insufficient (?:account )?(?:balance|credits?|funds)"
    r"|you (?:have )?exceeded your current quota)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"(?:^|\s)(?:model_not_found|not_found_error|model_not_available)(?:\s|$)", re.IGNORECASE)
_SAYS_NO_MODEL = re.compile(
    r"\W*(?:the )?(?:requested )?model\b.{0,200}\b(?:does not exist|do(?:es)? not have access|not found"
    r"|not available|not supported|deprecated|retired|decommissioned)|\W*(?:no such|unknown|invalid) model\b",
    re.IGNORECASE,
)

# Errors inside an answer with status 200 have no status of their own. These are the statuses for their names, in lower
# case and without underscores.
_STATUS_OF = {
    "accountdeactivated": 401,
    "authenticationerror": 401,
    "badrequesterror": 400,
    "billingerror": 402,
    "contentfilter": 400,
    "contentpolicyviolation": 400,
    "insufficientpermissions": 403,
    "invalidapikey": 401,
    "invalidorganization": 401,
    "invalidprompt": 400,
    "invalidrequesterror": 400,
    "modelnotfound": 404,
    "notfounderror": 404,
    "overloadederror": 529,
    "permissiondeniederror": 403,
    "permissionerror": 403,
    "ratelimiterror": 429,
    "quotaexceeded": 402,
    "ratelimitexceeded": 429,
    "requestforbidden": 403,
    "requesttoolarge": 413,
    "resourceexhausted": 429,
    "stringabovemaxlength": 400,
    "toomanyrequests": 429,
    "unprocessableentityerror": 422,
    "unsupportedcountryregionterritory": 403,
    "valueerror": 400,
}
_NO_STATUS = 500  # status of unknown errors


class Failures:
    """Makes the ProviderErrors of one provider."""

    def __init__(self, provider: str, secrets: Iterable[str]) -> None:
        self.provider = provider
        self._secrets = [secret for secret in secrets if len(secret) >= _FRAGMENT]

    def from_status(self, status: int, headers: Mapping[str, str], body: object) -> ProviderError:
        """Return the error for a response with an error status."""
        error = _read(body)
        kind = _kind(status, error)
        # Providers that refuse a key quote it. The status says enough.
        said = error.names if kind in _QUOTING else f"{error.names}: {error.message}"
        return self._error(kind, f"status {status}: {said}", retry_after(headers), status, free=True)

    def from_event(self, body: object, *, begun: bool = True) -> ProviderError:
        """Return the error for one inside a response with status 200. Without an answer before it, it is free."""
        error = _read(body)
        kind = _kind(error.status or (404 if _SAYS_NO_MODEL.match(error.message) else _NO_STATUS), error)
        said = error.names if kind in _QUOTING else f"{error.names}: {error.message}"
        return self._error(kind, f"error in the answer: {said}", status=200, free=not begun)

    def from_connection(self, error: BaseException) -> ProviderError:
        """Return the error for a connection that failed. The causes tell a lost connection from a timeout.

        If the connection was lost after it was made, the provider may have received the request and charge for it.
        """
        causes = list(_causes(error))
        if any(isinstance(cause, _UNREACHED) for cause in causes):
            return self._error(ErrorKind.UNREACHED, f"no connection: {type(causes[-1]).__name__}", free=True)
        kind = ErrorKind.TIMEOUT if any(isinstance(cause, TimeoutError) for cause in causes) else ErrorKind.UNAVAILABLE
        return self._error(kind, f"no answer: {type(causes[-1]).__name__}")

    def no_answer(self, what: str) -> ProviderError:
        """Return the error for a response with status 200 that is not an answer: empty, or a web page."""
        return self._error(ErrorKind.UNAVAILABLE, f"no answer: {what}", status=200, free=True)

    def cut(self, why: str) -> ProviderError:
        return self._error(ErrorKind.CUT, f"the answer is incomplete: {why}")

    def unreadable(self, error: Exception) -> ProviderError:
        """Return the error for a list of models that cannot be read."""
        return self._error(ErrorKind.UNAVAILABLE, f"unreadable: {type(error).__name__}")

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
        said = SURROGATE.sub("\ufffd", message[: 2 * _LONGEST_MESSAGE])  # databases refuse surrogates
        text = redact(f"{self.provider}: {said}", self._secrets)[:_LONGEST_MESSAGE]
        return ProviderError(kind, text, retry_after=retry_after, status=status, free=free)


@dataclass(frozen=True, slots=True)
class _Said:
    """An error body of any of the usual shapes."""

    names: str  # code and type
    message: str
    status: int | None  # that it stands for, if it says so


# Kinds whose message quotes the key, so that it is left out.
_QUOTING = frozenset({ErrorKind.MISCONFIGURED, ErrorKind.FORBIDDEN, ErrorKind.QUOTA_EXHAUSTED})


def _read(body: object) -> _Said:
    if isinstance(body, list) and body:  # as Gemini's compatible server sends it
        body = body[0]
    error = body
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body
    if not isinstance(error, dict):
        return _Said("", error[:_LONGEST_READ] if isinstance(error, str) else "", None)
    names = [name for key in ("code", "type") if isinstance(name := error.get(key), str)]
    message = error.get("message") or error.get("detail")
    text = message[:_LONGEST_READ] if isinstance(message, str) else ""
    return _Said(" ".join(names)[:_LONGEST_READ], text, _status(error, names))


def _status(error: Mapping[str, object], names: Iterable[str]) -> int | None:
    for key in ("code", "status", "status_code"):
        number = error.get(key)
        if isinstance(number, str) and len(number) == 3 and number.isascii() and number.isdigit():
            number = int(number)
        if isinstance(number, int) and 400 <= number < 600:
            return number
    known = (_STATUS_OF.get(name.replace("_", "").lower()) for name in names)
    return next((status for status in known if status), None)


def _kind(status: int, error: _Said) -> ErrorKind:
    text = f"{error.names} {error.message}"
    if status == 402 or _NO_MONEY.search(error.names) or _SAYS_NO_MONEY.match(error.message):
        return ErrorKind.QUOTA_EXHAUSTED
    if status == 401 or status < 400:
        return ErrorKind.MISCONFIGURED
    if status in (404, 410) or (
        status < 500 and (_NO_MODEL.search(error.names) or _SAYS_NO_MODEL.match(error.message))
    ):
        return ErrorKind.MODEL_NOT_FOUND
    if status == 403:
        return ErrorKind.FORBIDDEN
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
    """Return the seconds that the provider asks to wait, from headers with milliseconds, seconds or a date."""
    if (milliseconds := _number(headers.get("retry-after-ms", ""))) is not None:
        return milliseconds / 1000
    text = headers.get("retry-after", "")
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # "-0000", and dates without a zone, are in UTC
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def redact(text: str, secrets: Iterable[str]) -> str:
    """Return the text without the secrets, words that contain a part of one, and everything that looks like a key."""
    text = _KEYLIKE.sub(_REDACTED, text)
    for secret in secrets:
        words = re.split(r"(\s+)", text.replace(secret, _REDACTED))
        text = "".join(_REDACTED if _quotes(word, secret) else word for word in words)
    return text


def _quotes(word: str, secret: str) -> bool:
    return any(word[at : at + _FRAGMENT] in secret for at in range(len(word) - _FRAGMENT + 1))
