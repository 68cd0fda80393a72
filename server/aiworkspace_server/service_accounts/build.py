"""Puts service accounts and API keys together."""

from ..auth.build import Auth
from ..kit.platform import Platform
from ..orgs.servicer import Erase, RightsLost
from .servicer import ServiceAccountServicer


def build(platform: Platform, auth: Auth, *, rights_lost: RightsLost, erase: Erase) -> ServiceAccountServicer:
    return ServiceAccountServicer(
        platform.db,
        platform.call_limits,
        auth.credentials.authenticator,
        rights_lost,
        platform.tasks,
        erase,
        auth.notices,
        platform.pages,
        platform.idempotency,
    )
