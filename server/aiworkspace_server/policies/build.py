"""Puts together which models may be used, and how."""

from dataclasses import dataclass

from ..kit.platform import Platform
from ..llm.registry import Registry
from .plan import Plans
from .providers import Providers
from .servicer import ModelServicer
from .vault import Vault


@dataclass(frozen=True, slots=True)
class Policies:
    servicer: ModelServicer
    providers: Providers
    plans: Plans


def build(platform: Platform, registry: Registry) -> Policies:
    settings, db = platform.settings, platform.db
    vault = Vault.from_settings(settings)
    providers = Providers(db, registry, vault)
    plans = Plans(db, providers, platform.counters, settings.max_output_tokens)
    return Policies(ModelServicer(db, providers, vault, platform.pages), providers, plans)
