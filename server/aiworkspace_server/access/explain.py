"""Explains why a call is allowed or refused. It runs the check itself, so that the two cannot disagree."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiworkspace.v1 import options_pb2 as options

from ..auth.authority import OrgSuspended, Scope, Source, principal_of, sources
from ..kit.context import Call
from ..kit.contract import Method
from ..kit.errors import InvalidArgument, NotFound, OperatorRequired, PermissionMissing, SessionRequired
from ..kit.ids import parse_id
from .authorize import Access

_PACKAGE = "aiworkspace.v1."


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result. `grants` are the roles that include the permission; `refusal` is empty if the call is allowed."""

    permission: str
    grants: tuple[Source, ...]
    refusal: str


def find_method(methods: Mapping[str, Method], name: str) -> Method:
    """Return the method with this name or path. Raises InvalidArgument if there is none."""
    path = f"/{_PACKAGE}{name.removeprefix('/').removeprefix(_PACKAGE)}"
    if path not in methods:
        raise InvalidArgument({"method": 'is not a method of the contract, such as "WorkspaceService/UpdateWorkspace"'})
    return methods[path]


async def explain(access: Access, call: Call, method: Method, resource_id: str) -> Explanation:
    """Explain a call of the method for a resource. Raises NotFound if the caller may not know of the resource."""
    needs_permission = method.access.mode == options.ACCESS_MODE_PERMISSION
    for_operators = method.access.mode == options.ACCESS_MODE_OPERATOR
    if bool(resource_id) != needs_permission:
        text = f"must be given: the method's {method.access.scope}" if needs_permission else "must be empty"
        raise InvalidArgument({"resource_id": f"{text} for this method"})
    if not needs_permission:
        if call.session_id is None and (for_operators or method.access.mode == options.ACCESS_MODE_SESSION):
            return Explanation("", (), SessionRequired().message)
        refused = for_operators and not await access.is_operator(call)
        return Explanation("", (), OperatorRequired().message if refused else "")
    allowed = await access.allows(call, method, parse_id(resource_id, "resource_id"))
    scope = call.get(Scope)
    if scope is None:
        raise NotFound("resource_id")
    permission = method.access.permission
    grants = tuple(found for found in sources(principal_of(call), scope) if permission in found.permissions)
    if allowed and await access.is_closed(call, method):
        return Explanation(permission, grants, OrgSuspended().message)
    return Explanation(permission, grants, "" if allowed else _refusal(call, method, granted=bool(grants)))


def _refusal(call: Call, method: Method, *, granted: bool) -> str:
    permission = method.access.permission
    if granted:
        return f"The permission {permission} is not among the scopes of this API key."
    text = PermissionMissing(permission).message
    return f"{text} You may do this to yourself." if method.access.self_field and call.session_id else text
