import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from aiworkspace.v1 import chat_pb2, common_pb2, org_pb2
from aiworkspace_client import AsyncClient, Backoff, Client, errors
from tests.client.scripted import Context, ScriptedServer, answers, failure

ORG_ID = "0199c0de-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.NOT_FOUND, errors.NotFoundError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidArgumentError),
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExistsError),
        (grpc.StatusCode.ABORTED, errors.AbortedError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError),
        (grpc.StatusCode.OUT_OF_RANGE, errors.OutOfRangeError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.CANCELLED, errors.CallCancelledError),
        (grpc.StatusCode.DATA_LOSS, errors.DataLossError),
        (grpc.StatusCode.INTERNAL, errors.InternalError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.AiWorkspaceError),
    ],
)
async def test_every_code_has_its_class(
    server: ScriptedServer, client: AsyncClient, code: grpc.StatusCode, expected: type[errors.AiWorkspaceError]
) -> None:
    server.script("OrgService.GetOrg", answers(failure(code, "SOME_REASON", "Said so.")))
    with pytest.raises(errors.AiWorkspaceError, match="Said so") as raised:
        await client.orgs.get(ORG_ID)
    assert type(raised.value) is expected
    assert (raised.value.message, raised.value.reason) == ("Said so.", "SOME_REASON")
    assert raised.value.metadata == {"fact": "1"}


async def test_field_violations_and_retry_after(server: ScriptedServer, client: AsyncClient) -> None:
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="name", description="must not be empty")
    server.script(
        "OrgService.CreateOrg",
        answers(
            failure(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", details=[bad]),
            failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=2.5),
        ),
    )
    with pytest.raises(errors.InvalidArgumentError) as invalid:
        await client.orgs.create(name="")
    assert invalid.value.field_violations == (errors.FieldViolation("name", "must not be empty"),)
    with pytest.raises(errors.ResourceExhaustedError) as exhausted:
        await client.orgs.create(name="")
    assert exhausted.value.retry_after == 2.5


@pytest.mark.parametrize("place", ["initial", "trailing", "details"])
async def test_the_request_id_is_found(server: ScriptedServer, client: AsyncClient, place: str) -> None:
    async def handler(request: org_pb2.GetOrgRequest, context: Context) -> Message:
        if place == "initial":
            await context.send_initial_metadata((("x-request-id", "r-1"),))
        if place == "trailing":
            context.set_trailing_metadata((("x-request-id", "r-1"),))
        if place == "details":
            info = error_details_pb2.RequestInfo(request_id="r-1")
            await failure(grpc.StatusCode.INTERNAL, "INTERNAL", details=[info])(context)
        await context.abort(grpc.StatusCode.INTERNAL, "Internal error.")

    server.script("OrgService.GetOrg", handler)
    with pytest.raises(errors.InternalError) as raised:
        await client.orgs.get(ORG_ID)
    assert raised.value.request_id == "r-1"
    assert "r-1" in str(raised.value)


async def test_broken_details_do_not_hide_the_error(server: ScriptedServer, client: AsyncClient) -> None:
    async def handler(request: org_pb2.GetOrgRequest, context: Context) -> Message:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        await context.abort(grpc.StatusCode.NOT_FOUND, "Not found.")

    server.script("OrgService.GetOrg", handler)
    with pytest.raises(errors.NotFoundError, match="Not found"):
        await client.orgs.get(ORG_ID)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    once = Backoff(first=1000, longest=1000)
    with Client("127.0.0.1:1", backoff=once) as client, pytest.raises(errors.UnavailableError) as raised:
        client.orgs.get(ORG_ID, timeout=60)
    assert raised.value.reason == ""


def test_reasons_have_no_prefix() -> None:
    reason = common_pb2.ERROR_REASON_PROVIDER_TIMEOUT
    run = chat_pb2.Run(failure=chat_pb2.RunFailure(reason=reason, message="Too slow."))
    error = errors.RunFailedError(run, chat_pb2.Message())
    assert (error.reason, error.message) == ("PROVIDER_TIMEOUT", "Too slow.")
