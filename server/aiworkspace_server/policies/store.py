"""Queries on model policies and provider keys. The tenant is set by the session, never here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from ..kit.postgres import ReadSession, WriteSession
from .models import ModelPolicy, ProviderKey
from .policy import Limit, Policy, parse, stricter

_FIND_RULES = text("""
  SELECT (SELECT policy FROM model_policies WHERE scope_id = :org_id) AS org,
         (SELECT policy FROM model_policies WHERE scope_id = :workspace_id) AS workspace,
         (SELECT jsonb_object_agg(provider, id) FROM provider_keys) AS keys_
""")
_LIST_ORGS = text("SELECT list_provider_key_orgs()")


@dataclass(frozen=True, slots=True)
class Rules:
    """The policies and provider keys that apply in a workspace."""

    org_id: UUID
    workspace_id: UUID
    org: Policy
    workspace: Policy
    keys: dict[str, UUID]  # ids of the organization's own keys, by provider

    @property
    def effective(self) -> Policy:
        return stricter(self.org, self.workspace)

    @property
    def limits(self) -> list[tuple[str, UUID, Limit]]:
        """Return the limits of both policies, each with its owner: "organization" or "workspace", and the id."""
        of_org = [("organization", self.org_id, limit) for limit in self.org.limits]
        return of_org + [("workspace", self.workspace_id, limit) for limit in self.workspace.limits]


async def find_rules(tx: ReadSession, org_id: UUID, workspace_id: UUID) -> Rules:
    """Return the rules of a workspace. A single statement, because every message needs it."""
    row = (await tx.execute(_FIND_RULES, {"org_id": org_id, "workspace_id": workspace_id})).one()
    return rules_of(org_id, workspace_id, row.org, row.workspace, row.keys_)


def rules_of(org_id: UUID, workspace_id: UUID, org: Any, workspace: Any, keys: Mapping[str, str] | None) -> Rules:
    """Return the rules that the stored policies and the ids of keys, by provider, make up."""
    ids = {provider: UUID(key_id) for provider, key_id in (keys or {}).items()}
    return Rules(org_id, workspace_id, parse(org), parse(workspace), ids)


async def find_policy(tx: ReadSession, scope_id: UUID) -> ModelPolicy | None:
    return (await tx.execute(select(ModelPolicy).where(ModelPolicy.scope_id == scope_id))).scalar_one_or_none()


async def find_key(tx: ReadSession, provider: str) -> ProviderKey | None:
    return (await tx.execute(select(ProviderKey).where(ProviderKey.provider == provider))).scalar_one_or_none()


async def list_keys(tx: ReadSession, after: str, limit: int) -> Sequence[ProviderKey]:
    """Return provider keys, by provider, starting after `after`."""
    column = ProviderKey.provider.collate("C")
    return (await tx.execute(select(ProviderKey).where(column > after).order_by(column).limit(limit))).scalars().all()


async def list_orgs_with_keys(tx: ReadSession) -> Sequence[UUID]:
    return (await tx.execute(_LIST_ORGS)).scalars().all()


async def lock_keys(tx: WriteSession) -> Sequence[ProviderKey]:
    return (await tx.execute(select(ProviderKey).with_for_update())).scalars().all()
