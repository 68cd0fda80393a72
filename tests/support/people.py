"""People who use a running server over a real connection."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, workspace_pb2
from aiworkspace.v1.access_pb2_grpc import AccessServiceStub
from aiworkspace.v1.account_pb2_grpc import AccountServiceStub
from aiworkspace.v1.admin_pb2_grpc import AdminServiceStub
from aiworkspace.v1.audit_pb2_grpc import AuditServiceStub
from aiworkspace.v1.auth_pb2_grpc import AuthServiceStub
from aiworkspace.v1.budget_pb2_grpc import BudgetServiceStub
from aiworkspace.v1.chat_pb2_grpc import ChatServiceStub
from aiworkspace.v1.data_pb2_grpc import DataServiceStub
from aiworkspace.v1.document_pb2_grpc import DocumentServiceStub
from aiworkspace.v1.event_pb2_grpc import EventServiceStub
from aiworkspace.v1.model_pb2_grpc import ModelServiceStub
from aiworkspace.v1.org_pb2_grpc import OrgServiceStub
from aiworkspace.v1.service_account_pb2_grpc import ServiceAccountServiceStub
from aiworkspace.v1.team_pb2_grpc import TeamServiceStub
from aiworkspace.v1.usage_pb2_grpc import UsageServiceStub
from aiworkspace.v1.webhook_pb2_grpc import WebhookServiceStub
from aiworkspace.v1.workspace_pb2_grpc import WorkspaceServiceStub

PASSWORD = "a passphrase for tests"


class Bearer:
    """Adds the access token to every call."""

    def __init__(self) -> None:
        self.token = ""

    def interceptors(self) -> list[Any]:
        """One for each kind of call: gRPC takes an interceptor for one kind alone."""
        return [_UnaryBearer(self), _StreamBearer(self), _ClientStreamBearer(self)]

    def add_to(self, details: Any) -> Any:
        if not self.token:
            return details
        metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {self.token}"))
        return details._replace(metadata=metadata)


class _WithBearer:
    def __init__(self, bearer: Bearer) -> None:
        self._bearer = bearer

    async def intercept(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._bearer.add_to(client_call_details), request)


class _UnaryBearer(_WithBearer, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _WithBearer.intercept


class _StreamBearer(_WithBearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _WithBearer.intercept


class _ClientStreamBearer(_WithBearer, grpc.aio.StreamUnaryClientInterceptor):
    intercept_stream_unary = _WithBearer.intercept  # type: ignore[assignment]  # of a stream of requests


class Person:
    """Somebody with a connection, perhaps signed in. The attributes are the services' stubs."""

    def __init__(self, address: str, *options: tuple[str, int]) -> None:
        self.bearer = Bearer()
        # A connection of its own, which may lead to another process than that of somebody else.
        own = (("grpc.max_receive_message_length", 16 << 20), ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.aio.insecure_channel(address, (*own, *options), interceptors=self.bearer.interceptors())
        self.auth: Any = AuthServiceStub(self.channel)
        self.accounts: Any = AccountServiceStub(self.channel)
        self.orgs: Any = OrgServiceStub(self.channel)
        self.teams: Any = TeamServiceStub(self.channel)
        self.access: Any = AccessServiceStub(self.channel)
        self.service_accounts: Any = ServiceAccountServiceStub(self.channel)
        self.audit: Any = AuditServiceStub(self.channel)
        self.admin: Any = AdminServiceStub(self.channel)
        self.data: Any = DataServiceStub(self.channel)
        self.workspaces: Any = WorkspaceServiceStub(self.channel)
        self.models: Any = ModelServiceStub(self.channel)
        self.chat: Any = ChatServiceStub(self.channel)
        self.documents: Any = DocumentServiceStub(self.channel)
        self.usage: Any = UsageServiceStub(self.channel)
        self.budgets: Any = BudgetServiceStub(self.channel)
        self.events: Any = EventServiceStub(self.channel)
        self.webhooks: Any = WebhookServiceStub(self.channel)
        self.email = f"{uuid.uuid4().hex[:12]}@example.com"
        self.user_id = ""
        self.tokens = auth_pb2.TokenPair()

    async def register(self) -> "Person":
        request = auth_pb2.RegisterRequest(email=self.email, password=PASSWORD, display_name="Somebody")
        self.sign_in(await self.auth.Register(request))
        return self

    async def log_in(self, device_name: str = "") -> "Person":
        request = auth_pb2.LoginRequest(email=self.email, password=PASSWORD, device_name=device_name)
        self.sign_in(await self.auth.Login(request))
        return self

    def sign_in(self, response: Any) -> None:
        self.user_id, self.tokens = response.user.user_id, response.tokens
        self.bearer.token = response.tokens.access_token


def reconnected(person: Person, address: str) -> Person:
    """The same person over another connection. To be disconnected by the caller."""
    again = Person(address)
    again.email, again.user_id, again.bearer.token = person.email, person.user_id, person.bearer.token
    return again


NewPerson = Callable[[], Awaitable[Person]]
Connect = Callable[..., Person]


@dataclass
class Place:
    """An organization with a workspace and a conversation, and its owner."""

    owner: Person
    org_id: str
    workspace_id: str
    conversation_id: str


async def make_org(person: Person, name: str = "Acme") -> str:
    response = await person.orgs.CreateOrg(org_pb2.CreateOrgRequest(name=name))
    return str(response.org.org_id)


async def make_workspace(person: Person, org_id: str, **fields: Any) -> str:
    request = workspace_pb2.CreateWorkspaceRequest(org_id=org_id, name="Research", **fields)
    return str((await person.workspaces.CreateWorkspace(request)).workspace.workspace_id)


async def make_conversation(person: Person, workspace_id: str, model: str = "") -> str:
    request = chat_pb2.CreateConversationRequest(workspace_id=workspace_id, model=model)
    return str((await person.chat.CreateConversation(request)).conversation.conversation_id)


async def new_place(new_person: NewPerson) -> Place:
    """Of somebody new."""
    return await make_place(await new_person())


async def make_place(owner: Person, model: str = "") -> Place:
    org_id = await make_org(owner)
    workspace_id = await make_workspace(owner, org_id)
    return Place(owner, org_id, workspace_id, await make_conversation(owner, workspace_id, model))


async def join(owner: Person, org_id: str, person: Person, role: org_pb2.Role.ValueType) -> None:
    """Invites the person, who accepts."""
    invited = await owner.orgs.CreateInvitation(
        org_pb2.CreateInvitationRequest(org_id=org_id, email=person.email, role=role)
    )
    await person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=invited.token))


@asynccontextmanager
async def connections(address: str) -> AsyncIterator[Connect]:
    """Connects people, with an access token or an API key if one is given, and disconnects them at the end."""
    connected: list[Person] = []

    def connect(token: str = "") -> Person:
        person = Person(address)
        person.bearer.token = token
        connected.append(person)
        return person

    try:
        yield connect
    finally:
        for person in connected:
            await person.channel.close()


@asynccontextmanager
async def people(address: str) -> AsyncIterator[NewPerson]:
    """Registers people, and disconnects them at the end."""
    async with connections(address) as connect:

        async def new_person() -> Person:
            return await connect().register()

        yield new_person
