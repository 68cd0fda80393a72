"""Limits of calls in progress: how many the contract allows to one caller at the same time, in this process."""

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
    """The step that counts each caller's calls whose answers were not sent yet, by class; streams by themselves."""

    def __init__(self) -> None:
        self._counts: Counter[_Key] = Counter()

    def step(self, method: Method, proceed: Handler) -> Handler:
        async def handler(call: Call, request: Any) -> Any:
            key = method.rate_limit, method.streams, method.request_streams, caller_of(call)
            if self._counts[key] >= method.at_once:
                raise _refusal(method, key[-1])
            self._counts[key] += 1
            # When the response was sent: an unread one is held until its connection ends.
            call.context.add_done_callback(lambda _: self._leave(key))  # type: ignore[arg-type]  # the stub names a class
            return await proceed(call, request)

        return handler

    def _leave(self, key: _Key) -> None:
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


def _refusal(method: Method, caller: str) -> RateLimited:
    kind = "streams" if method.streams else "calls"
    message = f"{method.at_once} {kind} of this kind are in progress, and no more may be at the same time; end some."
    return RateLimited(f"caller:{caller}", message, _RETRY_SECONDS, pb.ERROR_REASON_TOO_MANY_CALLS)
