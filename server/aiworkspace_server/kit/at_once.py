"""Limits of concurrent calls per caller in this process: those of the contract, or the caller's own."""

from functools import partial
from typing import Any

from aiworkspace.v1 import common_pb2 as pb

from .call_limits import ClassLimit
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
            own = call.own_limits.get(method.rate_limit) if call.own_limits else None
            if own and own.key:
                _enter(method, counts, call, own.key_name, _at_once(method, own.key))
            _enter(method, counts, call, caller_of(call), _at_once(method, own.account) if own else method.at_once)
            return await proceed(call, request)

        return handler


def _at_once(method: Method, limit: ClassLimit) -> int:
    return limit.streams_at_once if method.streams else limit.calls_at_once


def _enter(method: Method, counts: dict[str, int], call: Call, caller: str, most: int) -> None:
    count = counts.get(caller, 0)
    if count >= most:
        raise _refusal(method, caller, most)
    counts[caller] = count + 1
    # Until the response is sent: an unread response is held until its connection ends.
    call.context.add_done_callback(partial(_leave, counts, caller))  # type: ignore[arg-type]  # a class in stubs


def _leave(counts: dict[str, int], caller: str, context: Any) -> None:
    if counts[caller] == 1:
        del counts[caller]
    else:
        counts[caller] -= 1


def _refusal(method: Method, caller: str, most: int) -> RateLimited:
    kind = "streams" if method.streams else "calls"
    message = f"{most} {kind} of this class are in progress, which is the limit; end some or wait."
    return RateLimited(f"caller:{caller}", message, _RETRY_SECONDS, pb.ERROR_REASON_TOO_MANY_CALLS)
