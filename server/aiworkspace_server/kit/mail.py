"""Mail: sent over SMTP, or printed if there is no mail server."""

import re
import unicodedata
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import parseaddr
from enum import StrEnum
from textwrap import indent
from typing import Literal, Protocol
from uuid import UUID

import aiosmtplib
import structlog

from ..settings import Settings
from .timestamps import now

log = structlog.get_logger("mail")

Tls = Literal["starttls", "tls", "none"]
_SECONDS = 30.0
_MOST_NAME = 30
_MAKES_LINKS = re.compile(r"(?<=\S)[.:/@\\\u3002]+(?=\S)|[:/]{2,}")


class MailKind(StrEnum):
    """The reason for a mail. Each kind has its own limit per address."""

    INVITATION = "invitation"
    VERIFICATION = "verification"
    RESET = "reset"
    CHANGE = "change"  # to the new address of an account
    NOTICE = "notice"


@dataclass(frozen=True, slots=True)
class Mail:
    """Plain text to one person. A retry has the same `id`, so that mail programs can drop duplicates."""

    id: UUID
    to: str
    subject: str
    text: str
    kind: MailKind = MailKind.NOTICE


class MailDelayed(Exception):
    """The mail server did not accept the mail but may do so later. The text says why, without an address."""


class Mailer(Protocol):
    async def send(self, mail: Mail) -> None:
        """Send a mail. Raises MailDelayed. Mail that will never be accepted is logged and dropped."""


class SmtpMailer:
    """Sends mail to an SMTP server, over a connection for each."""

    def __init__(self, host: str, port: int, username: str | None, password: str | None, tls: Tls, sender: str) -> None:
        name, address = parseaddr(sender)
        self._sender = Address(name, addr_spec=address)
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._tls = tls

    async def send(self, mail: Mail) -> None:
        try:
            message = self._message(mail)
        except (HeaderParseError, UnicodeError):
            log.warning("mail_undeliverable", mail=str(mail.id))
            return
        try:
            await aiosmtplib.send(
                message,
                hostname=self._host,
                port=self._port,
                username=self._username,
                password=self._password,
                use_tls=self._tls == "tls",
                start_tls=self._tls == "starttls",
                local_hostname=self._sender.domain,  # otherwise it blocks the event loop with a DNS query
                timeout=_SECONDS,
            )
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError) as error:
            answer = error.recipients[0] if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else error
            if answer.code < 500:
                raise MailDelayed(f"the mail server answers {answer.code}") from None
            log.warning("mail_refused", mail=str(mail.id), code=answer.code)
        except (aiosmtplib.SMTPNotSupported, UnicodeError):  # the mail server does not support such addresses
            log.warning("mail_undeliverable", mail=str(mail.id))
        except (aiosmtplib.SMTPException, OSError) as error:
            # Without its text and its cause, which may quote addresses and credentials.
            raise MailDelayed(type(error).__name__) from None

    def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = self._sender
        message["To"] = _address(mail.to)
        message["Subject"] = mail.subject
        message["Date"] = now()
        message["Message-ID"] = f"<{mail.id}@{self._sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text, cte="7bit" if mail.text.isascii() else "quoted-printable")
        return message


def _address(text: str) -> Address:
    """Parse an email address. Raises HeaderParseError."""
    try:
        address = Address(addr_spec=text)
    except (ValueError, IndexError) as error:  # the parser raises different ones
        raise HeaderParseError("no address") from error
    if not address.domain:
        raise HeaderParseError("no domain")
    return address


class ConsoleMailer:
    """Prints mail on standard output."""

    async def send(self, mail: Mail) -> None:
        text = f"To: {mail.to}\nSubject: {mail.subject}\n\n{mail.text}".rstrip()
        print(f"\nmail\n{indent(text, '  | ', lambda line: True)}\n", flush=True)


def make_mailer(settings: Settings) -> Mailer:
    """Return a mailer for the SMTP server of the settings, or one that prints."""
    if settings.smtp_host is None or settings.mail_from is None:
        if not settings.embedded:
            log.warning("mail_printed", advice="SMTP_HOST is not set: set it, as printed mail shows tokens")
        return ConsoleMailer()
    password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
    server = settings.smtp_host, settings.smtp_port
    return SmtpMailer(*server, settings.smtp_username, password, settings.smtp_tls, settings.mail_from)


def quoted(name: str) -> str:
    """Return a name that a person typed for the text of a mail: on one line, short and in quotation marks.

    URLs and addresses are broken up, so that a name cannot make mail programs show a link. Subjects contain no names.
    """
    line = "".join(
        char if char.isprintable() and char not in "“”" else " " for char in unicodedata.normalize("NFKC", name)
    )
    plain = _MAKES_LINKS.sub(" ", line)
    return f"“{plain[:_MOST_NAME]}…”" if len(plain) > _MOST_NAME else f"“{plain}”"


class Links:
    """Writes the part of a mail that explains how to use a token."""

    def __init__(self, public_url: str | None) -> None:
        self._public_url = public_url.rstrip("/") if public_url else None

    def how_to(self, page: str, command: str, token: str) -> str:
        """Return a link to the page or, without a public URL, the command that asks for the token."""
        if self._public_url:
            return f"Open this page:\n\n{self._public_url}/{page}?token={token}"
        return f"Run {command} and give it this token:\n\n{token}"
