"""The providers of an organization: with its own key where it has one, else with the server's."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog
from cachetools import LRUCache

from aiworkspace.v1 import common_pb2

from ..kit.errors import FailedPrecondition, InvalidArgument, Unavailable
from ..kit.postgres import Database
from ..llm import catalog
from ..llm.base import HostedProvider, ModelInfo, Provider, ProviderError
from ..llm.registry import HOSTED, Registry, UnknownModel
from . import store
from .vault import SealBroken, Vault

UNKNOWN_CONTEXT_TOKENS = 100_000
_MOST_CACHED = 1000

log = structlog.get_logger("providers")


@dataclass(frozen=True, slots=True)
class Target:
    """A model, its provider, and the key that is used."""

    model: str  # its id
    name: str  # the provider's name of it
    provider: Provider
    own_key: bool  # the organization's rather than the server's
    account: str  # identifies provider and key, without the key itself: the unit of a circuit breaker
    context_tokens: int = UNKNOWN_CONTEXT_TOKENS  # size of its context


class Providers:
    """Finds providers. May call a local model server and reads keys, so it must not be used inside a transaction."""

    def __init__(self, db: Database, registry: Registry, vault: Vault) -> None:
        self._db = db
        self._registry = registry
        self._vault = vault
        # By key id, which changes with the key. Clients of one provider share connections, so none has to be closed.
        self._own: LRUCache[UUID, HostedProvider] = LRUCache(_MOST_CACHED)

    async def resolve(self, org_id: UUID, keys: Mapping[str, UUID], model: str) -> Target:
        """Return the target of a model. Raises UnknownModel, or FailedPrecondition if the key cannot be decrypted.

        `keys` are the ids of the organization's own keys. Where it has one, the server's key is never used.
        """
        kind, _, name = model.partition("/")
        key_id = keys.get(kind)
        if key_id is None:
            provider, name = await self._registry.resolve(model)
        elif name in catalog.names(kind):
            provider = await self._with_own_key(org_id, kind, key_id)
        else:
            raise UnknownModel(model)
        context = provider.context_tokens(name) or UNKNOWN_CONTEXT_TOKENS
        return Target(model, name, provider, key_id is not None, f"{kind}/{key_id}" if key_id else kind, context)

    async def check(self, org_id: UUID, model: str, field: str) -> None:
        """Raise InvalidArgument, naming the field, if the organization cannot use the model with any key."""
        try:
            await self._registry.resolve(model)
        except UnknownModel:
            kind, _, name = model.partition("/")
            if kind not in HOSTED or name not in catalog.names(kind) or not await self._has_key(org_id, kind):
                raise unknown_model(model, field) from None

    async def check_provider(self, org_id: UUID, kind: str, field: str) -> None:
        """Raise InvalidArgument, naming the field, if the organization cannot use the provider with any key."""
        if not self._registry.has_provider(kind) and not (kind in HOSTED and await self._has_key(org_id, kind)):
            raise InvalidArgument({field: f"{kind[:100]!r} is not a provider that the organization can use"})

    async def models(self, keys: Mapping[str, UUID]) -> list[ModelInfo]:
        """Return every model that is available with the server's keys or these, by id."""
        found = {model.id: model for model in await self._registry.models()}
        found |= {model.id: model for kind in keys for model in catalog.models(kind)}
        return [found[model_id] for model_id in sorted(found)]

    def away(self) -> list[str]:
        """Return the names of providers that did not answer the last request for their models."""
        return self._registry.away()

    async def try_key(self, kind: str, secret: str) -> None:
        """Try a key. Raises FailedPrecondition if the provider refuses it, Unavailable if it does not say."""
        provider = await self._registry.with_key(kind, secret)
        try:
            await provider.check_key()
        except ProviderError as error:
            log.info("provider_key_not_accepted", provider=kind, kind=error.kind, status=error.status)
            if error.status in (401, 403):
                raise _refused("The provider does not accept this key.") from None
            raise Unavailable("The provider did not say whether it accepts the key. Retry.") from None

    def forget(self, key_id: UUID) -> None:
        """Forget a key that is no longer stored."""
        self._own.pop(key_id, None)

    async def _has_key(self, org_id: UUID, kind: str) -> bool:
        async with self._db.read(org_id) as tx:
            return await store.find_key(tx, kind) is not None

    async def _with_own_key(self, org_id: UUID, kind: str, key_id: UUID) -> HostedProvider:
        if key_id not in self._own:
            async with self._db.read(org_id) as tx:
                key = await store.find_key(tx, kind)
            if key is None or key.id != key_id:
                raise Unavailable("The organization's key was just changed. Retry.")
            try:
                secret = self._vault.open(org_id, kind, key.secret)
            except SealBroken:
                log.error("provider_key_not_decrypted", org_id=str(org_id), key_id=str(key_id))
                raise _refused(
                    f"The organization's key at {kind} can no longer be decrypted: store it again."
                ) from None
            self._own[key_id] = await self._registry.with_key(kind, secret)
        return self._own[key_id]


def unknown_model(model: str, field: str) -> InvalidArgument:
    return InvalidArgument({field: f"{model[:100]!r} is not a model that the organization can use"})


def _refused(message: str) -> FailedPrecondition:
    return FailedPrecondition(common_pb2.ERROR_REASON_PROVIDER_KEY_REFUSED, message)
