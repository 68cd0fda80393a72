"""What came of a call."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

OK = "OK"
UNAUTHENTICATED = "UNAUTHENTICATED CREDENTIALS_INVALID"
PASSWORD_WRONG = "UNAUTHENTICATED PASSWORD_WRONG"
THROTTLED = "RESOURCE_EXHAUSTED SIGN_IN_THROTTLED"
NOT_FOUND = "NOT_FOUND RESOURCE_NOT_FOUND"
PERMISSION_MISSING = "PERMISSION_DENIED PERMISSION_MISSING"
INVALID = "INVALID_ARGUMENT FIELD_INVALID"
REQUEST_ID_REUSED = "INVALID_ARGUMENT REQUEST_ID_REUSED"
ALREADY_EXISTS = "ALREADY_EXISTS ALREADY_EXISTS"
ETAG_MISMATCH = "ABORTED ETAG_MISMATCH"
LAST_OWNER = "FAILED_PRECONDITION LAST_OWNER"
INVITATION_CLOSED = "FAILED_PRECONDITION INVITATION_CLOSED"
ROLE_IN_USE = "FAILED_PRECONDITION ROLE_IN_USE"
OPERATOR_REQUIRED = "PERMISSION_DENIED OPERATOR_REQUIRED"
ORG_SUSPENDED = "FAILED_PRECONDITION ORG_SUSPENDED"
LEGAL_HOLD = "FAILED_PRECONDITION LEGAL_HOLD"
JOB_STATE = "FAILED_PRECONDITION JOB_STATE"
SESSION_REQUIRED = "PERMISSION_DENIED SESSION_REQUIRED"
MODEL_NOT_ALLOWED = "FAILED_PRECONDITION MODEL_NOT_ALLOWED"
PROVIDER_KEY_REFUSED = "FAILED_PRECONDITION PROVIDER_KEY_REFUSED"
CONTEXT_TOO_LONG = "FAILED_PRECONDITION CONTEXT_TOO_LONG"
RATE_LIMITED = "RESOURCE_EXHAUSTED RATE_LIMITED"
UNAVAILABLE = "UNAVAILABLE UNAVAILABLE"
UPLOAD_TAKEN_OVER = "ABORTED UPLOAD_TAKEN_OVER"
EMAIL_UNVERIFIED = "FAILED_PRECONDITION EMAIL_UNVERIFIED"


@dataclass(frozen=True)
class Refusal:
    """All that a refused caller can learn."""

    code: str
    reason: str
    message: str
    fields: tuple[str, ...]  # that BadRequest names
    metadata: dict[str, str] = field(hash=False)
    status: bytes


async def refusal(call: Awaitable[Any]) -> Refusal | None:
    """How the call was refused, None when it was not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return _read(error)
    return None


def _read(error: grpc.aio.AioRpcError) -> Refusal:
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    for detail in status.details:
        detail.Unpack(bad)
    fields = tuple(violation.field for violation in bad.field_violations)
    return Refusal(
        error.code().name, info.reason, error.details() or "", fields, dict(info.metadata), status.SerializeToString()
    )


async def outcome(call: Awaitable[Any]) -> str:
    """Code and reason of the refusal, or "OK"."""
    refused = await refusal(call)
    return f"{refused.code} {refused.reason}" if refused else OK


async def outcomes(calls: Iterable[Awaitable[Any]]) -> dict[str, int]:
    """How often which outcome, of calls made at the same time."""
    return dict(Counter(await asyncio.gather(*map(outcome, calls))))


async def named(call: Awaitable[Any]) -> tuple[str, ...]:
    """The fields that an INVALID_ARGUMENT names; none for every other outcome."""
    refused = await refusal(call)
    return refused.fields if refused and refused.code == "INVALID_ARGUMENT" else ()
