"""Puts teams together."""

from ..kit.platform import Platform
from ..orgs.servicer import RightsLost
from ..workspaces.service import WorkspaceFinder
from .servicer import TeamServicer


def build(platform: Platform, finder: WorkspaceFinder, *, rights_lost: RightsLost) -> TeamServicer:
    return TeamServicer(platform.db, finder, rights_lost, platform.pages, platform.idempotency)
