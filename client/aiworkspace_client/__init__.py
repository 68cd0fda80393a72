"""AI Workspace client: accounts, organizations, workspaces, streamed conversations and usage.

    from aiworkspace_client import Client

    with Client() as client:
        client.auth.register(email="ada@example.com", password="correct horse battery", display_name="Ada")
        org = client.orgs.create(name="Analytical Engines")
        workspace = client.workspaces.create(org_id=org.org_id, name="Notes")
        conversation = client.chat.create_conversation(workspace.workspace_id)
        with client.chat.send(conversation.conversation_id, "Hello!") as stream:
            for text in stream.text:
                print(text, end="", flush=True)

AsyncClient is the same for asyncio. The types of arguments and results are in aiworkspace_client.types, exceptions in
aiworkspace_client.errors.
"""

from aiworkspace_client.client import AsyncClient, Client
from aiworkspace_client.errors import (
    AbortedError,
    AiWorkspaceError,
    AlreadyExistsError,
    CallCancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RunFailedError,
    UnauthenticatedError,
    UnavailableError,
)
from aiworkspace_client.follower import StreamTiming
from aiworkspace_client.pager import AsyncPager, Pager
from aiworkspace_client.stream import AsyncChatStream, ChatStream
from aiworkspace_client.tokens import Tokens, TokenStore
from aiworkspace_client.transport import Backoff

__all__ = [
    "AbortedError",
    "AiWorkspaceError",
    "AlreadyExistsError",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncPager",
    "Backoff",
    "CallCancelledError",
    "ChatStream",
    "Client",
    "DataLossError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OutOfRangeError",
    "Pager",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "RunFailedError",
    "StreamTiming",
    "TokenStore",
    "Tokens",
    "UnauthenticatedError",
    "UnavailableError",
]
