"""The exceptions of the client.

AiWorkspaceError
├── UnauthenticatedError      no valid credentials, or a wrong password
├── PermissionDeniedError     the role does not allow it
├── NotFoundError             no such resource, or the caller may not know of it
├── InvalidArgumentError      field_violations names the invalid fields, with reasons
├── AlreadyExistsError        something unique, such as an email address, is taken
├── AbortedError              a concurrent change or run: read again and retry
├── FailedPreconditionError   the state of the resource forbids it
├── ResourceExhaustedError    too many calls, or a budget; retry_after says when to retry
├── OutOfRangeError           the run has not reached the requested sequence
├── UnavailableError          the server, or a store that it needs, cannot be reached
├── DeadlineExceededError     no answer in time; the call may have taken effect
├── CallCancelledError        the call was cancelled, or the client closed, before the answer
├── InternalError             a defect of the server; report request_id
├── DataLossError             the bytes of a download are not those of the document
└── RunFailedError            the model's answer failed; run and partial message are attached
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import chat_pb2, common_pb2

_DetailT = TypeVar("_DetailT", bound=Message)

REASON_PREFIX = "ERROR_REASON_"
REQUEST_ID_KEY = "x-request-id"
_STATUS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that breaks a rule of the contract."""

    field: str
    description: str


class AiWorkspaceError(Exception):
    """Base class of all errors of calls."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        """What went wrong, for people."""
        self.reason = reason
        """Name of the contract's ErrorReason without its prefix. Empty when the error did not come from the server."""
        self.metadata = dict(metadata or {})
        """Facts about the error, by reason."""
        self.request_id = request_id
        """The server's id of the call. Empty when the call did not reach it."""
        self.retry_after = retry_after
        """Seconds after which the server asks to retry."""
        self.field_violations = field_violations
        """The invalid fields. Only InvalidArgumentError has some."""

    def __str__(self) -> str:
        facts = [self.reason or self.code.name]
        if self.request_id:
            facts.append(f"request {self.request_id}")
        return f"{self.message} [{', '.join(facts)}]"


class UnauthenticatedError(AiWorkspaceError):
    """No access token, one that no longer works, or a wrong password."""

    code = grpc.StatusCode.UNAUTHENTICATED

    @property
    def session_ended(self) -> bool:
        """Whether the session has ended for good, so that only a new sign-in helps."""
        return self.metadata.get("session") == "ended"


class PermissionDeniedError(AiWorkspaceError):
    """The resource is visible, but the caller's role does not allow the call."""

    code = grpc.StatusCode.PERMISSION_DENIED


class NotFoundError(AiWorkspaceError):
    """There is no such resource, or the caller may not know of it."""

    code = grpc.StatusCode.NOT_FOUND


class InvalidArgumentError(AiWorkspaceError):
    """A field of the request is invalid; field_violations names it."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class AlreadyExistsError(AiWorkspaceError):
    """A resource with this unique property exists."""

    code = grpc.StatusCode.ALREADY_EXISTS


class AbortedError(AiWorkspaceError):
    """The etag is not the current one, or another run is in progress in the conversation."""

    code = grpc.StatusCode.ABORTED


class FailedPreconditionError(AiWorkspaceError):
    """The state of the resource forbids the call."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(AiWorkspaceError):
    """A rate limit, quota or budget is exhausted; retry_after is the number of seconds to wait."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class OutOfRangeError(AiWorkspaceError):
    """The sequence lies beyond what the run has sent so far."""

    code = grpc.StatusCode.OUT_OF_RANGE


class UnavailableError(AiWorkspaceError):
    """The server or a store that it needs cannot be reached, even after retries."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(AiWorkspaceError):
    """The response did not arrive in time. The call may have taken effect."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(AiWorkspaceError):
    """The call was cancelled by something other than its own task, such as closing the client."""

    code = grpc.StatusCode.CANCELLED


class InternalError(AiWorkspaceError):
    """A defect in the server; report request_id."""

    code = grpc.StatusCode.INTERNAL


class DataLossError(AiWorkspaceError):
    """What a download received is not what the server has of the document. No file was written."""

    code = grpc.StatusCode.DATA_LOSS


class RunFailedError(AiWorkspaceError):
    """A run failed or was interrupted. It is charged for what it used until then."""

    def __init__(self, run: chat_pb2.Run, partial_message: chat_pb2.Message) -> None:
        super().__init__(run.failure.message or "The run failed.", reason=reason_name(run.failure.reason))
        self.run = run
        """The run, with its failure, usage and cost."""
        self.partial_message = partial_message
        """The answer until then. Empty if there was none."""


_BY_CODE: dict[grpc.StatusCode, type[AiWorkspaceError]] = {
    error.code: error
    for error in (
        UnauthenticatedError,
        PermissionDeniedError,
        NotFoundError,
        InvalidArgumentError,
        AlreadyExistsError,
        AbortedError,
        FailedPreconditionError,
        ResourceExhaustedError,
        OutOfRangeError,
        UnavailableError,
        DeadlineExceededError,
        CallCancelledError,
        InternalError,
        DataLossError,
    )
}


def reason_name(reason: common_pb2.ErrorReason.ValueType) -> str:
    """Return the name as in AiWorkspaceError.reason, also for a reason that this client does not know."""
    if reason not in common_pb2.ErrorReason.values():
        return str(reason)
    return common_pb2.ErrorReason.Name(reason).removeprefix(REASON_PREFIX)


def from_rpc(error: grpc.aio.AioRpcError) -> AiWorkspaceError:
    """Return the typed error for a failed call, from its google.rpc.Status if there is one."""
    status = _status(error)
    info = _detail(status, error_details_pb2.ErrorInfo)
    retry = _detail(status, error_details_pb2.RetryInfo)
    bad = _detail(status, error_details_pb2.BadRequest)
    violations = bad.field_violations if bad else ()
    return _BY_CODE.get(error.code(), AiWorkspaceError)(
        status.message or error.details() or "The call failed without a message.",
        reason=info.reason if info else "",
        metadata=dict(info.metadata) if info else None,
        request_id=_request_id(error, status),
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry else None,
        field_violations=tuple(FieldViolation(each.field, each.description) for each in violations),
    )


def _status(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    raw = _metadata_value(error.trailing_metadata(), _STATUS_KEY)
    try:
        return status_pb2.Status.FromString(raw) if isinstance(raw, bytes) else status_pb2.Status()
    except DecodeError:
        return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_DetailT]) -> _DetailT | None:
    detail = kind()
    return detail if any(each.Unpack(detail) for each in status.details) else None


def _request_id(error: grpc.aio.AioRpcError, status: status_pb2.Status) -> str:
    for metadata in (error.trailing_metadata(), error.initial_metadata()):
        if isinstance(value := _metadata_value(metadata, REQUEST_ID_KEY), str):
            return value
    info = _detail(status, error_details_pb2.RequestInfo)
    return info.request_id if info else ""


def _metadata_value(metadata: Iterable[tuple[str, str | bytes]] | None, key: str) -> str | bytes | None:
    return next((value for name, value in metadata or () if name == key), None)


# The statuses of broken connections, from gRPC and from proxies.
_BROKEN = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
)


def is_cut(error: AiWorkspaceError) -> bool:
    """Return whether the connection failed rather than the call: errors of the server have a reason."""
    return isinstance(error, UnavailableError) or (error.reason == "" and error.code in _BROKEN)
