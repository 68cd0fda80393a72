"""A gRPC server on a real port whose methods are functions of a test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import (
    access_pb2,
    account_pb2,
    admin_pb2,
    audit_pb2,
    auth_pb2,
    budget_pb2,
    chat_pb2,
    data_pb2,
    document_pb2,
    model_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    usage_pb2,
    workspace_pb2,
)

KEY = "aiws_0123456789ExampleKeyThatNobodyHasAndNobodyE2fnoag"
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Message] | AsyncIterator[Message]]

_SERVICES = {
    name: service
    for file in (
        access_pb2,
        account_pb2,
        admin_pb2,
        audit_pb2,
        auth_pb2,
        budget_pb2,
        chat_pb2,
        data_pb2,
        document_pb2,
        model_pb2,
        org_pb2,
        service_account_pb2,
        team_pb2,
        usage_pb2,
        workspace_pb2,
    )
    for name, service in file.DESCRIPTOR.services_by_name.items()
}


@dataclass(frozen=True)
class Call:
    """A call that the server got."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]

    @property
    def token(self) -> str:
        return str(self.metadata.get("authorization", "")).removeprefix("Bearer ")


@dataclass
class ScriptedServer:
    """Methods are scripted by name, such as OrgService.GetOrg, at any time; calls keeps what came in."""

    target: str = ""
    calls: list[Call] = field(default_factory=list)
    _handlers: dict[str, Handler] = field(default_factory=dict)
    _arrival: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: grpc.aio.Server | None = None

    def script(self, name: str, handler: Handler) -> None:
        self._handlers[name] = handler

    def called(self, name: str) -> list[Call]:
        return [call for call in self.calls if call.method == name]

    async def until_called(self, name: str, times: int = 1) -> None:
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.called(name)) >= times)

    async def start(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers([self._service(name) for name in _SERVICES])
        if credentials:
            port = self._server.add_secure_port(address, credentials)
        else:
            port = self._server.add_insecure_port(address)
        self.target = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)

    async def restart(self) -> None:
        """Cut every connection and listen on the same port again."""
        await self.stop()
        await self.start(self.target)

    def _service(self, name: str) -> grpc.GenericRpcHandler:
        service = _SERVICES[name]
        handlers = {method.name: self._method(f"{name}.{method.name}", method) for method in service.methods}
        return grpc.method_handlers_generic_handler(service.full_name, handlers)

    def _method(self, name: str, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
        parse = GetMessageClass(method.input_type).FromString

        async def unary(request: Message, context: Context) -> Message:
            answer = await self._begin(name, request, context)
            assert isinstance(answer, Awaitable)
            return await answer

        async def stream(request: Message, context: Context) -> AsyncIterator[Message]:
            answer = await self._begin(name, request, context)
            assert isinstance(answer, AsyncIterator)
            async for message in answer:
                yield message

        async def take(requests: AsyncIterator[Message], context: Context) -> Message:
            answer = await self._begin(name, requests, context)
            assert isinstance(answer, Awaitable)
            return await answer

        if method.client_streaming:
            return grpc.stream_unary_rpc_method_handler(take, parse, _serialize)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, parse, _serialize)
        return grpc.unary_unary_rpc_method_handler(unary, parse, _serialize)

    async def _begin(
        self, name: str, request: Message | AsyncIterator[Message], context: Context
    ) -> Awaitable[Message] | AsyncIterator[Message]:
        self.calls.append(Call(name, request, dict(context.invocation_metadata() or ())))
        async with self._arrival:
            self._arrival.notify_all()
        if name not in self._handlers:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"The test does not script {name}.")
        return self._handlers[name](request, context)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def answer(message: Message) -> Handler:
    """A method that always answers this."""

    async def handler(request: Message, context: Context) -> Message:
        return message

    return handler


def answers(*each: Message | Callable[[Context], Awaitable[NoReturn]]) -> Handler:
    """A method that answers one after the other and then the last for ever; functions are errors, made by failure."""
    left = list(each)

    async def handler(request: Message, context: Context) -> Message:
        now = left.pop(0) if len(left) > 1 else left[0]
        return now if isinstance(now, Message) else await now(context)

    return handler


def failure(
    code: grpc.StatusCode,
    reason: str = "",
    message: str = "Refused.",
    *,
    retry_after: float | None = None,
    details: Sequence[Message] = (),
    metadata: Mapping[str, str] | None = None,
) -> Callable[[Context], Awaitable[NoReturn]]:
    """An error status with the details that the contract promises."""
    given = list(details)
    if reason:
        given.append(
            error_details_pb2.ErrorInfo(reason=reason, domain="aiworkspace.v1", metadata=metadata or {"fact": "1"})
        )
    if retry_after is not None:
        nanos = int(retry_after * 1e9)
        delay = Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
        given.append(error_details_pb2.RetryInfo(retry_delay=delay))

    async def fail(context: Context) -> NoReturn:
        status = status_pb2.Status(code=int(code.value[0]), message=message)
        for detail in given:
            status.details.add().Pack(detail)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        await context.abort(code, message)

    return fail
