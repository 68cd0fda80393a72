"""Rules of model policies and of organizations' provider keys."""

from uuid import UUID

from ..kit.errors import InvalidArgument, check_etag
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from ..orgs import service as orgs
from . import store
from .models import ModelPolicy, ProviderKey
from .policy import Policy, dump
from .providers import Providers
from .vault import Vault

_HINT_LENGTH = 4


async def check_policy(providers: Providers, org_id: UUID, policy: Policy, *, of_org: bool) -> None:
    """Raise InvalidArgument if a policy contradicts itself. May call a model server: not for use in a transaction."""
    check_bounds(policy)
    if policy.default_model and not of_org:
        raise InvalidArgument(
            {"policy.default_model": "belongs to the organization's policy; set the workspace's own default_model"}
        )
    if policy.default_model and not policy.allows(policy.default_model):
        raise InvalidArgument({"policy.default_model": "is not among allowed_models"})
    limited = [limit.model for limit in policy.limits]
    if len(set(limited)) < len(limited):
        raise InvalidArgument({"policy.limits": "name a model twice"})
    if policy.default_model:
        await providers.check(org_id, policy.default_model, "policy.default_model")
    for model in policy.fallback_models:
        await providers.check(org_id, model, "policy.fallback_models")
    for model in policy.allowed_models or ():
        await _check_pattern(providers, org_id, model, "policy.allowed_models")
    for model in limited:
        await _check_pattern(providers, org_id, model, "policy.limits")


def check_bounds(policy: Policy) -> None:
    """Raise InvalidArgument if the bounds leave no temperature, in one policy or in two combined."""
    least, most = policy.bounds.min_temperature, policy.bounds.max_temperature
    if least is not None and most is not None and least > most:
        raise InvalidArgument(
            {"policy.bounds.min_temperature": f"is {least:g} in effect, above the greatest temperature, {most:g}"}
        )


async def _check_pattern(providers: Providers, org_id: UUID, pattern: str, field: str) -> None:
    if pattern.endswith("/*"):
        await providers.check_provider(org_id, pattern[:-2], field)
    else:
        await providers.check(org_id, pattern, field)


async def set_policy(
    tx: WriteSession, org_id: UUID, workspace_id: UUID | None, policy: Policy, etag: str
) -> ModelPolicy:
    """Store and return the policy of the workspace or, without a workspace, of the organization."""
    await orgs.lock_org(tx, org_id, "workspace_id" if workspace_id else "org_id")
    row = await store.find_policy(tx, workspace_id or org_id)
    check_etag(etag, row.version if row else 0, "policy.etag")
    if row is None:
        row = ModelPolicy(org_id=org_id, scope_id=workspace_id or org_id, workspace_id=workspace_id, version=0)
        tx.add(row)
    row.policy, row.update_time = dump(policy), now()
    row.version += 1
    return row


async def set_key(
    tx: WriteSession, vault: Vault, org_id: UUID, provider: str, secret: str, creator_id: UUID
) -> tuple[ProviderKey, UUID | None]:
    """Store a key. Return it and the id of the one it replaces."""
    replaced = await delete_key(tx, org_id, provider)
    key = ProviderKey(
        org_id=org_id,
        provider=provider,
        id=new_id(),
        secret=vault.seal(org_id, provider, secret),
        hint=secret[-_HINT_LENGTH:],
        creator_id=creator_id,
        create_time=now(),
    )
    tx.add(key)
    return key, replaced


async def delete_key(tx: WriteSession, org_id: UUID, provider: str) -> UUID | None:
    """Delete a key and return its id, or None if there was none."""
    await orgs.lock_org(tx, org_id, "org_id")
    key = await store.find_key(tx, provider)
    if key is None:
        return None
    await tx.delete(key)
    await tx.flush()
    return key.id
