"""Limits of concurrent calls per caller in this process, as the contract declares them."""

from functools import partial
from typing import Any

from aiworkspace.v1 import common_pb2 as pb

from .context import Call
from .contract import Method
from .errors import RateLimited
from .interceptors import Handler
from .limits import caller_of

_RETRY_SECONDS = 1.0

_Kind = tuple[int, bool, bool]  # class, whether it answers with a stream, whether it takes one


class CallsAtOnce:
    """The step that limits each caller's calls in progress, by class and separately for streams."""

    def __init__(self) -> None:
        self._counts: dict[_Kind, dict[str, int]] = {}

    def step(self, method: Method, proceed: Handler) -> Handler:
        counts = self._counts.setdefault((method.rate_limit, method.streams, method.request_streams), {})

        async def handler(call: Call, request: Any) -> Any:
            caller = caller_of(call)
            count = counts.get(caller, 0)
            if count >= method.at_once:
                raise _refusal(method, caller)
            counts[caller] = count + 1
            # Until the response is sent: an unread response is held until its connection ends.
            call.context.add_done_callback(partial(_leave, counts, caller))  # type: ignore[arg-type]  # a class in stubs
            return await proceed(call, request)

        return handler


def _leave(counts: dict[str, int], caller: str, context: Any) -> None:
    if counts[caller] == 1:
        del counts[caller]
    else:
        counts[caller] -= 1


def _refusal(method: Method, caller: str) -> RateLimited:
    kind = "streams" if method.streams else "calls"
    message = f"{method.at_once} {kind} of this class are in progress, which is the limit; end some or wait."
    return RateLimited(f"caller:{caller}", message, _RETRY_SECONDS, pb.ERROR_REASON_TOO_MANY_CALLS)
