"""Puts organizations together."""

from ..auth.build import Auth
from ..kit.mail import Links
from ..kit.mail_limits import SenderLimit
from ..kit.platform import Platform, lasting_key
from .jobs import InvitationMails
from .servicer import CheckPlaces, Erase, OrgCreated, OrgServicer, RevokeMade, RightsLost
from .tokens import InvitationTokens


def build(
    platform: Platform,
    auth: Auth,
    *,
    created: OrgCreated,
    rights_lost: RightsLost,
    erase: Erase,
    check_places: CheckPlaces,
    revoke_made: RevokeMade,
) -> OrgServicer:
    settings, db, jobs = platform.settings, platform.db, platform.jobs
    tokens = InvitationTokens(lasting_key(settings, "invitations"))
    mails = InvitationMails(db, jobs, platform.mailer, Links(settings.public_url), tokens)
    mails.register(jobs)
    return OrgServicer(
        db,
        auth.credentials.authenticator,
        created,
        rights_lost,
        platform.tasks,
        erase,
        check_places,
        revoke_made,
        tokens,
        mails,
        SenderLimit(platform.counters, settings.invitations_per_hour),
        settings.verified_email_required,
        platform.pages,
        platform.idempotency,
    )
