"""Limits of calls that an organization sets for its service accounts and keys, within its ceilings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb

from ..auth.authority import Principal
from ..auth.models import User
from ..kit.call_limits import SETTABLE, CallLimits, ClassLimit, OwnLimits, Stored, class_name
from ..kit.errors import FailedPrecondition, InvalidArgument, PermissionMissing
from ..kit.postgres import WriteSession
from ..orgs import service as orgs
from ..orgs.granting import check_may_grant, permissions_of, role_of
from ..orgs.models import Membership
from ..orgs.service import lock_org
from ..workspaces.members import check_may_take_all
from . import service, store
from .models import ApiKey

# Classes with the values that are to be set, in the order of the request.
Asked = Sequence[tuple[int, Mapping[str, int]]]


async def set_account_limits(
    tx: WriteSession, org_id: UUID, user_id: UUID, asked: Asked, limits: CallLimits, caller: Principal
) -> tuple[Membership, User]:
    org = await lock_org(tx, org_id, "org_id")
    account = await service.find_account(tx, user_id)
    await check_may_grant(tx, caller, await permissions_of(tx, role_of(account)))
    await check_may_take_all(tx, org_id, caller, user_id)
    _check(asked, lambda number: limits.ceiling(number, org.call_ceilings), "is the ceiling of the organization")
    stored = _stored(asked)
    _check_has(caller, limits, lambda number: limits.of_account(number, org.call_ceilings, stored))
    account.call_limits = stored
    return await orgs.find_member(tx, user_id, "user_id")


async def set_key_limits(
    tx: WriteSession, org_id: UUID, api_key_id: UUID, asked: Asked, limits: CallLimits, caller: Principal
) -> ApiKey:
    org = await lock_org(tx, org_id, "org_id")
    key = await service.find_key(tx, api_key_id)
    if service.has_ended(key):
        raise FailedPrecondition(pb.ERROR_REASON_API_KEY_ENDED, "This key has ended: set the limits of its successor.")
    await service.check_may_hand_out(tx, caller, key.user_id, await service.scopes_of(tx, key))
    account, ceilings = (await service.find_account(tx, key.user_id)).call_limits, org.call_ceilings
    _check(asked, lambda number: limits.of_account(number, ceilings, account), "is the limit of the account")
    stored = _stored(asked)
    own = limits.resolve(ceilings, account, stored, "")
    _check_has(caller, limits, lambda number: _effective(own, limits, number))
    await store.set_limits_of_line(tx, key.line_id, stored)
    await tx.refresh(key, ["call_limits"])
    return key


def limits_of_new_account(limits: CallLimits, caller: Principal) -> dict[str, dict[str, int]]:
    """Return the limits of an account that the caller creates: where a key has less than others, so has the account."""
    lower: dict[str, dict[str, int]] = {}
    for number, usual in limits.defaults.items() if caller.key else ():
        has = _effective(caller.own_limits or {}, limits, number)
        if fields := list(usual.above(has)):
            lower[class_name(number)] = {field: getattr(has, field) for field in fields}
    return lower


def _check(asked: Asked, most: Callable[[int], ClassLimit], what: str) -> None:
    """Raise InvalidArgument for classes that occur twice, and for values above what may be set."""
    wrong = {}
    for position, (number, values) in enumerate(asked):
        where = f"call_limits[{position}]"
        if number in (earlier for earlier, _ in asked[:position]):
            wrong[f"{where}.rate_limit_class"] = "occurs twice"
        for field, value in values.items():
            if (bound := getattr(most(number), field)) == 0:
                wrong[f"{where}.{field}"] = f"does not apply: no {class_name(number)} call is of this kind"
            elif value > bound:
                wrong[f"{where}.{field}"] = f"must be at most {bound}, which {what}"
    if wrong:
        raise InvalidArgument(wrong)


def _check_has(caller: Principal, limits: CallLimits, given: Callable[[int], ClassLimit]) -> None:
    """Raise PermissionMissing if a key gives more than it has, be it to itself."""
    if caller.key is None:
        return
    for number in SETTABLE:
        has = _effective(caller.own_limits or {}, limits, number)
        for field in given(number).above(has):
            own = f"{getattr(has, field)} {field} of the class {class_name(number)}"
            raise PermissionMissing("service_account.manage", f"Your key has {own}, and cannot give more.")


def _effective(own: OwnLimits, limits: CallLimits, number: int) -> ClassLimit:
    """Return what holds for one key by itself."""
    found = own.get(number)
    return (found.key or found.account) if found else limits.defaults[number]


def _stored(asked: Asked) -> dict[str, Any]:
    return {class_name(number): dict(values) for number, values in asked if values}


def to_asked(stored: Stored) -> Asked:
    """Return stored limits by the number of their class, in order."""
    return [(number, values) for number in SETTABLE if (values := stored.get(class_name(number)))]
