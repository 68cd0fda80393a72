"""Limits of concurrent calls per caller in this process, as the contract declares them."""

from collections import Counter
from typing import Any

from aiworkspace.v1 import common_pb2 as pb

from .context import Call
from .contract import Method
from .errors import RateLimited
from .interceptors import Handler
from .limits import caller_of

_RETRY_SECONDS = 1.0

_Key = tuple[int, bool, bool, str]  # class, whether it answers with a stream, whether it takes one, caller


class CallsAtOnce:
    """The step that limits each caller's calls in progress, by class and separately for streams."""

    def __init__(self) -> None:
        self._counts: Counter[_Key] = Counter()

    def step(self, method: Method, proceed: Handler) -> Handler:
        async def handler(call: Call, request: Any) -> Any:
            key = method.rate_limit, method.streams, method.request_streams, caller_of(call)
            if self._counts[key] >= method.at_once:
                raise _refusal(method, key[-1])
            self._counts[key] += 1
            # Until the response is sent: an unread response is held until its connection ends.
            call.context.add_done_callback(lambda _: self._leave(key))  # type: ignore[arg-type]  # the stub names a class
            return await proceed(call, request)

        return handler

    def _leave(self, key: _Key) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


def _refusal(method: Method, caller: str) -> RateLimited:
    kind = "streams" if method.streams else "calls"
    message = f"{method.at_once} {kind} of this class are in progress, which is the limit; end some or wait."
    return RateLimited(f"caller:{caller}", message, _RETRY_SECONDS, pb.ERROR_REASON_TOO_MANY_CALLS)
