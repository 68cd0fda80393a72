"""Puts roles, and the explanation of access, together."""

from collections.abc import Mapping

from ..auth.build import Auth
from ..kit.contract import Method
from ..kit.platform import Platform
from ..orgs.servicer import RightsLost
from .authorize import Access
from .servicer import AccessServicer


def build(
    platform: Platform,
    auth: Auth,
    access: Access,
    methods: Mapping[str, Method],
    *,
    rights_lost: RightsLost,
) -> AccessServicer:
    return AccessServicer(
        platform.db, auth.credentials.authenticator, access, methods, rights_lost, platform.pages, platform.idempotency
    )
