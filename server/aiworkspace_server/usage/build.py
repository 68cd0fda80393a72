"""Puts the ledger together."""

from dataclasses import dataclass

from ..kit.platform import Platform
from .ledger import Ledger
from .servicer import UsageServicer


@dataclass(frozen=True, slots=True)
class Usage:
    servicer: UsageServicer
    ledger: Ledger


def build(platform: Platform) -> Usage:
    ledger = Ledger(platform.settings.allowance_nanos)
    return Usage(UsageServicer(platform.db, ledger, platform.pages), ledger)
