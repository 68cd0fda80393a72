"""What people do about their own accounts and sessions: the calls, short enough for tables."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from aiworkspace.v1 import account_pb2
from aiworkspace.v1 import auth_pb2 as pb
from tests.support.people import PASSWORD, Person

NEW_PASSWORD = "another passphrase for tests"

SignIn = Callable[..., Awaitable[Person]]


def new_address() -> str:
    return f"{uuid.uuid4().hex}@example.com"


def registration(**fields: Any) -> pb.RegisterRequest:
    """A good one for an address that nobody has."""
    given = {"email": new_address(), "password": PASSWORD, "display_name": "Somebody"} | fields
    return pb.RegisterRequest(**given)


def login(email: str, password: str = PASSWORD, **fields: Any) -> pb.LoginRequest:
    return pb.LoginRequest(email=email, password=password, **fields)


def password_change(current: str = PASSWORD, new: str = NEW_PASSWORD, **fields: str) -> pb.ChangePasswordRequest:
    return pb.ChangePasswordRequest(current_password=current, new_password=new, **fields)


async def get_me(person: Person) -> pb.User:
    user: pb.User = (await person.auth.GetMe(pb.GetMeRequest())).user
    return user


async def refresh(person: Person, token: str = "") -> pb.TokenPair:
    """The tokens for this refresh token, or for the one that the person has."""
    request = pb.RefreshRequest(refresh_token=token or person.tokens.refresh_token)
    tokens: pb.TokenPair = (await person.auth.Refresh(request)).tokens
    return tokens


def verify_email(person: Person, token: str) -> Any:
    return person.accounts.VerifyEmail(account_pb2.VerifyEmailRequest(token=token))
