"""Puts accounts together."""

from ..auth.build import Auth
from ..kit.jobs import Jobs
from ..kit.mail import Links, Mailer
from ..kit.platform import Platform, lasting_key
from ..kit.postgres import Database
from ..settings import Settings
from .jobs import TokenMails
from .service import EmailTokens, GiveUp
from .servicer import AccountServicer, Erase, Leave, Left


def build(
    platform: Platform,
    auth: Auth,
    mails: TokenMails,
    *,
    give_up: GiveUp,
    leave: Leave,
    left: Left,
    erase: Erase,
) -> AccountServicer:
    return AccountServicer(
        platform.db, auth.credentials, mails, auth.notices, give_up, leave, left, erase, platform.idempotency
    )


def build_mails(settings: Settings, db: Database, jobs: Jobs, mailer: Mailer) -> TokenMails:
    """Return the mails with tokens, for commands that enqueue them too."""
    tokens = EmailTokens(lasting_key(settings, "email tokens"))
    mails = TokenMails(db, jobs, mailer, Links(settings.public_url), tokens)
    mails.register(jobs)
    return mails
