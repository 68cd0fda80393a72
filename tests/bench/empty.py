"""The reference: a bare grpc.aio server that does nothing, with the messages of the real one.

`python -m tests.bench.empty`. Unary answers one prebuilt ListModelsResponse; Stream sends events of a token each, as
fast as it can, for as long as the caller stays.
"""

import asyncio
import signal
from typing import Any

import grpc
import uvloop

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.rpc import OPTIONS

UNARY = "/bench.Empty/Unary"
STREAM = "/bench.Empty/Stream"
_EVENT = pb.ChatEvent(run_id="0" * 36, sequence=100, content_delta=pb.ContentDelta(text="123456 "))
_ANSWER = pb.ListModelsResponse(
    models=[pb.Model(model="echo/echo", provider="echo", display_name="Echo (no AI, for trying things out)")],
    next_page_token="0" * 64,
)


async def unary(request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
    return _ANSWER


async def stream(request: pb.SendMessageRequest, context: Any) -> None:
    event = pb.SendMessageResponse(event=_EVENT)
    while True:
        await context.write(event)


def _handlers() -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        "bench.Empty",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(
                unary, pb.ListModelsRequest.FromString, pb.ListModelsResponse.SerializeToString
            ),
            "Stream": grpc.unary_stream_rpc_method_handler(
                stream, pb.SendMessageRequest.FromString, pb.SendMessageResponse.SerializeToString
            ),
        },
    )


async def main() -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((_handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"empty listening on 127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main())
