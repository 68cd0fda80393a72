"""The call that is being served, reachable from everything that runs on its behalf."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from google.protobuf.message import Message

if TYPE_CHECKING:
    import grpc

    from .call_limits import OwnLimits
    from .contract import Method

Kind = TypeVar("Kind")


@dataclass(slots=True)
class Call:
    """One RPC, from its first interceptor to its last byte.

    Values of other domains are kept by type, such as the principal, or the document that authorization read: one writer
    calls `put(Principal, principal)`, and readers call `found(Principal)`.
    """

    method: "Method"
    context: "grpc.aio.ServicerContext[Any, Any]"
    metadata: Mapping[str, tuple[str, ...]]
    request_id: str = ""
    address: str = ""  # of the client, perhaps behind a proxy, without a port; "unix" without a network
    user_id: UUID | None = None  # set by authentication; None for public methods
    session_id: UUID | None = None  # set by authentication; None for public methods and API keys
    org_id: UUID | None = None  # the tenant: set by authorization, or by a handler that creates or joins it
    limited_as: str = ""  # whose limits apply; see limits.caller_of
    own_limits: "OwnLimits | None" = None  # of a caller whose organization set some; set by authentication
    fresh: bool = False  # whether authorization must bypass its caches
    subject: UUID | None = None  # the account that a public method is about, once its handler knows it
    operator: bool = False  # whether an operator of the server calls as such; set by authorization
    also_in: Sequence[UUID] = ()  # other organizations whose audit logs must record the call
    answer: Message | None = None  # set by handlers that know the answer before their change is committed
    work: asyncio.Task[Any] | None = None  # continues even if the caller disconnects; set by Tasks.complete
    _values: dict[Any, object] = field(default_factory=dict)

    def put(self, kind: type[Kind], value: Kind | None) -> None:
        """Keep the value for this call, instead of an earlier one of the kind. None removes that."""
        self._values[kind] = value

    def get(self, kind: type[Kind]) -> Kind | None:
        """Return the value of this kind, or None if there is none."""
        return cast(Kind | None, self._values.get(kind))

    def found(self, kind: type[Kind], by: str = "authorization") -> Kind:
        """Return the value of this kind. Raises RuntimeError if there is none; `by` names what puts it."""
        value = self._values.get(kind)
        if value is None:
            raise self.unset(kind.__name__, by)
        return cast(Kind, value)

    def unset(self, what: str, by: str) -> RuntimeError:
        """Return the error for a reader of something that was never set, or not yet."""
        return RuntimeError(f"{self.method.path} has no {what}: {by} did not set it for this call")

    @property
    def account_id(self) -> UUID | None:
        """The account that the call belongs to: the caller's, or the one that a public method is about."""
        return self.user_id or self.subject

    @property
    def user_agent(self) -> str:
        """The client's description of itself."""
        printable = filter(str.isprintable, self.header("user-agent"))  # HTTP lets NUL pass, PostgreSQL does not
        return "".join(printable)[:200]

    def header(self, name: str) -> str:
        """Return the first value of a header, or an empty string."""
        values = self.metadata.get(name)
        return values[0] if values else ""


current: ContextVar[Call] = ContextVar("call")
# Of the call, run or job in progress, for its log lines. Empty: unknown.
current_trace_id: ContextVar[str] = ContextVar("trace_id", default="")


def caller_id() -> UUID:
    """Return the id of the caller. Only for methods that are not public."""
    call = current.get()
    if call.user_id is None:
        raise call.unset("caller", "authentication")
    return call.user_id


def caller_session_id() -> UUID:
    """Return the id of the caller's session. Only for methods that need one."""
    call = current.get()
    if call.session_id is None:
        raise call.unset("session", "authentication")
    return call.session_id


def tenant_id() -> UUID:
    """Return the organization that authorization resolved. Only for methods that need a permission."""
    call = current.get()
    if call.org_id is None:
        raise call.unset("tenant", "authorization")
    return call.org_id
