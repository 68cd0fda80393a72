"""Creates accounts for the operator on the command line, also while servers run."""

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
from .migrate import check_schema
from .settings import Settings

_UNUSED = "a passphrase that is asked for"  # keeps the rules where a mail asks for the real one


async def register(settings: Settings, email: str, name: str, password: str | None) -> None:
    """Makes an account whose address counts as verified, or mails a token to set its password with.

    Raises CommandError when the address has an account, or the contract would refuse what is given.
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
        db = Database(where.url)
        try:
            await check_schema(db, embedded=settings.embedded)
            mails = build_mails(settings, db, Jobs(where.url), make_mailer(settings))
            async with db.write(user_id=user_id) as tx:
                user = await service.add_user(tx, values)
                if user is None:
                    raise CommandError(f"{request.email} has an account")
                if not password:
                    await mails.ask_reset(tx, user)
        finally:
            await db.close()
    then = "" if password else "; a server mails a token to set the password with"
    print(f"{request.email} has an account now{then}")


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
