"""Errors for callers.

AppError
 ├─ Unauthenticated        UNAUTHENTICATED
 ├─ PermissionMissing      PERMISSION_DENIED
 ├─ SessionRequired        PERMISSION_DENIED
 ├─ OperatorRequired       PERMISSION_DENIED
 ├─ NotFound               NOT_FOUND
 ├─ InvalidArgument        INVALID_ARGUMENT      + BadRequest
 ├─ AlreadyExists          ALREADY_EXISTS
 ├─ Aborted                ABORTED
 ├─ FailedPrecondition     FAILED_PRECONDITION   + PreconditionFailure
 ├─ RateLimited            RESOURCE_EXHAUSTED    + QuotaFailure, RetryInfo
 ├─ RequestTooLarge        RESOURCE_EXHAUSTED
 ├─ RequestIncomplete      DEADLINE_EXCEEDED
 ├─ OutOfRange             OUT_OF_RANGE
 ├─ Unavailable            UNAVAILABLE           + RetryInfo
 └─ Internal               INTERNAL              + RequestInfo

Domains raise them; the outermost interceptor maps them to a google.rpc.Status. Any other exception becomes Internal,
and its text goes only into the log.
"""

from collections.abc import Iterator, Mapping

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from aiworkspace.v1 import common_pb2 as pb

DOMAIN = "aiworkspace.v1"
MOST_VIOLATIONS = 10  # keeps the status well below 8 KiB, above which clients drop it


class AppError(Exception):
    """An error with a status code, a stable reason and a public text."""

    code = grpc.StatusCode.INTERNAL

    def __init__(
        self, reason: pb.ErrorReason.ValueType, message: str, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})

    @property
    def reason_name(self) -> str:
        return pb.ErrorReason.Name(self.reason).removeprefix("ERROR_REASON_")

    def details(self) -> Iterator[Message]:
        """Return the details of the status besides ErrorInfo."""
        yield from ()

    def to_status(self) -> Status:
        number: int = self.code.value[0]
        status = Status(code=number, message=self.message)
        info = details.ErrorInfo(reason=self.reason_name, domain=DOMAIN, metadata=self.metadata)
        for detail in (info, *self.details()):
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        return status


class Unauthenticated(AppError):
    code = grpc.StatusCode.UNAUTHENTICATED

    def __init__(
        self,
        reason: pb.ErrorReason.ValueType = pb.ERROR_REASON_CREDENTIALS_INVALID,
        message: str = "A valid access token is needed: sign in, or refresh the one you have.",
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(reason, message, metadata=metadata)


class PermissionMissing(AppError):
    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, permission: str, message: str = "") -> None:
        text = message or f"You lack the permission {permission} here."
        super().__init__(pb.ERROR_REASON_PERMISSION_MISSING, text, metadata={"permission": permission})


class SessionRequired(AppError):
    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self) -> None:
        super().__init__(pb.ERROR_REASON_SESSION_REQUIRED, "This method needs a session: API keys may not call it.")


class OperatorRequired(AppError):
    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self) -> None:
        super().__init__(pb.ERROR_REASON_OPERATOR_REQUIRED, "This method is for operators of the server.")


class NotFound(AppError):
    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, field: str) -> None:
        super().__init__(pb.ERROR_REASON_RESOURCE_NOT_FOUND, f"{field}: not found.", metadata={"field": field})


class InvalidArgument(AppError):
    """Invalid fields, with the problem of each."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self,
        violations: Mapping[str, str],
        reason: pb.ErrorReason.ValueType = pb.ERROR_REASON_FIELD_INVALID,
    ) -> None:
        self.violations = dict(list(violations.items())[:MOST_VIOLATIONS])
        super().__init__(reason, "; ".join(f"{field}: {text}" for field, text in self.violations.items()) + ".")

    def details(self) -> Iterator[Message]:
        violation = details.BadRequest.FieldViolation
        yield details.BadRequest(
            field_violations=[violation(field=field, description=text) for field, text in self.violations.items()]
        )


class AlreadyExists(AppError):
    code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, message: str, field: str) -> None:
        super().__init__(pb.ERROR_REASON_ALREADY_EXISTS, message, metadata={"field": field})


class Aborted(AppError):
    code = grpc.StatusCode.ABORTED


class FailedPrecondition(AppError):
    code = grpc.StatusCode.FAILED_PRECONDITION

    def details(self) -> Iterator[Message]:
        violation = details.PreconditionFailure.Violation(type=self.reason_name, description=self.message)
        yield details.PreconditionFailure(violations=[violation])


class RateLimited(AppError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self,
        subject: str,
        message: str,
        retry_seconds: float | None,
        reason: pb.ErrorReason.ValueType = pb.ERROR_REASON_RATE_LIMITED,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """`retry_seconds` is None if a retry cannot succeed."""
        super().__init__(reason, message, metadata=metadata)
        self._subject = subject
        self._retry_seconds = retry_seconds

    def details(self) -> Iterator[Message]:
        violation = details.QuotaFailure.Violation(subject=self._subject, description=self.message)
        yield details.QuotaFailure(violations=[violation])
        if self._retry_seconds is not None:
            yield _retry_info(self._retry_seconds)


class RequestTooLarge(AppError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, limit: int, size: int) -> None:
        message = f"The request has {size:,} bytes; this method accepts at most {limit:,}."
        metadata = {"limit_bytes": str(limit), "size_bytes": str(size)}
        super().__init__(pb.ERROR_REASON_REQUEST_TOO_LARGE, message, metadata=metadata)


class RequestIncomplete(AppError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED

    def __init__(self, seconds: float) -> None:
        message = f"The request did not arrive completely within {seconds:g} s. Retry."
        super().__init__(pb.ERROR_REASON_REQUEST_INCOMPLETE, message)


class OutOfRange(AppError):
    code = grpc.StatusCode.OUT_OF_RANGE


class Unavailable(AppError):
    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, message: str = "The service cannot answer right now. Try again.", retry_seconds: float = 1):
        super().__init__(pb.ERROR_REASON_UNAVAILABLE, message)
        self._retry_seconds = retry_seconds

    def details(self) -> Iterator[Message]:
        yield _retry_info(self._retry_seconds)


class Internal(AppError):
    def __init__(self, request_id: str) -> None:
        super().__init__(pb.ERROR_REASON_INTERNAL, "Internal error.")
        self._request_id = request_id

    def details(self) -> Iterator[Message]:
        yield details.RequestInfo(request_id=self._request_id)


def etag_mismatch(field: str) -> Aborted:
    return Aborted(pb.ERROR_REASON_ETAG_MISMATCH, f"{field}: is not the current one; read the resource again.")


def check_etag(etag: str, version: int, field: str) -> None:
    """Raise Aborted if the caller read another version. An empty etag stands for every version."""
    if etag and etag != str(version):
        raise etag_mismatch(field)


def _retry_info(seconds: float) -> details.RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(max(1, round(seconds * 1000)))
    return details.RetryInfo(retry_delay=delay)
