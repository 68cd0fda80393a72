"""A real mail server on loopback, and what people found in their mailboxes."""

import asyncio
import re
import socket
import threading
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.controller import Controller

_SECONDS = 90.0  # what a killed server had begun is taken up after 21 at the latest


class Mailbox:
    """Takes all mail, except for addresses in `refused`, which get the answer that is there."""

    def __init__(self, **options: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.mails: list[EmailMessage] = []
        self._changed = threading.Condition()
        self.refused: dict[str, str] = {}
        self.tries: list[str] = []
        self._options = options
        self._controller: Any = None

    def start(self) -> "Mailbox":
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **self._options)
        self._controller.start()
        return self

    def stop(self) -> None:
        self._controller.stop()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
        self.tries.append(address)
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        assert [mail["To"]] == envelope.rcpt_tos
        with self._changed:
            self.mails.append(mail)
            self._changed.notify_all()
        return "250 OK"

    def of(self, address: str, subject: str = "") -> list[EmailMessage]:
        return [mail for mail in self.mails if mail["To"] == address and subject in mail["Subject"]]

    async def wait(self, address: str, subject: str = "", count: int = 1) -> EmailMessage:
        """The mail that arrives as the count-th of its kind. There must not be more."""
        found = await asyncio.to_thread(self._wait, address, subject, count)
        assert len(found) == count, f"{len(found)} mails to {address}"
        return found[-1]

    def _wait(self, address: str, subject: str, count: int) -> list[EmailMessage]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.of(address, subject)) >= count, _SECONDS)
            return self.of(address, subject)

    async def token(self, address: str, subject: str, count: int = 1) -> str:
        return token_in(await self.wait(address, subject, count))


def token_in(mail: EmailMessage) -> str:
    """A line that is nothing but a token."""
    (token,) = re.findall(r"^[\w-]{43,}(?=\r?$)", mail.get_content(), re.MULTILINE)
    return str(token)


VERIFY, RESET = "Please confirm your email address", "Set a new password"
CHANGE, NOTICE = "Please confirm your new email address", "Your email address is to be changed"
