"""A model provider that costs next to nothing: OpenAI's wire format at the pace of a real model.

`python -m tests.bench.provider`. The question says how many tokens the answer has. The first one goes out with the
beginning of the response, the others at 50 a second. Each token is the time at which it was due, so that whoever gets
it knows how late it is.
"""

import asyncio
from typing import Any, cast

import orjson
import uvloop

SECONDS_PER_TOKEN = 0.02
TOKEN_SIZE = 7  # "123456 ": milliseconds of the monotonic clock, the last six digits
_CLOCK_TURN = 1_000_000
_AT_ONCE = " at once"

_FIXED = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini",'
_FIXED += b'"service_tier":"default","system_fingerprint":"fp_1","choices":['
_TAIL = b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
_ROLE = _FIXED + b'{"index":0,"delta":{"role":"assistant","content":"","refusal":null},' + _TAIL
_TOKEN = _FIXED + b'{"index":0,"delta":{"content":"%06d "},' + _TAIL
_FINISH = _FIXED + b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
_USAGE = _FIXED + b'],"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d,'
_USAGE += b'"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}\n\n'
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


def lateness(token: str, now: float) -> float:
    """Seconds from when a token was due until `now`, the time of the event loop, in this or another process."""
    late = (now * 1000 - int(token)) % _CLOCK_TURN
    return (late if late < _CLOCK_TURN / 2 else late - _CLOCK_TURN) / 1000


def question(tokens: int, *, at_once: bool = False) -> str:
    """What to ask for an answer of so many tokens, at the pace of a real model or as fast as it can be sent."""
    return f"Say that{_AT_ONCE if at_once else ''} in {tokens}"


class Answering(asyncio.Protocol):
    """One connection: requests one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, separator, body = self._unread.partition(b"\r\n\r\n")
        if separator and len(body) >= _content_length(head):
            self._unread = b""
            if body:
                self._answer(orjson.loads(body))
            else:  # only LiteLLM looks at anything but answers
                self._transport.write(_NOTHING)

    def _answer(self, request: dict[str, Any]) -> None:
        asked: str = request["messages"][-1]["content"]
        self._total = int(asked.rpartition(" ")[2])
        self._said = 0
        self._due = self._loop.time()
        if not request.get("stream"):
            self._transport.write(_whole(self._total))
        elif _AT_ONCE in asked:
            self._burst()
        else:
            self._transport.write(_HEAD + _chunk(_ROLE))
            self._say()

    def _burst(self) -> None:
        """Sends the whole answer in one write, with a chunk a token."""
        token = _chunk(self._token())
        self._said = self._total
        self._transport.write(_HEAD + _chunk(_ROLE) + token * self._total + self._ending())

    def _say(self) -> None:
        """Sends the token that is due. A timer that is late does not make the next one later."""
        self._said += 1
        self._transport.write(_chunk(self._token()))
        if self._said == self._total:
            self._transport.write(self._ending())
        else:
            self._due += SECONDS_PER_TOKEN
            self._timer = self._loop.call_at(self._due, self._say)

    def _token(self) -> bytes:
        return _TOKEN % (int(self._due * 1000) % _CLOCK_TURN)

    def _ending(self) -> bytes:
        usage = _USAGE % (self._said, self._said + 20)
        return _chunk(_FINISH + usage + b"data: [DONE]\n\n") + _END


def _whole(tokens: int) -> bytes:
    """An answer that is not streamed."""
    message = {"role": "assistant", "content": "123456 " * tokens}
    usage = {"prompt_tokens": 20, "completion_tokens": tokens, "total_tokens": tokens + 20}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1760000000, "model": "gpt-4o-mini"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    body = orjson.dumps(answer | {"choices": choices, "usage": usage})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _content_length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(f"provider listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
