"""Mail: over SMTP, or printed where a laptop has no mail server."""

from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from textwrap import indent
from typing import Literal, Protocol
from uuid import UUID

import aiosmtplib
import structlog

from .timestamps import now

log = structlog.get_logger("mail")

Tls = Literal["starttls", "tls", "none"]
_SECONDS = 30.0
_MOST_NAME = 60


@dataclass(frozen=True, slots=True)
class Mail:
    """Plain text to one person. `id` is the same when it is sent again, so that nobody reads it twice."""

    id: UUID
    to: str
    subject: str
    text: str


class MailDelayed(Exception):
    """The mail could not be handed over; later it may be. Says why, without an address."""


class Mailer(Protocol):
    async def send(self, mail: Mail) -> None:
        """Raises MailDelayed. Mail that will never be accepted is logged and dropped."""


class SmtpMailer:
    """Hands mail to an SMTP server, over one connection each."""

    def __init__(self, host: str, port: int, username: str | None, password: str | None, tls: Tls, sender: str) -> None:
        name, address = parseaddr(sender)
        self._sender = Address(name, addr_spec=address)
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._tls = tls

    async def send(self, mail: Mail) -> None:
        try:
            await aiosmtplib.send(
                self._message(mail),
                hostname=self._host,
                port=self._port,
                username=self._username,
                password=self._password,
                use_tls=self._tls == "tls",
                start_tls=self._tls == "starttls",
                local_hostname=self._sender.domain,  # else it asks DNS, and everybody waits
                timeout=_SECONDS,
            )
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError) as error:
            answer = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
            if answer.code < 500:
                raise MailDelayed(f"the mail server answers {answer.code}") from None
            log.warning("mail refused for good", mail=str(mail.id), code=answer.code)
        except (aiosmtplib.SMTPException, OSError) as error:
            # Neither its text nor its cause, which may quote addresses and credentials.
            raise MailDelayed(type(error).__name__) from None

    def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = self._sender
        message["To"] = Address(addr_spec=mail.to)
        message["Subject"] = mail.subject
        message["Date"] = now()
        message["Message-ID"] = f"<{mail.id}@{self._sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text, cte="7bit" if mail.text.isascii() else "quoted-printable")
        return message


class ConsoleMailer:
    """Prints mail on standard output."""

    async def send(self, mail: Mail) -> None:
        text = f"To: {mail.to}\nSubject: {mail.subject}\n\n{mail.text}".rstrip()
        print(f"\nmail\n{indent(text, '  | ', lambda line: True)}\n", flush=True)


def quoted(name: str) -> str:
    """What a person typed, as it may stand in a mail: on one line, short, and marked as somebody's words."""
    line = "".join(char if char.isprintable() else " " for char in name)
    return f"“{line[:_MOST_NAME]}…”" if len(line) > _MOST_NAME else f"“{line}”"


class Links:
    """Tells the reader of a mail what to do with a token."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url.rstrip("/") if public_url else None

    def how_to(self, page: str, command: str, token: str) -> str:
        if self._public_url:
            return f"Open this page:\n\n{self._public_url}/{page}?token={token}"
        return f"Run {command} and give it this token:\n\n{token}"
