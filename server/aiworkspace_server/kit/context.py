"""The call that is being served, reachable from everything that runs on its behalf."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from .contract import Method


@dataclass(slots=True)
class Call:
    """One RPC, from its first interceptor to its last byte."""

    method: "Method"
    context: Any  # grpc.aio.ServicerContext
    metadata: Mapping[str, tuple[str, ...]]
    request_id: str
    address: str = ""  # of the client, perhaps behind a proxy, without a port; "unix" without a network
    user_id: UUID | None = None  # whom the credentials name
    session_id: UUID | None = None  # unless they called with an API key
    principal: Any = None  # what authentication knows of them
    org_id: UUID | None = None  # the tenant that authorization resolved
    scope: Any = None  # where authorization looked for the permission
    fresh: bool = False  # whether authorization is to look past what is remembered
    resource: Any = None  # what it read on the way, so that the handler need not read it again
    subject: UUID | None = None  # the account that a call is about, where no credentials name one
    also_in: Sequence[UUID] = ()  # other organizations whose logs have the call
    answer: Any = None  # what the call will answer, where that is known before its change is committed
    work: Any = None  # a task that continues when the caller disconnects
    recording: Any = None  # how far the audit log is with the call, when it is to be recorded
    log: dict[str, object] = field(default_factory=dict)  # fields for the line about this call

    def set_principal(self, principal: Any) -> None:
        self.principal, self.user_id, self.session_id = principal, principal.user_id, principal.session_id

    @property
    def user_agent(self) -> str:
        """The client's description of itself."""
        printable = filter(str.isprintable, self.header("user-agent"))  # HTTP lets NUL pass, PostgreSQL does not
        return "".join(printable)[:200]

    def header(self, name: str) -> str:
        return next(iter(self.metadata.get(name, ())), "")


current: ContextVar[Call] = ContextVar("call")


def caller_id() -> UUID:
    """The signed-in user. Only for methods whose access is not public."""
    user_id = current.get().user_id
    assert user_id is not None, "a public method has no caller"
    return user_id


def tenant_id() -> UUID:
    """The organization that authorization resolved. Only for methods whose access is a permission."""
    org_id = current.get().org_id
    assert org_id is not None, "only a method with a permission has a tenant"
    return org_id
