"""Puts the service of operators together."""

from ..auth.build import Auth
from ..kit.platform import Platform
from ..orgs.servicer import RightsLost
from .servicer import AdminServicer


def build(platform: Platform, auth: Auth, *, rights_lost: RightsLost) -> AdminServicer:
    return AdminServicer(platform.db, auth.credentials.authenticator, rights_lost, platform.tasks, platform.pages)
