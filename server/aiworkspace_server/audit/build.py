"""Puts the audit log together."""

from dataclasses import dataclass

from ..kit.platform import Platform, lasting_key
from ..kit.tasks import Tasks
from ..settings import Settings
from .calls import ActorOf
from .recorder import Recorder
from .service import Chain
from .servicer import AuditServicer


@dataclass(frozen=True, slots=True)
class Audit:
    servicer: AuditServicer
    recorder: Recorder


def build(platform: Platform, actor_of: ActorOf) -> Audit:
    chain = make_chain(platform.settings)
    # Tasks of its own: at shutdown entries are still written when the other tasks have ended.
    recorder = Recorder(platform.db, chain, actor_of, Tasks())
    return Audit(AuditServicer(platform.db, chain, platform.pages), recorder)


def make_chain(settings: Settings) -> Chain:
    """Return the hash chain, for commands that write entries too."""
    return Chain(lasting_key(settings, "audit"))
