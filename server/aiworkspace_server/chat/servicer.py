"""ChatService: proto in and out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Row

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1.chat_pb2_grpc import ChatServiceServicer

from ..auth.authority import current_principal
from ..kit.context import Call, caller_id, current, tenant_id
from ..kit.errors import NotFound, Unavailable
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import new_id, parse_id
from ..kit.masks import changes
from ..kit.mongo import Mongo
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import now
from ..llm.base import Turn
from ..llm.registry import Registry
from ..policies.plan import Plans
from ..policies.protos import model_to_proto
from ..policies.providers import Providers
from ..policies.store import Rules, find_rules
from ..workspaces import store as workspaces
from ..workspaces.models import Workspace
from . import claims, service
from .context import History, room
from .erasure import ChatEraser
from .events import attempt_to_proto, conversation_to_proto, run_to_proto
from .models import Conversation, Run
from .opening import Question, same_run
from .parts import part
from .rights import RightLost
from .runs import Runs
from .stops import Stops
from .store import ChatStore


class ChatServicer(ChatServiceServicer):
    def __init__(
        self,
        db: Database,
        mongo: Mongo,
        registry: Registry,
        providers: Providers,
        plans: Plans,
        runs: Runs,
        stops: Stops,
        authorize_again: Callable[[Call], Awaitable[None]],
        eraser: ChatEraser,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._plans = plans
        self._db = db
        self._mongo = mongo
        self._registry = registry
        self._providers = providers
        self._runs = runs
        self._stops = stops
        self._authorize_again = authorize_again
        self._eraser = eraser
        self._pages = pages
        self._idempotency = idempotency

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        after = self._pages.after(request)
        models = [model for model in await self._registry.models() if not after or model.id > after[0]]
        page, more = self._pages.cut(request, models, lambda model: [model.id])
        return pb.ListModelsResponse(
            models=map(model_to_proto, page), next_page_token=more, unreachable_providers=self._registry.away()
        )

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Any
    ) -> pb.CreateConversationResponse:
        if request.model:
            await self._providers.check(tenant_id(), request.model, "model")
        conversation = _new_conversation(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            reply = await self._idempotency.find(tx, request, pb.CreateConversationResponse)
            if reply is None:
                reply = pb.CreateConversationResponse(conversation=conversation_to_proto(conversation))
                await self._idempotency.save(tx, request, reply)
        conversation["_id"] = UUID(reply.conversation.conversation_id)
        await self._chat().save_conversation(conversation)  # after a crash in between, repeating the call gets here
        return reply

    async def GetConversation(self, request: pb.GetConversationRequest, context: Any) -> pb.GetConversationResponse:
        return pb.GetConversationResponse(conversation=conversation_to_proto(_conversation()))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Any
    ) -> pb.ListConversationsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        rows = await self._chat().list_conversations(
            workspace_id, caller_id(), self._pages.after_id(request), self._pages.limit(request)
        )
        page, more = self._pages.cut(request, rows, lambda conversation: [conversation["_id"]])
        return pb.ListConversationsResponse(conversations=map(conversation_to_proto, page), next_page_token=more)

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Any
    ) -> pb.UpdateConversationResponse:
        values = changes(request.conversation, request.update_mask, {"title", "model"})
        if values.get("model"):
            await self._providers.check(tenant_id(), values["model"], "conversation.model")
        changed = await service.update_conversation(self._chat(), _conversation(), request.conversation.etag, values)
        return pb.UpdateConversationResponse(conversation=conversation_to_proto(changed))

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Any
    ) -> pb.DeleteConversationResponse:
        deleting = service.delete_conversation(self._chat(), self._eraser, tenant_id(), _conversation()["_id"])
        await self._runs.see_through(deleting)
        return pb.DeleteConversationResponse()

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Any) -> pb.ListMessagesResponse:
        """A position is the id of the last message and, where its contents go on, how far they were sent."""
        position = self._pages.after(request) or []
        begin = position[1] if len(position) > 1 else 0
        page, more = await self._chat().list_messages(
            _conversation()["_id"],
            UUID(position[0]) if position else None,
            self._pages.limit(request) - 1,
            only=UUID(request.message_id) if request.message_id else None,
            again=begin > 0,
        )
        messages, end = [], 0
        for message in page:
            found, end = part(message, begin)
            messages.append(found)
            begin = 0
        last = [page[-1]["_id"], *([end] if end else [])] if end or more else []
        token = self._pages.token(request, last) if last else ""
        return pb.ListMessagesResponse(messages=messages, next_page_token=token)

    async def SendMessage(self, request: pb.SendMessageRequest, context: Any) -> AsyncIterator[pb.SendMessageResponse]:
        run_id = await self._start(request)
        async with aclosing(service.follow(self._chat(), self._runs, tenant_id(), run_id, after=0)) as events:
            async for event in events:
                yield cast(pb.SendMessageResponse, event)  # encoded already

    async def _start(self, request: pb.SendMessageRequest) -> UUID:
        """The run that answers, which may be that of an earlier call with the same request_id."""
        conversation, content_hash = _conversation(), self._idempotency.content_hash(request)
        history = History(self._chat(), conversation["_id"])
        (workspace, rules, earlier), _ = await asyncio.gather(
            self._rules(conversation["workspace_id"], request.request_id), history.load()
        )
        if run_id := same_run(content_hash, earlier):  # whatever has become forbidden since then
            return run_id
        model = request.model or conversation["model"] or workspace.default_model
        chosen = bool(request.model)
        plan = await self._plans.make(tenant_id(), workspace.id, model, request.parameters, "model", rules, chosen)
        await history.load(max(room(target, plan.max_output_tokens) for target in plan.targets))
        question = Question(
            org_id=tenant_id(),
            user_id=caller_id(),
            key_id=key.api_key_id if (key := current_principal().key) else None,
            session_id=current.get().session_id,
            conversation=conversation,
            content=request.content,
            system_prompt=workspace.system_prompt,
            plan=plan,
            turns=[*history.turns, Turn("user", request.content)],
            request_id=UUID(request.request_id) if request.request_id else None,
            content_hash=content_hash,
        )
        try:
            return await self._runs.start(question)
        except RightLost:
            await self._authorize_again(current.get())  # raises what is missing
            raise Unavailable from None  # the right was restored meanwhile

    async def _rules(self, workspace_id: UUID, request_id: str) -> tuple[Workspace, Rules, Row[UUID, bytes] | None]:
        """The workspace, the policies that hold in it, and the earlier request of this id."""
        async with self._db.read(tenant_id()) as tx:
            workspace = await workspaces.find_workspace(tx, workspace_id)
            rules = await find_rules(tx, tenant_id(), workspace_id)
            earlier = await claims.find_request(tx, caller_id(), UUID(request_id)) if request_id else None
        if workspace is None:
            raise NotFound("conversation_id")
        return workspace, rules, earlier

    async def StreamRun(self, request: pb.StreamRunRequest, context: Any) -> AsyncIterator[pb.StreamRunResponse]:
        run_id, after = _run()["_id"], request.after_sequence
        async with aclosing(service.follow(self._chat(), self._runs, tenant_id(), run_id, after)) as events:
            async for event in events:
                yield cast(pb.StreamRunResponse, event)  # encoded already

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        run_id = _run()["_id"]
        await self._stops.run(tenant_id(), run_id)
        run = await self._chat().find_run(run_id)
        if run is None:
            raise NotFound("run_id")
        return pb.CancelRunResponse(run=run_to_proto(run))

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        after = self._pages.after(request) or [0]
        rows = await self._chat().list_attempts(_run()["_id"], after[0], self._pages.limit(request))
        page, more = self._pages.cut(request, rows, lambda attempt: [attempt["number"]])
        return pb.ListAttemptsResponse(attempts=map(attempt_to_proto, page), next_page_token=more)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=run_to_proto(_run()))

    def _chat(self) -> ChatStore:
        return ChatStore(self._mongo, tenant_id())


def _conversation() -> Conversation:
    """The one that authorization found."""
    return current.get().found(Conversation)


def _run() -> Run:
    """The one that authorization found."""
    return current.get().found(Run)


def _new_conversation(request: pb.CreateConversationRequest) -> Conversation:
    time = now()
    return Conversation(
        _id=new_id(),
        workspace_id=parse_id(request.workspace_id, "workspace_id"),
        user_id=caller_id(),
        title=request.title,
        model=request.model,
        size_bytes=0,
        active_run_id=None,
        version=1,
        create_time=time,
        update_time=time,
        delete_time=None,
        purge_time=None,
    )
