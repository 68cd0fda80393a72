"""aiws on terminals and pipes of every kind: other encodings, closed ones, and no home directory."""

import asyncio
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from aiworkspace.v1 import chat_pb2, org_pb2
from aiworkspace_client.cli.credentials import CredentialFileError, default_path, file_for_key
from tests.client.conftest import ORG
from tests.client.runs import connections, whole_run
from tests.client.scripted import ScriptedServer, answer

WORDS = "Grüße 世界 😀 done"
SHOWN = {
    "utf-8": WORDS,
    "latin-1": "Grüße \\u4e16\\u754c \\U0001f600 done",
    "ascii": "Gr\\xfc\\xdfe \\u4e16\\u754c \\U0001f600 done",
}
POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}

Ran = subprocess.CompletedProcess[bytes]
Raw = Callable[..., Awaitable[Ran]]


@pytest.fixture
def raw(environment: dict[str, str]) -> Raw:
    """Runs aiws, or a shell command with it, on bytes."""

    def run(arguments: tuple[str | bytes, ...], stdin: bytes, more: Mapping[str, str | None], shell: str) -> Ran:
        aiws = [sys.executable, "-m", "aiworkspace_client"]
        command = ["/bin/sh", "-c", shell, "sh", *aiws, *arguments] if shell else [*aiws, *arguments]
        merged = {name: value for name, value in {**environment, **more}.items() if value is not None}
        return subprocess.run(command, env=merged, input=stdin, capture_output=True, timeout=120)

    async def in_thread(*arguments: str | bytes, stdin: bytes = b"", shell: str = "", **more: str | None) -> Ran:
        ran = await asyncio.to_thread(run, arguments, stdin, more, shell)
        assert b"Traceback" not in ran.stderr, ran.stderr.decode(errors="replace")
        return ran

    return in_thread


def scripted(server: ScriptedServer) -> None:
    made = chat_pb2.Conversation(conversation_id="conversation-1")
    server.script("ChatService.CreateConversation", answer(chat_pb2.CreateConversationResponse(conversation=made)))
    run = whole_run()
    deltas = [event for event in run if event.HasField("content_delta")]
    for event in deltas:
        event.content_delta.text = ""
    deltas[0].content_delta.text = WORDS
    connections(server, (run, None))
    org = org_pb2.Org(org_id=ORG.org_id, name=WORDS, role=org_pb2.ROLE_OWNER)
    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse(orgs=[org])))


@pytest.mark.parametrize(
    ("environment_of_it", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1"),
        ({"PYTHONIOENCODING": "ascii:strict"}, "ascii"),
        (POSIX, "ascii"),
        ({"LC_ALL": "C", "TERM": "dumb", "COLUMNS": "1"}, "utf-8"),
    ],
)
@pytest.mark.usefixtures("signed_in")
async def test_output_that_a_terminal_cannot_show_is_written_in_ascii(
    server: ScriptedServer, raw: Raw, environment_of_it: dict[str, str], shown: str
) -> None:
    scripted(server)
    ran = await raw("chat", "Hello", **environment_of_it)
    assert (ran.returncode, ran.stdout.decode(shown)) == (0, SHOWN[shown] + "\n")
    ran = await raw("orgs", "list", "--json", **environment_of_it)
    assert json.loads(ran.stdout.decode(shown))[0]["name"] == WORDS


@pytest.mark.parametrize(
    ("stdin", "more"),
    [
        ("Grüße 😀".encode("utf-8-sig"), {}),
        ("Grüße 😀".encode("utf-16"), {}),
        ("Grüße 😀".encode(), POSIX),
        ("Grüße 😀".encode(), {"PYTHONIOENCODING": "latin-1"}),
    ],
)
@pytest.mark.usefixtures("signed_in")
async def test_message_on_standard_input_is_read_in_its_encoding(
    server: ScriptedServer, raw: Raw, stdin: bytes, more: dict[str, str]
) -> None:
    scripted(server)
    ran = await raw("chat", stdin=stdin, **more)
    assert ran.returncode == 0, ran.stderr
    assert server.called("ChatService.SendMessage")[-1].request.content == "Grüße 😀"


@pytest.mark.usefixtures("signed_in")
async def test_input_in_the_encoding_of_the_locale_is_read(server: ScriptedServer, raw: Raw) -> None:
    scripted(server)
    ran = await raw("chat", stdin="Grüße".encode("latin-1"), PYTHONIOENCODING="latin-1")
    assert ran.returncode == 0, ran.stderr
    assert server.called("ChatService.SendMessage")[-1].request.content == "Grüße"


@pytest.mark.usefixtures("signed_in")
async def test_input_that_is_no_text_is_refused_in_words(server: ScriptedServer, raw: Raw) -> None:
    for more in ({"PYTHONIOENCODING": "utf-8"}, POSIX):
        ran = await raw("chat", stdin=b"caf\xe9 \xff\xfe", **more)
        assert ran.returncode == 2
        assert b"Standard input is not UTF-8 text" in ran.stderr
    ran = await raw("login", "-e", "a@example.com", "--password-stdin", stdin=b"caf\xe9 \xff\n", **more)
    assert ran.returncode == 2
    ran = await raw("login", "--password-stdin", stdin=b"caf\xe9@example.com\nsecret\n", **more)
    assert ran.returncode == 2, ran.stderr
    ran = await raw("chat", b"caf\xe9")
    assert ran.returncode == 1
    assert b"is not UTF-8" in ran.stderr
    assert server.called("ChatService.SendMessage") == []
    ran = await raw("whoami", AIWS_SERVER=os.fsdecode(b"caf\xe9"))
    assert ran.returncode == 1


@pytest.mark.parametrize("closed", ["<&- >&-", "2>&-", "</", ">/dev/full"])
@pytest.mark.usefixtures("signed_in")
async def test_closed_streams_are_no_traceback(server: ScriptedServer, raw: Raw, closed: str) -> None:
    scripted(server)
    for arguments in (("chat",), ("orgs", "list"), ("login", "-e", "a@example.com")):
        ran = await raw(*arguments, shell=f'exec "$@" {closed}')
        assert ran.returncode in (0, 1, 2, 120), (arguments, ran.stderr)
    if closed == "2>&-":
        ran = await raw("chat", "Hello", shell=f'exec "$@" {closed}')
        assert ran.stdout.decode() == WORDS + "\n"


@pytest.mark.usefixtures("signed_in")
async def test_reader_of_the_output_that_goes_away_is_no_traceback(server: ScriptedServer, raw: Raw) -> None:
    scripted(server)
    for arguments in (("chat", "Hello"), ("orgs", "list", "--json")):
        ran = await raw(*arguments, shell='"$@" | head -c 1')
        said = ran.stderr.replace(b"Continue with: aiws chat -c conversation-1\n", b"")  # if it ended before the reader
        assert said in (b"", b"\n"), ran.stderr


# No home


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)


def test_no_home_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    with pytest.raises(CredentialFileError, match=r"no home directory\. Set HOME or XDG_CONFIG_HOME"):
        default_path()


@pytest.mark.parametrize("where", ["nowhere", "read-only"])
def test_key_needs_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str) -> None:
    if where == "nowhere":
        without_home(monkeypatch)
    else:

        def refuse(*_: object, **__: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(os, "open", refuse)
    file = file_for_key("localhost:1")
    file.remember(org_id="org-1")
    assert file.recall("org_id") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody without a password entry")
async def test_user_without_home_and_entry_signs_in_nowhere_but_may_use_a_key(server: ScriptedServer, raw: Raw) -> None:
    scripted(server)
    power = "--inh-caps=+dac_override --ambient-caps=+dac_override"  # to read the project, which may lie below /root
    nobody = f'exec setpriv --reuid=12345 --regid=12345 --clear-groups {power} -- "$@"'
    bare = {"HOME": None, "XDG_CONFIG_HOME": None}
    ran = await raw("whoami", shell=nobody, **bare)
    assert ran.returncode == 1
    assert b"You have no home directory. Set HOME or XDG_CONFIG_HOME" in ran.stderr
    ran = await raw("orgs", "list", shell=nobody, **bare, AIWS_API_KEY="aiws_" + "x" * 49)
    assert ran.returncode == 0, ran.stderr
