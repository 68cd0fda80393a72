"""The clients."""

from types import TracebackType
from typing import Self

from aiworkspace_client._generated.aio.access import AsyncAccess
from aiworkspace_client._generated.aio.account import AsyncAccount
from aiworkspace_client._generated.aio.admin import AsyncAdmin
from aiworkspace_client._generated.aio.audit import AsyncAudit
from aiworkspace_client._generated.aio.auth import AsyncAuth
from aiworkspace_client._generated.aio.budgets import AsyncBudgets
from aiworkspace_client._generated.aio.models import AsyncModels
from aiworkspace_client._generated.aio.orgs import AsyncOrgs
from aiworkspace_client._generated.aio.service_accounts import AsyncServiceAccounts
from aiworkspace_client._generated.aio.teams import AsyncTeams
from aiworkspace_client._generated.aio.usage import AsyncUsage
from aiworkspace_client._generated.aio.webhook import AsyncWebhook
from aiworkspace_client._generated.aio.workspaces import AsyncWorkspaces
from aiworkspace_client._generated.sync.access import Access
from aiworkspace_client._generated.sync.account import Account
from aiworkspace_client._generated.sync.admin import Admin
from aiworkspace_client._generated.sync.audit import Audit
from aiworkspace_client._generated.sync.auth import Auth
from aiworkspace_client._generated.sync.budgets import Budgets
from aiworkspace_client._generated.sync.models import Models
from aiworkspace_client._generated.sync.orgs import Orgs
from aiworkspace_client._generated.sync.service_accounts import ServiceAccounts
from aiworkspace_client._generated.sync.teams import Teams
from aiworkspace_client._generated.sync.usage import Usage
from aiworkspace_client._generated.sync.webhook import Webhook
from aiworkspace_client._generated.sync.workspaces import Workspaces
from aiworkspace_client.chat import AsyncChat, Chat
from aiworkspace_client.data import AsyncData, Data
from aiworkspace_client.documents import AsyncDocuments, Documents
from aiworkspace_client.events import AsyncEvents, Events
from aiworkspace_client.follower import StreamTiming
from aiworkspace_client.portal import Portal
from aiworkspace_client.tokens import Tokens, TokenStore
from aiworkspace_client.transport import Backoff, Transport

DEFAULT_TARGET = "127.0.0.1:50051"


class AsyncClient:
    """A client for asyncio: `async with AsyncClient("example.com:443") as client: await client.auth.login(...)`.

    It connects with the first call and stays in that event loop. It keeps the tokens that register and login return.
    They are refreshed before they expire and when the server refuses them, once for all waiting calls. Idempotent calls
    are retried while the server is unavailable, until their deadline.

    Args:
        target: Address of the server, host:port.
        access_token: Token of an earlier sign-in.
        refresh_token: The refresh token of the same session. Without it the session ends with the access token.
        api_key: Key of a service account, which a backend uses instead of signing in.
        token_store: Keeps the tokens instead of the client, which keeps them in memory.
        tls: Whether to encrypt. None means yes, except for addresses of this machine.
        root_certificates: The authorities to trust, in PEM, instead of the system's. Implies TLS.
        timeout: Seconds that a call may take, unless the call has its own timeout.
        backoff: Pauses before a call is repeated, or a stream connects again.
        stream_timing: How long streams wait, and when they give up.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        access_token: str = "",
        refresh_token: str = "",
        api_key: str = "",
        token_store: TokenStore | None = None,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        timeout: float = 30.0,
        backoff: Backoff | None = None,
        stream_timing: StreamTiming | None = None,
    ) -> None:
        self._transport = Transport(
            target,
            store=_store(access_token, refresh_token, api_key, token_store),
            tls=tls,
            root_certificates=root_certificates,
            timeout=timeout,
            backoff=backoff,
        )
        self.auth = AsyncAuth(self._transport)
        self.account = AsyncAccount(self._transport)
        self.orgs = AsyncOrgs(self._transport)
        self.teams = AsyncTeams(self._transport)
        self.access = AsyncAccess(self._transport)
        self.workspaces = AsyncWorkspaces(self._transport)
        self.chat = AsyncChat(self._transport, stream_timing or StreamTiming())
        self.documents = AsyncDocuments(self._transport)
        self.models = AsyncModels(self._transport)
        self.usage = AsyncUsage(self._transport)
        self.budgets = AsyncBudgets(self._transport)
        self.service_accounts = AsyncServiceAccounts(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.admin = AsyncAdmin(self._transport)
        self.data = AsyncData(self._transport)
        self.events = AsyncEvents(self._transport)
        self.webhooks = AsyncWebhook(self._transport)

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of the session, or the API key as the access token; None when nobody is signed in."""
        return self._transport.tokens.peek()

    async def close(self) -> None:
        """Close the connection and cancel its calls."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Client:
    """A client without asyncio: `with Client("example.com:443") as client: client.auth.login(...)`.

    It runs an AsyncClient on its own thread, with the same arguments and namespaces, and is thread-safe. gRPC does not
    survive a fork: make all calls in one process.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        access_token: str = "",
        refresh_token: str = "",
        api_key: str = "",
        token_store: TokenStore | None = None,
        tls: bool | None = None,
        root_certificates: bytes | None = None,
        timeout: float = 30.0,
        backoff: Backoff | None = None,
        stream_timing: StreamTiming | None = None,
    ) -> None:
        client = AsyncClient(
            target,
            access_token=access_token,
            refresh_token=refresh_token,
            api_key=api_key,
            token_store=token_store,
            tls=tls,
            root_certificates=root_certificates,
            timeout=timeout,
            backoff=backoff,
            stream_timing=stream_timing,
        )
        self._client = client
        self._portal = Portal(client.close)
        self.auth = Auth(self._portal, client.auth)
        self.account = Account(self._portal, client.account)
        self.orgs = Orgs(self._portal, client.orgs)
        self.teams = Teams(self._portal, client.teams)
        self.access = Access(self._portal, client.access)
        self.workspaces = Workspaces(self._portal, client.workspaces)
        self.chat = Chat(self._portal, client.chat)
        self.documents = Documents(self._portal, client.documents)
        self.models = Models(self._portal, client.models)
        self.usage = Usage(self._portal, client.usage)
        self.budgets = Budgets(self._portal, client.budgets)
        self.service_accounts = ServiceAccounts(self._portal, client.service_accounts)
        self.audit = Audit(self._portal, client.audit)
        self.admin = Admin(self._portal, client.admin)
        self.data = Data(self._portal, client.data)
        self.events = Events(self._portal, client.events)
        self.webhooks = Webhook(self._portal, client.webhooks)

    @property
    def tokens(self) -> Tokens | None:
        """The tokens of the session, or the API key as the access token; None when nobody is signed in."""
        return self._client.tokens

    def close(self) -> None:
        """Close the connection, cancel its calls, and stop the thread."""
        self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _store(access_token: str, refresh_token: str, api_key: str, token_store: TokenStore | None) -> TokenStore:
    """Return the store of the credentials, of exactly one kind. An API key is an access token without refresh."""
    access_token, refresh_token, api_key = access_token.strip(), refresh_token.strip(), api_key.strip()
    if [bool(access_token or refresh_token), bool(api_key), token_store is not None].count(True) > 1:
        raise ValueError("Pass only one of: tokens, api_key, token_store.")
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("The api_key has characters that no key has. Does it contain a line break?")
    if token_store is not None:
        return token_store
    given = access_token or api_key
    return TokenStore(Tokens(given, refresh_token) if given or refresh_token else None)
