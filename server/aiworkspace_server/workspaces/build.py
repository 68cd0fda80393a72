"""Puts workspaces together."""

from ..kit.platform import Platform
from ..orgs.servicer import RightsLost
from ..policies.providers import Providers
from .service import WorkspaceFinder
from .servicer import Erase, WorkspaceServicer


def build(
    platform: Platform, providers: Providers, finder: WorkspaceFinder, *, rights_lost: RightsLost, erase: Erase
) -> WorkspaceServicer:
    return WorkspaceServicer(platform.db, providers, finder, rights_lost, erase, platform.pages, platform.idempotency)
