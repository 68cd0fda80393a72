"""Rules of custom roles: creating, changing or deleting one needs every permission in it."""

import unicodedata
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb

from ..auth.authority import PERMISSIONS, ROLES, WORKSPACE_ROLES, Principal
from ..kit.errors import FailedPrecondition, InvalidArgument, NotFound, check_etag
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from ..orgs.granting import check_may_grant, permissions_of, role_of
from ..orgs.models import CustomRole
from ..orgs.service import lock_org, withdraw_invitations
from ..orgs.store import find_custom_role
from . import store

_BUILT_IN = ROLES.keys() | WORKSPACE_ROLES.keys()
# Letters of other scripts, and digits, that look like those in the names of built-in roles.
_LOOKALIKES = str.maketrans("авсԁеɡіıӏмогѕтѵԝαβεινοτυω01345", "abcdegiilmorstvwabeinotuwoieas")  # noqa: RUF001


async def create_role(
    tx: WriteSession, org_id: UUID, name: str, permissions: Sequence[str], creator: Principal
) -> CustomRole:
    _check_name(name, "name")
    _check_known(permissions, "permissions")
    await lock_org(tx, org_id, "org_id")
    await check_may_grant(tx, creator, frozenset(permissions))
    time = now()
    role = CustomRole(
        org_id=org_id,
        id=new_id(),
        name=name,
        permissions=sorted(permissions),
        version=1,
        create_time=time,
        update_time=time,
    )
    tx.add(role)
    return role


async def update_role(
    tx: WriteSession, org_id: UUID, custom_role_id: UUID, etag: str, values: dict[str, Any], caller: Principal
) -> CustomRole:
    for name, value in values.items():
        if not value:
            raise InvalidArgument({f"role.{name}": "must not be empty"})
    _check_name(values.get("name", ""), "role.name")
    _check_known(values.get("permissions", ()), "role.permissions")
    await lock_org(tx, org_id, "role.org_id")
    role = await _find_role(tx, custom_role_id, "role.custom_role_id")
    check_etag(etag, role.version, "role.etag")
    permissions = sorted(values.get("permissions", role.permissions))
    await check_may_grant(tx, caller, frozenset(role.permissions), frozenset(permissions))
    role.name, role.permissions = values.get("name", role.name), permissions
    role.version += 1
    role.update_time = now()
    await tx.flush()
    await _withdraw_invitations(tx, role)
    return role


async def delete_role(tx: WriteSession, org_id: UUID, custom_role_id: UUID, caller: Principal) -> None:
    await lock_org(tx, org_id, "org_id")
    role = await _find_role(tx, custom_role_id, "custom_role_id")
    await check_may_grant(tx, caller, frozenset(role.permissions))
    if await store.is_in_use(tx, custom_role_id):
        raise FailedPrecondition(
            pb.ERROR_REASON_ROLE_IN_USE, "A member has this role or a pending invitation offers it."
        )
    await store.delete_role(tx, custom_role_id)


async def _find_role(tx: WriteSession, custom_role_id: UUID, field: str) -> CustomRole:
    role = await find_custom_role(tx, custom_role_id)
    if role is None:
        raise NotFound(field)
    return role


async def _withdraw_invitations(tx: WriteSession, changed: CustomRole) -> None:
    """Revoke pending invitations that their inviters could no longer create.

    Inviters who have the changed role may have lost a permission that they offer, and inviters who offer the role may
    lack a permission that it includes now.
    """
    for inviter in await store.list_inviters(tx, changed.id):
        await withdraw_invitations(tx, inviter.user_id, await permissions_of(tx, role_of(inviter)))


def _check_name(name: str, field: str) -> None:
    """Raise InvalidArgument for a name that looks like the name of a built-in role."""
    letters = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", name).casefold()))
    forms = letters, letters.translate(_LOOKALIKES)
    if any(_resembles(form, role) for form in forms for role in _BUILT_IN):
        raise InvalidArgument({field: "is the name of a built-in role"})


def _resembles(letters: str, role: str) -> bool:
    """Return whether at least half of the letters are those of the role, and all others are not Latin.

    No list has all the letters that look like Latin ones.
    """
    if len(letters) != len(role):
        return False
    own = sum(a == b for a, b in zip(letters, role, strict=True))
    foreign = sum(not letter.isascii() for letter in letters)
    return own + foreign == len(role) and own >= foreign


def _check_known(permissions: Sequence[str], field: str) -> None:
    unknown = [index for index, name in enumerate(permissions) if name not in PERMISSIONS]
    if unknown:
        raise InvalidArgument({f"{field}[{index}]": "is not the name of a permission" for index in unknown})
