"""ModelService: proto in and out, one transaction per call."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import model_pb2 as pb
from aiworkspace.v1.model_pb2_grpc import ModelServiceServicer

from ..kit.context import caller_id, tenant_id
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from . import service, store
from .policy import parse
from .protos import key_to_proto, model_to_proto, policy_to_proto, read_policy
from .providers import Providers
from .store import Rules
from .vault import Vault


class ModelServicer(ModelServiceServicer):
    def __init__(self, db: Database, providers: Providers, vault: Vault, pages: Pages) -> None:
        self._db = db
        self._providers = providers
        self._vault = vault
        self._pages = pages

    async def GetOrgModelPolicy(
        self, request: pb.GetOrgModelPolicyRequest, context: Any
    ) -> pb.GetOrgModelPolicyResponse:
        async with self._db.read(tenant_id()) as tx:
            row = await store.find_policy(tx, tenant_id())
        policy = policy_to_proto(parse(row.policy if row else None), row.version if row else 0)
        return pb.GetOrgModelPolicyResponse(policy=policy)

    async def SetOrgModelPolicy(
        self, request: pb.SetOrgModelPolicyRequest, context: Any
    ) -> pb.SetOrgModelPolicyResponse:
        policy = read_policy(request.policy)
        await service.check_policy(self._providers, tenant_id(), policy, of_org=True)
        async with self._db.write(tenant_id()) as tx:
            row = await service.set_policy(tx, tenant_id(), None, policy, request.policy.etag)
        return pb.SetOrgModelPolicyResponse(policy=policy_to_proto(policy, row.version))

    async def GetWorkspaceModelPolicy(
        self, request: pb.GetWorkspaceModelPolicyRequest, context: Any
    ) -> pb.GetWorkspaceModelPolicyResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.read(tenant_id()) as tx:
            row = await store.find_policy(tx, workspace_id)
            rules = await store.find_rules(tx, tenant_id(), workspace_id)
        policy = policy_to_proto(rules.workspace, row.version if row else 0)
        return pb.GetWorkspaceModelPolicyResponse(policy=policy, effective=policy_to_proto(rules.effective))

    async def SetWorkspaceModelPolicy(
        self, request: pb.SetWorkspaceModelPolicyRequest, context: Any
    ) -> pb.SetWorkspaceModelPolicyResponse:
        workspace_id, policy = parse_id(request.workspace_id, "workspace_id"), read_policy(request.policy)
        await service.check_policy(self._providers, tenant_id(), policy, of_org=False)
        async with self._db.write(tenant_id()) as tx:
            row = await service.set_policy(tx, tenant_id(), workspace_id, policy, request.policy.etag)
            await tx.flush()
            rules = await store.find_rules(tx, tenant_id(), workspace_id)
            service.check_bounds(rules.effective)
        return pb.SetWorkspaceModelPolicyResponse(
            policy=policy_to_proto(policy, row.version), effective=policy_to_proto(rules.effective)
        )

    async def ListWorkspaceModels(
        self, request: pb.ListWorkspaceModelsRequest, context: Any
    ) -> pb.ListWorkspaceModelsResponse:
        rules = await self._rules(parse_id(request.workspace_id, "workspace_id"))
        after, policy = self._pages.after(request), rules.effective
        found = [
            model
            for model in await self._providers.models(rules.keys)
            if policy.allows(model.id) and (not after or model.id > after[0])
        ]
        page, more = self._pages.cut(request, found, lambda model: [model.id])
        return pb.ListWorkspaceModelsResponse(
            models=map(model_to_proto, page), next_page_token=more, unreachable_providers=self._providers.away()
        )

    async def SetProviderKey(self, request: pb.SetProviderKeyRequest, context: Any) -> pb.SetProviderKeyResponse:
        provider, secret = request.provider, request.secret
        await self._providers.try_key(provider, secret)
        async with self._db.write(tenant_id()) as tx:
            stored = await service.set_key(tx, self._vault, tenant_id(), provider, secret, caller_id())
        key, replaced = stored
        self._forget(replaced)
        return pb.SetProviderKeyResponse(provider_key=key_to_proto(key))

    async def ListProviderKeys(self, request: pb.ListProviderKeysRequest, context: Any) -> pb.ListProviderKeysResponse:
        after = self._pages.after(request) or [""]
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_keys(tx, after[0], self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda key: [key.provider])
        return pb.ListProviderKeysResponse(provider_keys=map(key_to_proto, rows), next_page_token=more)

    async def DeleteProviderKey(
        self, request: pb.DeleteProviderKeyRequest, context: Any
    ) -> pb.DeleteProviderKeyResponse:
        async with self._db.write(tenant_id()) as tx:
            deleted = await service.delete_key(tx, tenant_id(), request.provider)
        self._forget(deleted)
        return pb.DeleteProviderKeyResponse()

    async def _rules(self, workspace_id: UUID) -> Rules:
        async with self._db.read(tenant_id()) as tx:
            return await store.find_rules(tx, tenant_id(), workspace_id)

    def _forget(self, key_id: UUID | None) -> None:
        if key_id:
            self._providers.forget(key_id)
