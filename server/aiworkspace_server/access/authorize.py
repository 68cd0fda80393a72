"""Authorization: finds the organization or workspace of a call from the contract, and checks the permission there."""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any
from uuid import UUID

from aiworkspace.v1 import options_pb2 as options

from ..auth.authority import OrgSuspended, Scope, held, principal_of, sees
from ..auth.operators import is_operator
from ..auth.principal import Authenticator
from ..auth.service import email_unverified
from ..kit.context import Call
from ..kit.contract import Method, value_at
from ..kit.errors import NotFound, OperatorRequired, PermissionMissing
from ..kit.ids import parse_id
from ..kit.postgres import Database

# Returns the scope of a resource, or None if the call's principal may not know of it.
FindScope = Callable[[Call, UUID], Awaitable[Scope | None]]


class Access:
    """The check of every method with a permission, before anything else reads its request."""

    def __init__(
        self,
        db: Database,
        authenticator: Authenticator,
        finders: Mapping[str, FindScope],
        *,
        verified_email_required: bool,
    ) -> None:
        self._db = db
        self._authenticator = authenticator
        self._verified_email_required = verified_email_required
        self._finders: dict[str, FindScope] = {"org_id": _itself, **finders}

    @property
    def scopes(self) -> tuple[str, ...]:
        """Return the names of the fields from which a scope can be found."""
        return tuple(self._finders)

    async def authorize(self, call: Call, request: Any) -> None:
        """Set the call's tenant and scope.

        Raises NotFound if the caller may not know of the resource, PermissionMissing if the caller may know of it but
        lacks the permission, OrgSuspended, and FailedPrecondition if the call needs a verified email address.
        """
        path = call.method.access.scope
        resource_id = parse_id(value_at(request, path), path)
        own = _is_about_caller(call, request)
        if not await self.allows(call, call.method, resource_id):
            known = call.get(Scope) is not None
            if not (own and known):
                raise PermissionMissing(call.method.access.permission) if known else NotFound(path)
        if await self.is_closed(call, call.method):
            raise OrgSuspended
        if self._verified_email_required and call.method.rate_limit == options.RATE_LIMIT_CLASS_GENERATE:
            await self._check_verified(call)

    async def check_operator(self, call: Call) -> None:
        """Raise OperatorRequired unless the caller is an operator of the server at this moment."""
        call.operator = await self.is_operator(call)
        if not call.operator:
            raise OperatorRequired

    async def is_operator(self, call: Call) -> bool:
        """Return whether the caller is an operator of the server at this moment."""
        async with self._db.read() as tx:
            return await is_operator(tx, principal_of(call).user_id)

    async def is_closed(self, call: Call, method: Method) -> bool:
        """Return whether the call's organization is suspended and the method refuses that."""
        if not _is_suspended(call) or method.access.while_suspended:
            return False
        if not call.fresh:
            call.fresh = True  # a reinstatement of a moment ago counts
            await self._authenticator.refresh(call)
        return _is_suspended(call)

    async def _check_verified(self, call: Call) -> None:
        """Raise FailedPrecondition unless the caller's address is verified."""
        if not principal_of(call).verified:
            await self._authenticator.refresh(call)  # it may have been verified since the principal was cached
        if not principal_of(call).verified:
            raise email_unverified()

    async def allows(self, call: Call, method: Method, resource_id: UUID) -> bool:
        """Return whether the call's principal holds the method's permission for the resource.

        Sets the call's scope and tenant, to None if the principal may not know of the resource.
        """
        if await self._allowed(call, method, resource_id):
            return True
        if call.fresh:
            return False
        call.fresh = True  # a permission that was granted a moment ago counts
        await self._authenticator.refresh(call)
        return await self._allowed(call, method, resource_id)

    async def recheck(self, call: Call) -> None:
        """Raise what `authorize` would raise now, if the caller of an ongoing call has lost the permission."""
        await self._authenticator.recheck(call)
        await self._check_still(call, fresh=False)

    async def authorize_again(self, call: Call) -> None:
        """Check like `recheck`, but from the database, because cached rights may be a second old."""
        await self._authenticator.refresh(call)
        await self._check_still(call, fresh=True)

    async def _check_still(self, call: Call, *, fresh: bool) -> None:
        scope: Scope | None = call.found(Scope)
        call.fresh = fresh
        if scope and scope.workspace_id:
            scope = await self.find(call, "workspace_id", scope.workspace_id)
            call.put(Scope, scope)
        if scope is None or not sees(principal_of(call), scope):
            raise NotFound(call.method.access.scope)
        if call.method.access.permission not in held(principal_of(call), scope):
            raise PermissionMissing(call.method.access.permission)
        if _is_suspended(call) and not call.method.access.while_suspended:
            raise OrgSuspended

    def allowed_by(self, call: Call) -> Hashable:
        """Return what the result of `recheck` depends on: credentials, permission and scope."""
        return call.session_id or principal_of(call).key_id, call.method.access.permission, call.found(Scope)

    async def find(self, call: Call, path: str, resource_id: UUID) -> Scope | None:
        """Return the scope of the resource in a scope field, or None if the caller may not know of it."""
        scope = await self._finders[path.rpartition(".")[2]](call, resource_id)
        return scope if scope and sees(principal_of(call), scope) else None

    async def _allowed(self, call: Call, method: Method, resource_id: UUID) -> bool:
        scope = await self.find(call, method.access.scope, resource_id)
        call.put(Scope, scope)
        call.org_id = scope.org_id if scope else None
        return scope is not None and method.access.permission in held(principal_of(call), scope)


def _is_suspended(call: Call) -> bool:
    membership = principal_of(call).memberships.get(call.org_id) if call.org_id else None
    return membership is not None and membership.suspended is not None


def _is_about_caller(call: Call, request: Any) -> bool:
    """Return whether a person does this to themselves, for which no permission is needed. Never with an API key."""
    field = call.method.access.self_field
    return bool(field) and principal_of(call).key is None and value_at(request, field).lower() == str(call.user_id)


async def _itself(call: Call, org_id: UUID) -> Scope | None:
    return Scope(org_id)
