"""Mail over SMTP, and on the console."""

import re
import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import AuthResult, LoginPassword

from aiworkspace_server.kit import mail as mail_module
from aiworkspace_server.kit.mail import ConsoleMailer, Links, Mail, MailDelayed, SmtpMailer, Tls, quoted
from tests.support.certificates import make_certificate
from tests.support.mailbox import Mailbox

TO, PASSWORD = "ada@example.com", "canary-of-the-mail-server"


def mail(subject: str = "Hello", text: str = "Text\n") -> Mail:
    return Mail(uuid.uuid4(), TO, subject, text)


def mailer(mailbox: Mailbox, tls: Tls = "none", username: str | None = None, password: str | None = None) -> SmtpMailer:
    host = "127.0.0.1" if tls == "none" else "localhost"  # which the certificate is for
    return SmtpMailer(host, mailbox.port, username, password, tls, "Wörk <noreply@example.org>")


@contextmanager
def box(**options: Any) -> Iterator[Mailbox]:
    mailbox = Mailbox(**options).start()
    yield mailbox
    mailbox.stop()


@pytest.fixture
def plain() -> Iterator[Mailbox]:
    with box() as mailbox:
        yield mailbox


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """For a mail server whose certificate is trusted."""
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_headers_say_that_a_machine_wrote_and_when_and_to_whom(plain: Mailbox) -> None:
    sent = mail("Ünïcode 株式会社", "Zoë, 株式会社: /verify?token=a=b\n" + "x" * 900 + "\n")
    await mailer(plain).send(sent)
    (got,) = plain.mails
    assert (got["To"], got["From"], got["Subject"]) == (TO, "Wörk <noreply@example.org>", sent.subject)
    assert got["Message-ID"] == f"<{sent.id}@example.org>"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got["Date"].datetime.tzinfo
    assert got.get_content().replace("\r\n", "\n") == sent.text


@pytest.mark.parametrize("break_", ["\r\n", "\n", "\r"])
async def test_a_header_cannot_be_slipped_in(break_: str, plain: Mailbox) -> None:
    with pytest.raises(ValueError, match=r"linefeed|carriage return"):
        await mailer(plain).send(mail(f"Hello{break_}Bcc: eve@example.com"))
    assert plain.tries == []


@pytest.mark.parametrize("hostile", ["\r\n", "\n", "\r", "\x85", "\u2028", "\0", "\x1b[2J", "\u202e", "\v", "\f"])
async def test_what_people_call_themselves_stays_on_its_line(hostile: str, plain: Mailbox) -> None:
    name = quoted(f"Eve{hostile}Bcc: eve@example.com")
    await mailer(plain).send(mail(f"Invited by {name}", f"{name}\n"))
    assert plain.tries == [TO]
    assert re.fullmatch("Invited by “Eve [^“]*Bcc: eve example com”", plain.mails[0]["Subject"])
    assert plain.mails[0]["Bcc"] is None
    assert len(plain.mails[0].get_content().splitlines()) == 1


def test_a_long_name_is_cut() -> None:
    assert quoted("x" * 30) == f"“{'x' * 30}”"
    assert quoted("x" * 31) == f"“{'x' * 30}…”"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("https://evil.example/a", "https evil example a"),
        ("www.evil.example", "www evil example"),
        ("evil\u3002example", "evil example"),
        ("\uff45vil\uff0eexample", "evil example"),
        ("eve@evil.example", "eve evil example"),
        ("mailto:eve@evil.example", "mailto eve evil example"),
        ("a” at AI Workspace. Visit “b", "a  at AI Workspace. Visit  b"),
        ("Dr. Ada Lovelace & Co.", "Dr. Ada Lovelace & Co."),
        ("Zoë 株式会社", "Zoë 株式会社"),
    ],
)
def test_a_name_makes_no_link_and_does_not_end_its_quotation(name: str, shown: str) -> None:
    assert quoted(name) == f"“{shown}”"


@pytest.mark.parametrize("address", [".a@b.de", "a.@b.de", "a..b@b.de", "a", "a@", "@b.de", "", "a b@c.de"])
async def test_mail_that_can_never_be_delivered_is_logged_once_and_dropped(
    address: str, plain: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(mail_module.log, "warning", lambda event, **fields: logged.append(event))
    await mailer(plain).send(Mail(uuid.uuid4(), address, "Hello", "Text\n"))
    assert plain.tries == []
    assert logged == ["mail_undeliverable"]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_over_tls_with_a_password(tls: Tls, trusted: ssl.SSLContext) -> None:
    with box(**_options(tls, trusted), authenticator=_check, auth_required=True) as mailbox:
        if tls == "starttls":
            await mailer(mailbox, tls, "u", PASSWORD).send(mail())
            assert len(mailbox.mails) == 1
        with pytest.raises(MailDelayed) as caught:
            await mailer(mailbox, tls, "u", "wrong" + PASSWORD).send(mail())
    assert PASSWORD not in str(caught.value)
    assert caught.value.__suppress_context__


async def test_over_implicit_tls(trusted: ssl.SSLContext) -> None:
    with box(ssl_context=trusted) as mailbox:
        await mailer(mailbox, "tls").send(mail())
        assert len(mailbox.mails) == 1


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_certificate_that_is_not_trusted_gets_no_mail(
    tls: Tls, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with box(**_options(tls, trusted)) as mailbox:
        with pytest.raises(MailDelayed):
            await mailer(mailbox, tls).send(mail())
        assert mailbox.tries == []


async def test_a_server_without_starttls_gets_no_mail(plain: Mailbox) -> None:
    with pytest.raises(MailDelayed):
        await mailer(plain, "starttls").send(mail())
    assert plain.tries == []


def _options(tls: Tls, context: ssl.SSLContext) -> dict[str, Any]:
    return {"ssl_context": context} if tls == "tls" else {"tls_context": context, "require_starttls": True}


def _check(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and data.password == PASSWORD.encode()
    return AuthResult(success=right, handled=False)  # the server tells them


@pytest.mark.parametrize(("answer", "delayed"), [("451 later", True), ("550 never", False)])
async def test_only_what_may_change_is_worth_another_try(answer: str, delayed: bool, plain: Mailbox) -> None:
    plain.refused[TO] = answer
    if delayed:
        with pytest.raises(MailDelayed) as caught:
            await mailer(plain).send(mail())
        assert TO not in str(caught.value)
    else:
        await mailer(plain).send(mail())
    assert plain.mails == []


async def test_a_server_that_is_away_is_worth_another_try() -> None:
    with pytest.raises(MailDelayed):
        await mailer(Mailbox()).send(mail())


async def test_the_console_shows_the_mail(capsys: pytest.CaptureFixture[str]) -> None:
    await ConsoleMailer().send(mail("Hello", "One\n\nTwo\n"))
    assert capsys.readouterr().out == (f"\nmail\n  | To: {TO}\n  | Subject: Hello\n  | \n  | One\n  | \n  | Two\n\n")


@pytest.mark.parametrize(
    ("public_url", "says"),
    [
        (None, "Run aiws verify and give it this token:\n\nabc"),
        ("https://app.example.com", "Open this page:\n\nhttps://app.example.com/verify?token=abc"),
        ("https://app.example.com/x/", "Open this page:\n\nhttps://app.example.com/x/verify?token=abc"),
    ],
)
def test_a_mail_says_what_to_do_with_its_token(public_url: str | None, says: str) -> None:
    how_to: Callable[..., str] = Links(public_url).how_to
    assert how_to("verify", "aiws verify", "abc") == says
