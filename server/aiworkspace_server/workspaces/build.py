"""Puts workspaces together."""

from ..kit.platform import Platform
from ..orgs.servicer import RightsLost
from ..policies.providers import Providers
from .retrieval import AreCollections
from .service import WorkspaceFinder
from .servicer import Erase, WorkspaceServicer


def build(
    platform: Platform,
    providers: Providers,
    finder: WorkspaceFinder,
    *,
    rights_lost: RightsLost,
    erase: Erase,
    are_collections: AreCollections,
) -> WorkspaceServicer:
    pages, idempotency = platform.pages, platform.idempotency
    return WorkspaceServicer(platform.db, providers, finder, rights_lost, erase, are_collections, pages, idempotency)
