"""Credentials of all kinds, and the objects that check them."""

from dataclasses import dataclass
from typing import Self

from ..kit.call_limits import CallLimits
from ..kit.keys import derive
from ..kit.limits import Counters
from ..kit.postgres import Database
from ..settings import Settings
from .cookies import CsrfTokens
from .devices import Devices
from .failures import Failures
from .former_addresses import FormerAddresses
from .keys import Keys
from .passwords import Passwords
from .principal import Authenticator
from .service import Sessions
from .throttle import LoginThrottle
from .tokens import Tokens


@dataclass(frozen=True, slots=True)
class Credentials:
    """The parts of authentication that are built from the same secrets."""

    access_tokens: Tokens
    refresh_tokens: Tokens
    csrf_tokens: CsrfTokens
    sessions: Sessions
    authenticator: Authenticator
    failures: Failures
    passwords: Passwords
    devices: Devices
    throttle: LoginThrottle
    former_addresses: FormerAddresses

    @classmethod
    def from_settings(
        cls, settings: Settings, keys: Keys, db: Database, counters: Counters, call_limits: CallLimits
    ) -> Self:
        lasting = settings.password_pepper.get_secret_value()
        access_tokens = Tokens(keys.access, "access", settings.access_token_seconds)
        refresh_tokens = Tokens(keys.refresh, "refresh", settings.refresh_token_seconds)
        csrf_tokens = CsrfTokens(derive(lasting, "csrf"))
        failures = Failures(counters, settings.rate_limit_factor)
        return cls(
            access_tokens,
            refresh_tokens,
            csrf_tokens,
            Sessions(access_tokens, refresh_tokens, derive(lasting, "lineage")),
            Authenticator(db, access_tokens, csrf_tokens, failures, call_limits),
            failures,
            Passwords(lasting, settings.password_hash_cost),
            Devices(derive(lasting, "devices")),
            LoginThrottle(counters, derive(lasting, "throttle")),
            FormerAddresses(derive(lasting, "former addresses")),
        )

    def use_keys(self, keys: Keys) -> None:
        """Sign and check tokens with these keys from now on."""
        self.access_tokens.use(keys.access)
        self.refresh_tokens.use(keys.refresh)
