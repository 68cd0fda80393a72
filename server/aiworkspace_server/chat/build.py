"""Puts ChatService together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..access.authorize import FindScope
from ..kit.context import Call
from ..kit.mongo import Mongo
from ..kit.platform import Platform
from ..llm.registry import Registry
from ..policies.build import Policies
from ..runs.build import RunEngine
from ..workspaces.service import WorkspaceFinder
from .authorization import ChatFinder
from .erasure import ChatEraser
from .service import ChatService
from .servicer import ChatServicer


@dataclass(frozen=True, slots=True)
class Chat:
    servicer: ChatServicer
    eraser: ChatEraser


def build(
    platform: Platform,
    mongo: Mongo,
    registry: Registry,
    policies: Policies,
    engine: RunEngine,
    authorize_again: Callable[[Call], Awaitable[None]],
) -> Chat:
    eraser = ChatEraser(platform.db, mongo, engine.cancellation, engine.bus)
    service = ChatService(platform.db, mongo, policies.plans, engine.manager, eraser)
    servicer = ChatServicer(
        service,
        engine.cancellation,
        platform.db,
        mongo,
        registry,
        policies.providers,
        authorize_again,
        platform.tasks,
        platform.pages,
        platform.idempotency,
    )
    return Chat(servicer, eraser)


def finders(mongo: Mongo, workspaces: WorkspaceFinder) -> dict[str, FindScope]:
    """Return what finds the scope of a conversation or run, by the name of the request field."""
    finder = ChatFinder(mongo, workspaces)
    return {"conversation_id": finder.find_conversation, "run_id": finder.find_run}
