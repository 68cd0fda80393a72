"""The operator's command that creates accounts. It may run while servers run."""

import secrets
from typing import Any

from protovalidate import Validator

from aiworkspace.v1 import auth_pb2 as pb

from .accounts.build import build_mails
from .auth import service
from .auth.passwords import Passwords
from .commands import CommandError
from .databases import databases
from .kit import typed
from .kit.errors import InvalidArgument
from .kit.ids import new_id
from .kit.jobs import Jobs
from .kit.mail import make_mailer
from .kit.postgres import Database
from .kit.timestamps import now
from .schema import check_schema
from .settings import Settings

_UNUSED = "a passphrase that is asked for"  # passes validation where the real password is set with a mailed token


async def register(settings: Settings, email: str, name: str, password: str | None) -> None:
    """Create an account: with a password and a verified address, or with a mailed token to set the password.

    Raises CommandError if the address has an account, or the values break a rule of the contract.
    """
    request = pb.RegisterRequest(email=typed.email(email), password=password or _UNUSED, display_name=typed.name(name))
    if violations := Validator().collect_violations(request):
        raise CommandError("; ".join(f"{_field(found.proto)}: {found.proto.message}" for found in violations))
    user_id = new_id()
    values = {
        "id": user_id,
        "email": request.email,
        "display_name": request.display_name,
        "password_hash": await _hash(settings, request, password or secrets.token_urlsafe(32)),
        "verify_time": now() if password else None,
    }
    async with databases(settings) as where:
        db = Database(where.url, where.session_url)
        try:
            await check_schema(db, embedded=settings.embedded)
            mails = build_mails(settings, db, Jobs(where.direct_url), make_mailer(settings))
            async with db.write(user_id=user_id) as tx:
                user = await service.add_user(tx, values)
                if user is None:
                    raise CommandError(f"{request.email} already has an account")
                if not password:
                    await mails.ask_reset(tx, user)
        finally:
            await db.close()
    then = "" if password else "; the server mails a token with which the password is set"
    print(f"created an account for {request.email}{then}")


def _field(violation: Any) -> str:
    return ".".join(element.field_name for element in violation.field.elements)


async def _hash(settings: Settings, request: pb.RegisterRequest, password: str) -> str:
    passwords = Passwords(settings.password_pepper.get_secret_value(), settings.password_hash_cost)
    try:
        return await passwords.hash_new(password, "password", (request.email, request.display_name))
    except InvalidArgument as error:
        raise CommandError(error.message) from None
    finally:
        passwords.close()
