"""ChatService: proto in and out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1.chat_pb2_grpc import ChatServiceServicer

from ..auth.authority import current_principal
from ..conversations.models import Conversation, Message
from ..conversations.proto import conversation_to_proto, part
from ..conversations.store import ConversationStore
from ..documents.store import are_collections
from ..kit.context import Call, caller_id, current, tenant_id
from ..kit.errors import NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import new_id, parse_id
from ..kit.masks import changes
from ..kit.mongo import Mongo
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.tasks import Tasks
from ..kit.timestamps import now
from ..llm.registry import Registry
from ..policies.protos import model_to_proto, read_parameters
from ..policies.providers import Providers
from ..runs.cancellation import Cancellation
from ..runs.models import Run
from ..runs.proto import attempt_to_proto, run_to_proto
from ..runs.store import RunStore
from ..workspaces.retrieval import Retrieval, check_collections, read_retrieval
from .service import ChatService, NewMessage, Sender


class ChatServicer(ChatServiceServicer):
    def __init__(
        self,
        chat: ChatService,
        cancellation: Cancellation,
        db: Database,
        mongo: Mongo,
        registry: Registry,
        providers: Providers,
        authorize_again: Callable[[Call], Awaitable[None]],
        tasks: Tasks,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._chat = chat
        self._cancellation = cancellation
        self._db = db
        self._mongo = mongo
        self._registry = registry
        self._providers = providers
        self._authorize_again = authorize_again
        self._tasks = tasks
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
        workspace_id, retrieval = conversation["workspace_id"], conversation["retrieval"]
        async with self._db.write(tenant_id(), caller_id()) as tx:
            reply = await self._idempotency.find(tx, request, pb.CreateConversationResponse)
            if reply is None:
                await check_collections(are_collections, tx, workspace_id, retrieval, "retrieval")
                reply = pb.CreateConversationResponse(conversation=conversation_to_proto(conversation))
                await self._idempotency.save(tx, request, reply)
        conversation["_id"] = UUID(reply.conversation.conversation_id)
        await self._conversations().save(conversation)  # a retry after a crash in between gets here too
        return reply

    async def GetConversation(self, request: pb.GetConversationRequest, context: Any) -> pb.GetConversationResponse:
        return pb.GetConversationResponse(conversation=conversation_to_proto(_conversation()))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Any
    ) -> pb.ListConversationsResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        rows = await self._conversations().list_of(
            workspace_id, caller_id(), self._pages.after_id(request), self._pages.limit(request)
        )
        page, more = self._pages.cut(request, rows, lambda conversation: [conversation["_id"]])
        return pb.ListConversationsResponse(conversations=map(conversation_to_proto, page), next_page_token=more)

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Any
    ) -> pb.UpdateConversationResponse:
        values = changes(request.conversation, request.update_mask, {"title", "model", "retrieval"})
        if "retrieval" in values:
            values["retrieval"] = await self._read_retrieval(request.conversation)
        if values.get("model"):
            await self._providers.check(tenant_id(), values["model"], "conversation.model")
        etag = request.conversation.etag
        changed = await self._chat.update_conversation(tenant_id(), _conversation(), etag, values)
        return pb.UpdateConversationResponse(conversation=conversation_to_proto(changed))

    async def _read_retrieval(self, given: pb.Conversation) -> Retrieval | None:
        """Return the retrieval that a conversation is to have. Raise NotFound for unknown collections."""
        retrieval = read_retrieval(given)
        async with self._db.read(tenant_id()) as tx:
            workspace_id = _conversation()["workspace_id"]
            await check_collections(are_collections, tx, workspace_id, retrieval, "conversation.retrieval")
        return retrieval

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Any
    ) -> pb.DeleteConversationResponse:
        found = _conversation()
        await self._tasks.complete(self._chat.delete_conversation(tenant_id(), found["workspace_id"], found["_id"]))
        return pb.DeleteConversationResponse()

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Any) -> pb.ListMessagesResponse:
        """A position is a run, how many of its messages were listed, and how far the next one was sent."""
        position = self._pages.after(request) or (None, 0, 0)
        if len(position) != 3:  # of an earlier release
            raise self._pages.refused()
        run_id, listed, begin = position
        conversation_id, size = _conversation()["_id"], self._pages.limit(request) - 1
        if request.message_id:
            found = await self._conversations().find_message(conversation_id, UUID(request.message_id))
            page, more = [found] if found and (begin or not run_id) else [], False
        else:
            after = (UUID(run_id), listed) if run_id else None
            page, more = await self._conversations().list_messages(conversation_id, after, size)
        messages, end = [], 0
        for message in page:
            sent, end = part(message, begin)
            messages.append(sent)
            begin = 0
        token = self._pages.token(request, _position(page[-1], end)) if page and (end or more) else ""
        return pb.ListMessagesResponse(messages=messages, next_page_token=token)

    async def SendMessage(self, request: pb.SendMessageRequest, context: Any) -> AsyncIterator[pb.SendMessageResponse]:
        run_id = await self._chat.send(self._sender(), _conversation(), self._read_message(request))
        async with aclosing(self._chat.follow(tenant_id(), run_id, after=0)) as events:
            async for event in events:
                yield cast(pb.SendMessageResponse, event)  # encoded already

    def _sender(self) -> Sender:
        call = current.get()
        key = current_principal().key
        again = partial(self._authorize_again, call)
        return Sender(tenant_id(), caller_id(), key.api_key_id if key else None, call.session_id, again)

    def _read_message(self, request: pb.SendMessageRequest) -> NewMessage:
        return NewMessage(
            request.content,
            request.model,
            read_parameters(request.parameters),
            request.parameters.max_output_tokens,
            UUID(request.request_id) if request.request_id else None,
            self._idempotency.content_hash(request),
        )

    async def StreamRun(self, request: pb.StreamRunRequest, context: Any) -> AsyncIterator[pb.StreamRunResponse]:
        async with aclosing(self._chat.follow(tenant_id(), _run()["_id"], request.after_sequence)) as events:
            async for event in events:
                yield cast(pb.StreamRunResponse, event)  # encoded already

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:
        run_id = _run()["_id"]
        await self._cancellation.cancel(tenant_id(), run_id)
        run = await RunStore(self._mongo, tenant_id()).find(run_id)
        if run is None:
            raise NotFound("run_id")
        return pb.CancelRunResponse(run=run_to_proto(run))

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        run, after = _run(), (self._pages.after(request) or [0])[0]
        attempts = [attempt for attempt in run["attempts"] if attempt["number"] > after]
        page, more = self._pages.cut(request, attempts, lambda attempt: [attempt["number"]])
        return pb.ListAttemptsResponse(
            attempts=[attempt_to_proto(run["_id"], attempt) for attempt in page], next_page_token=more
        )

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=run_to_proto(_run()))

    def _conversations(self) -> ConversationStore:
        return ConversationStore(self._mongo, tenant_id())


def _conversation() -> Conversation:
    """Return the one that authorization found."""
    return current.get().found(Conversation)


def _run() -> Run:
    """Return the one that authorization found."""
    return current.get().found(Run)


def _position(last: Message, end: int) -> list[object]:
    """Return where the next page of messages begins. `end`: how far the last one was sent, 0 if it is complete."""
    before = 0 if last["role"] == "user" else 1
    return [last["run_id"], before if end else before + 1, end]


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
        retrieval=read_retrieval(request),
    )
