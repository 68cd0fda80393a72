"""Failures of runs as the contract has them. What a provider said stays in the attempt's record."""

from aiworkspace.v1 import common_pb2 as pb

from ...kit.errors import AppError
from ...llm.base import ErrorKind, ProviderError
from ..models import Failure

_PROVIDER: dict[ErrorKind, tuple[pb.ErrorReason.ValueType, str]] = {
    ErrorKind.UNREACHED: (pb.ERROR_REASON_PROVIDER_UNAVAILABLE, "The model's provider cannot be reached."),
    ErrorKind.UNAVAILABLE: (pb.ERROR_REASON_PROVIDER_UNAVAILABLE, "The model's provider does not answer."),
    ErrorKind.RATE_LIMITED: (pb.ERROR_REASON_PROVIDER_RATE_LIMITED, "The provider's rate limit is reached."),
    ErrorKind.REJECTED: (pb.ERROR_REASON_PROVIDER_REJECTED, "The provider refused the request."),
    ErrorKind.CONTEXT_TOO_LONG: (
        pb.ERROR_REASON_CONTEXT_TOO_LONG,
        "The conversation does not fit into the model's context.",
    ),
    ErrorKind.MISCONFIGURED: (
        pb.ERROR_REASON_PROVIDER_MISCONFIGURED,
        "The provider refused the API key. The operator or the organization must replace it.",
    ),
    ErrorKind.FORBIDDEN: (
        pb.ERROR_REASON_PROVIDER_MISCONFIGURED,
        "The provider does not allow this request with this key.",
    ),
    ErrorKind.QUOTA_EXHAUSTED: (
        pb.ERROR_REASON_PROVIDER_MISCONFIGURED,
        "The provider account has no credit left. The operator or the organization must add credit.",
    ),
    ErrorKind.MODEL_NOT_FOUND: (
        pb.ERROR_REASON_PROVIDER_MODEL_NOT_FOUND,
        "The provider does not have this model, or not for this account.",
    ),
    ErrorKind.TIMEOUT: (
        pb.ERROR_REASON_PROVIDER_TIMEOUT,
        "The model took too long to start or to continue its answer.",
    ),
    ErrorKind.CUT: (pb.ERROR_REASON_PROVIDER_STREAM_CUT, "The provider's answer broke off."),
}

TIMED_OUT = Failure(reason=pb.ERROR_REASON_PROVIDER_TIMEOUT, message="The answer took too long.")
INTERRUPTED = Failure(
    reason=pb.ERROR_REASON_RUN_INTERRUPTED, message="The server stopped while the answer was in progress."
)
INTERNAL = Failure(reason=pb.ERROR_REASON_INTERNAL, message="Internal error.")


def refusal(error: AppError) -> Failure:
    """Return the failure of a run whose next attempt is refused."""
    return Failure(reason=error.reason, message=error.message)


def failure_of(error: BaseException | None) -> Failure:
    """Return the failure that clients see for what a provider's stream raised."""
    if isinstance(error, ProviderError):
        reason, message = _PROVIDER[error.kind]
        return Failure(reason=reason, message=message)
    return INTERNAL
