"""Puts together what people sign in with."""

from dataclasses import dataclass

from ..kit.platform import Platform
from .credentials import Credentials
from .jobs import Notices
from .keys import Keys
from .servicer import AuthServicer, PasswordChanged, Registered


@dataclass(frozen=True, slots=True)
class Auth:
    servicer: AuthServicer
    credentials: Credentials
    notices: Notices


def build(platform: Platform, keys: Keys, registered: Registered, password_changed: PasswordChanged) -> Auth:
    settings, db = platform.settings, platform.db
    credentials = Credentials.from_settings(settings, keys, db, platform.counters, platform.call_limits)
    notices = Notices(db, platform.jobs, platform.mailer)
    notices.register(platform.jobs)
    servicer = AuthServicer(
        db,
        credentials,
        settings.who_registers,
        registered,
        password_changed,
        notices,
        platform.pages,
        platform.idempotency,
    )
    return Auth(servicer, credentials, notices)
