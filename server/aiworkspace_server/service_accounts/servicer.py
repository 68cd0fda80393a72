"""ServiceAccountService: proto in and out, one transaction per call."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

from aiworkspace.v1 import options_pb2, org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace.v1.service_account_pb2_grpc import ServiceAccountServiceServicer

from ..auth.authority import current_principal
from ..auth.jobs import Notice, Notices
from ..auth.models import User
from ..auth.principal import Authenticator
from ..kit.call_limits import FIELDS, CallLimits, Stored
from ..kit.context import caller_id, tenant_id
from ..kit.errors import NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..kit.timestamps import parse_timestamp, timestamp
from ..orgs.jobs import notify_owners
from ..orgs.models import Membership
from ..orgs.servicer import Erase, RightsLost, invitation_to_proto, read_role, role_to_proto
from ..orgs.store import find_org
from . import limits, service, store
from .models import ApiKey

_MOST_LISTED = 1000  # of each kind of thing that was created with a key


class ServiceAccountServicer(ServiceAccountServiceServicer):
    def __init__(
        self,
        db: Database,
        call_limits: CallLimits,
        authenticator: Authenticator,
        rights_lost: RightsLost,
        tasks: Tasks,
        erase: Erase,
        notices: Notices,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._call_limits = call_limits
        self._authenticator = authenticator
        self._rights_lost = rights_lost
        self._tasks = tasks
        self._erase = erase
        self._notices = notices
        self._pages = pages
        self._idempotency = idempotency

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Any
    ) -> pb.CreateServiceAccountResponse:
        role = read_role(request.role, request.custom_role_id, "")
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateServiceAccountResponse):
                return reply
            caller = current_principal()
            inherited = limits.limits_of_new_account(self._call_limits, caller)
            made = await service.create_service_account(tx, tenant_id(), request.name, role, caller, inherited)
            reply = pb.CreateServiceAccountResponse(service_account=_account_to_proto(*made))
            return await self._idempotency.save(tx, request, reply)

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Any
    ) -> pb.ListServiceAccountsResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_accounts(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].user_id])
        accounts = [_account_to_proto(*row) for row in rows]
        return pb.ListServiceAccountsResponse(service_accounts=accounts, next_page_token=more)

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: Any
    ) -> pb.DeleteServiceAccountResponse:
        return await self._tasks.complete(self._delete(parse_id(request.user_id, "user_id")))

    async def _delete(self, user_id: UUID) -> pb.DeleteServiceAccountResponse:
        async with self._db.write(tenant_id()) as tx:
            revoked, kept = await service.delete_service_account(tx, tenant_id(), user_id, current_principal())
            await self._erase(tx, user_id)
        self._authenticator.forget_org(tenant_id())  # keys of other accounts may have been revoked, too
        await self._rights_lost(tenant_id())
        return pb.DeleteServiceAccountResponse(revoked_api_key_ids=map(str, revoked), kept_api_key_ids=map(str, kept))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        user_id, caller = parse_id(request.user_id, "user_id"), current_principal()
        workspace_ids = frozenset(parse_id(each, "workspace_ids") for each in request.workspace_ids)
        scopes = service.read_scopes(request.permissions, workspace_ids)
        expire_time = _expire_time(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateApiKeyResponse):
                return reply
            service.check_future(expire_time)
            key, secret = await service.create_key(tx, tenant_id(), user_id, request.name, scopes, expire_time, caller)
            reply = pb.CreateApiKeyResponse(api_key=_key_to_proto(key, workspace_ids), secret=secret)
            await notify_owners(tx, self._notices, Notice.API_KEY_CREATED)
            return await self._idempotency.save(tx, request, reply)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        user_id = parse_id(request.user_id, "user_id") if request.user_id else None
        async with self._db.read(tenant_id()) as tx:
            keys = await store.list_keys(tx, user_id, self._pages.after_id(request), self._pages.limit(request))
            keys, more = self._pages.cut(request, keys, lambda key: [key.id])
            workspaces = await store.workspaces_of_keys(tx, keys)
        shown = [_key_to_proto(key, workspaces.get(key.id, ())) for key in keys]
        return pb.ListApiKeysResponse(api_keys=shown, next_page_token=more)

    async def RotateApiKey(self, request: pb.RotateApiKeyRequest, context: Any) -> pb.RotateApiKeyResponse:
        api_key_id, caller = parse_id(request.api_key_id, "api_key_id"), current_principal()
        overlap, expire_time = timedelta(seconds=request.overlap_seconds), _expire_time(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.RotateApiKeyResponse):
                rotated = await store.find_key(tx, UUID(reply.api_key.api_key_id))
                reply.api_key.name = rotated.name if rotated else ""  # stored replies have no names
                return reply
            service.check_future(expire_time)
            key, scopes, secret = await service.rotate_key(tx, tenant_id(), api_key_id, overlap, expire_time, caller)
            reply = pb.RotateApiKeyResponse(api_key=_key_to_proto(key, scopes.workspace_ids or ()), secret=secret)
            await notify_owners(tx, self._notices, Notice.API_KEY_CREATED)
            await self._idempotency.save(tx, request, reply)
        self._authenticator.forget(key.user_id)
        await self._rights_lost(tenant_id())  # the old key may have been ended at once
        return reply

    async def SetServiceAccountLimits(
        self, request: pb.SetServiceAccountLimitsRequest, context: Any
    ) -> pb.SetServiceAccountLimitsResponse:
        user_id, asked = parse_id(request.user_id, "user_id"), _read_limits(request.call_limits)
        async with self._db.write(tenant_id()) as tx:
            caller = current_principal()
            account = await limits.set_account_limits(tx, tenant_id(), user_id, asked, self._call_limits, caller)
        self._authenticator.forget(user_id)
        return pb.SetServiceAccountLimitsResponse(service_account=_account_to_proto(*account))

    async def SetApiKeyLimits(self, request: pb.SetApiKeyLimitsRequest, context: Any) -> pb.SetApiKeyLimitsResponse:
        api_key_id, asked = parse_id(request.api_key_id, "api_key_id"), _read_limits(request.call_limits)
        async with self._db.write(tenant_id()) as tx:
            caller = current_principal()
            key = await limits.set_key_limits(tx, tenant_id(), api_key_id, asked, self._call_limits, caller)
            workspaces = await store.workspaces_of_keys(tx, [key])
        self._authenticator.forget(key.user_id)
        return pb.SetApiKeyLimitsResponse(api_key=_key_to_proto(key, workspaces.get(key.id, ())))

    async def GetCallCeilings(self, request: pb.GetCallCeilingsRequest, context: Any) -> pb.GetCallCeilingsResponse:
        async with self._db.read(tenant_id()) as tx:
            org = await find_org(tx, tenant_id())
        if org is None:
            raise NotFound("org_id")
        ceilings = [
            pb.CallCeiling(
                rate_limit_class=_class(number),
                default_limit=pb.CallLimit(rate_limit_class=_class(number), **asdict(usual)),
                most=pb.CallLimit(
                    rate_limit_class=_class(number), **asdict(self._call_limits.ceiling(number, org.call_ceilings))
                ),
            )
            for number, usual in self._call_limits.defaults.items()
        ]
        return pb.GetCallCeilingsResponse(ceilings=ceilings)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        return await self._tasks.complete(self._revoke(request))

    async def _revoke(self, request: pb.RevokeApiKeyRequest) -> pb.RevokeApiKeyResponse:
        api_key_id, caller = parse_id(request.api_key_id, "api_key_id"), current_principal()
        async with self._db.write(tenant_id()) as tx:
            revoked = await service.revoke_key(tx, tenant_id(), api_key_id, caller, keep_created=request.keep_created)
            keys = revoked.key, *await store.find_keys(tx, revoked.created_key_ids[:_MOST_LISTED])
            workspaces = await store.workspaces_of_keys(tx, keys)
            made_with = revoked.key.id, *revoked.created_key_ids
            accounts = await store.list_accounts_of_keys(tx, made_with, _MOST_LISTED)
        self._authenticator.forget_org(tenant_id())
        await self._rights_lost(tenant_id())
        key, *created = (_key_to_proto(each, workspaces.get(each.id, ())) for each in keys)
        return pb.RevokeApiKeyResponse(
            api_key=key,
            created_api_keys=created,
            created_invitations=map(invitation_to_proto, revoked.created_invitations[:_MOST_LISTED]),
            created_service_accounts=[_account_to_proto(*row) for row in accounts],
        )


def _expire_time(request: pb.CreateApiKeyRequest | pb.RotateApiKeyRequest) -> Any:
    """Return the expire_time of the request as a datetime, or None."""
    return parse_timestamp(request.expire_time, "expire_time") if request.HasField("expire_time") else None


def _read_limits(given: Sequence[pb.CallLimit]) -> limits.Asked:
    """Return what is to be set. A field that is 0 is not."""
    values = [{field: getattr(each, field) for field in FIELDS if getattr(each, field)} for each in given]
    return [(each.rate_limit_class, fields) for each, fields in zip(given, values, strict=True)]


def _limits_to_proto(stored: Stored) -> Iterable[pb.CallLimit]:
    return (pb.CallLimit(rate_limit_class=_class(number), **values) for number, values in limits.to_asked(stored))


def _class(number: int) -> options_pb2.RateLimitClass.ValueType:
    return cast(options_pb2.RateLimitClass.ValueType, number)


def _account_to_proto(member: Membership, user: User) -> pb.ServiceAccount:
    suspended = member.suspend_time is not None
    return pb.ServiceAccount(
        user_id=str(user.id),
        org_id=str(member.org_id),
        name=user.display_name,
        role=role_to_proto(member.role),
        custom_role_id=str(member.custom_role_id or ""),
        state=org_pb2.MEMBER_STATE_SUSPENDED if suspended else org_pb2.MEMBER_STATE_ACTIVE,
        create_time=timestamp(user.create_time),
        creator_key_id=str(member.creator_key_id or ""),
        call_limits=_limits_to_proto(member.call_limits),
    )


def _key_to_proto(key: ApiKey, workspace_ids: Iterable[UUID]) -> pb.ApiKey:
    return pb.ApiKey(
        api_key_id=str(key.id),
        org_id=str(key.org_id),
        user_id=str(key.user_id),
        name=key.name,
        prefix=key.prefix,
        permissions=key.permissions,
        workspace_ids=map(str, sorted(workspace_ids)),
        state=_state(key),
        creator_id=str(key.creator_id),
        creator_key_id=str(key.creator_key_id or ""),
        create_time=timestamp(key.create_time),
        expire_time=timestamp(key.expire_time) if key.expire_time else None,
        last_use_time=timestamp(key.last_use_time) if key.last_use_time else None,
        last_use_address=key.last_use_address or "",
        root_api_key_id=str(key.line_id),
        call_limits=_limits_to_proto(key.call_limits),
    )


def _state(key: ApiKey) -> pb.ApiKeyState.ValueType:
    if key.revoke_time:
        return pb.API_KEY_STATE_REVOKED
    return pb.API_KEY_STATE_EXPIRED if service.has_expired(key) else pb.API_KEY_STATE_ACTIVE
