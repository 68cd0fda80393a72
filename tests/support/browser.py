"""A browser: it keeps the cookies that it is given and sends them along, each under its path alone."""

from dataclasses import dataclass
from http.cookies import Morsel, SimpleCookie
from typing import Any
from uuid import UUID

from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.auth.cookies import CsrfTokens
from aiworkspace_server.kit.keys import derive
from aiworkspace_server.settings import Settings
from tests.support.people import PASSWORD, Person

Metadata = tuple[tuple[str, str], ...]


def csrf_token(person: Person, settings: Settings) -> str:
    """That of a session whose tokens were not sent as cookies."""
    key = derive(settings.password_pepper.get_secret_value(), "csrf")
    return CsrfTokens(key).of(UUID(person.tokens.session_id))


@dataclass
class Answer:
    """What came back from a call."""

    message: Any
    cookies: dict[str, "Morsel[str]"]


class Browser:
    def __init__(self, person: Person) -> None:
        """`person` is the connection, and is signed out."""
        person.bearer.token = ""
        self.person = person
        self.jar: dict[str, Morsel[str]] = {}
        self.csrf_token = ""

    async def sign_in(self) -> Answer:
        request = pb.LoginRequest(email=self.person.email, password=PASSWORD, use_cookies=True)
        return await self.call("Login", request)

    async def call(self, method: str, request: Any, metadata: Metadata | None = None) -> Answer:
        """Calls a method of AuthService as a page does, or with other metadata."""
        given = self.metadata(f"/aiworkspace.v1.AuthService/{method}") if metadata is None else metadata
        call = getattr(self.person.auth, method)(request, metadata=given)
        message = await call
        found: dict[str, Morsel[str]] = {}
        for name, value in await call.initial_metadata():
            if name == "set-cookie":
                found |= SimpleCookie(value)
        self._keep(found)
        tokens = getattr(message, "tokens", None)
        if tokens:
            self.csrf_token = tokens.csrf_token
        return Answer(message, found)

    def metadata(self, path: str = "/") -> Metadata:
        """What goes along with a call of this path."""
        sent = [f"{name}={cookie.value}" for name, cookie in self.jar.items() if path.startswith(cookie["path"])]
        return (("cookie", "; ".join(sent)), ("x-csrf-token", self.csrf_token))

    def _keep(self, found: dict[str, "Morsel[str]"]) -> None:
        self.jar |= found
        for name in [name for name, cookie in self.jar.items() if cookie["max-age"] == "0"]:
            del self.jar[name]
