"""README.md and docs/ are true: links resolve, and the commands and programs in them run as written."""

import argparse
import asyncio
import base64
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from aiworkspace_client import Client
from aiworkspace_server import arguments
from aiworkspace_server.app import App
from tests.support.postgres import sql
from tests.support.stores import Stores

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PASSWORD = "a long passphrase"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: str, language: str, section: str = "") -> list[str]:
    """Return the code blocks of a language, of one section if it is named."""
    text = (ROOT / page).read_text()
    if section:
        _, heading, text = text.partition(f"\n{section}\n")
        assert heading, f"{page} has no section {section}"
        text = re.split(r"\n##+ ", text)[0]
    return re.findall(f"```{language}\n(.*?)```", text, re.DOTALL)  # inside lists, too: they may be indented


# The way of a message through the code

_STEP = re.compile(r"^\| \d+ \| (.+?) \| (.+?) \|", re.MULTILINE)


def test_files_and_entry_points_of_the_architecture_exist() -> None:
    steps = _STEP.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len(steps) == 36
    for files, entry_points in steps:
        texts = [(ROOT / "server/aiworkspace_server" / name).read_text() for name in re.findall(r"`(.+?)`", files)]
        for entry_point in re.findall(r"`(.+?)`", entry_points):
            name = entry_point.rpartition(".")[2]
            assert any(re.search(rf"(def|class) {name}\b", text) for text in texts), f"{files} has no {entry_point}"


# What a receiver of webhooks does


def test_the_receiver_of_the_page_accepts_what_is_signed_and_nothing_else() -> None:
    [code] = [block for block in blocks("docs/events.md", "python") if "def receive" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    secret, body, time = (
        "whsec_" + base64.b64encode(os.urandom(32)).decode(),
        '{"type": "webhook.test"}',
        datetime.now(UTC),
    )
    signature = f"v1,AAAA {Webhook(secret).sign('an id', time, body)}"
    headers = {"Webhook-Id": "an id", "Webhook-Timestamp": str(int(time.timestamp())), "Webhook-Signature": signature}
    assert names["receive"](body.encode(), headers, secret) == {"type": "webhook.test"}
    with pytest.raises(WebhookVerificationError):
        names["receive"](body.replace("test", "forged").encode(), headers, secret)


# Links


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as they are commonly derived from their text."""
    without_code = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_point_at_files_and_headings_that_exist(page: Path) -> None:
    assert list(broken_links(page)) == []


# The command line and the SDK


class Laptop:
    """The home directory of a person, in which the command line remembers who signed in."""

    def __init__(self, app: App, home: Path) -> None:
        self.email = f"{uuid.uuid4().hex[:12]}@example.com"
        self._address = app.address
        self._home = home

    async def run(self, *command: str, stdin: str = "", **variables: str) -> str:
        """Return what the command prints on both streams. Fail if its exit code is not 0."""
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self._home),
            "AIWS_SERVER": self._address,
            "NO_COLOR": "1",
            **variables,
        }

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command,
                input=stdin,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=240,
            )

        ran = await asyncio.to_thread(run)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    async def shell(self, script: str, stdin: str = "") -> str:
        return await self.run("bash", "-euo", "pipefail", "-c", script, stdin=stdin)

    async def python(self, program: str, **variables: str) -> str:
        program = program.replace("127.0.0.1:50051", self._address).replace("you@example.com", self.email)
        return await self.run(sys.executable, "-c", program, **variables)

    async def follow_quick_start(self) -> str:
        """Run the commands of the quick start. Where they ask at a terminal, the answers are options here."""
        (block,) = blocks("README.md", "sh", "## Quick start")
        lines = block.splitlines()
        assert lines[:2] == ["source .venv/bin/activate", "aiws register"]
        lines[:2] = [f"aiws register --email {self.email} --name Me --password-stdin"]
        return await self.shell("\n".join(lines), stdin=f"{PASSWORD}\n")


@pytest.fixture
def laptop(app: App, tmp_path: Path) -> Laptop:
    return Laptop(app, tmp_path)


async def test_quick_start_of_the_readme_works(laptop: Laptop) -> None:
    printed = await laptop.follow_quick_start()
    assert "You said: Hello! What can you do?" in printed
    assert "echo/echo" in printed


async def test_sdk_example_of_the_readme_works(laptop: Laptop) -> None:
    await laptop.follow_quick_start()
    (example,) = blocks("README.md", "python", "## The SDK")
    printed = await laptop.python(example)
    assert "You said: Tell me a story." in printed
    assert re.search(r"^echo/echo: \d+ nano-USD$", printed, re.MULTILINE)


async def test_commands_and_example_about_api_keys_work(laptop: Laptop) -> None:
    await laptop.follow_quick_start()
    (commands,), (example,) = (blocks("README.md", kind, "### API keys for backends") for kind in ("sh", "python"))
    printed = await laptop.shell(commands + "\necho key=$AIWS_API_KEY")
    assert "You said: Hello from a backend!" in printed
    key = printed.rpartition("key=")[2].strip()
    assert "You said: Hello from a backend!" in await laptop.python(example, AIWS_API_KEY=key)
    ids = re.findall(r"[0-9a-f-]{36}", await laptop.run("aiws", "api-keys", "list", "--json"))
    assert ids


async def _ids_with_a_member(app: App, laptop: Laptop) -> dict[str, str]:
    """Of the organization and workspace of the quick start, and of somebody who is a member of it."""
    ids = dict(re.findall(r"^(org|workspace)\s+([0-9a-f-]{36})", await laptop.run("aiws", "whoami"), re.MULTILINE))
    invited = f"{uuid.uuid4().hex[:12]}@example.com"
    token = (await laptop.run("aiws", "orgs", "invite", invited)).split()[-1]

    def accept() -> str:
        with Client(app.address) as client:
            user = client.auth.register(email=invited, password=PASSWORD, display_name="Paul").user
            client.orgs.accept_invitation(token=token)
            return user.user_id

    return ids | {"user": await asyncio.to_thread(accept)}


def _filled(script: str, ids: dict[str, str]) -> str:
    for name, value in ids.items():
        script = re.sub(rf"\b{name.upper()}\b", value, script)
    return script


async def test_commands_about_administration_work(app: App, laptop: Laptop) -> None:
    await laptop.follow_quick_start()
    all_blocks = blocks("docs/administration.md", "sh")
    of_members = [block for block in all_blocks if "aiws admin" not in block and "aiws data erase" not in block]
    script = "\n".join(of_members)
    assert script.count("aiws ") >= 20
    ids = await _ids_with_a_member(app, laptop)
    await laptop.run("aiws", "data", "export", "--to", "before.zip")
    ids["export"] = re.findall(r"[0-9a-f-]{36}", await laptop.run("aiws", "data", "exports"))[0]
    script = _filled(script, ids)
    script = script.replace("paul@example.com", f"{uuid.uuid4().hex[:12]}@example.com")
    printed = await laptop.shell(script, stdin="sk-not-checked-by-the-stand-in\n")
    assert "All entries are unchanged." in printed


async def test_commands_about_erasure_work(app: App, laptop: Laptop) -> None:
    await laptop.follow_quick_start()
    ids = await _ids_with_a_member(app, laptop)
    asked = await laptop.run("aiws", "data", "erase", "--yes")
    ids["erasure"] = re.findall(r"^([0-9a-f-]{36})\s+organization\s+scheduled", asked, re.MULTILINE)[0]
    (commands,) = blocks("docs/administration.md", "sh", "## Erasure")
    printed = await laptop.shell(_filled(commands, ids), stdin="y\n")
    assert re.search(rf"^{ids['erasure']}\s+organization\s+cancelled", printed, re.MULTILINE)
    assert re.search(rf"{ids['user']}\s+(running|done)", printed)


async def test_commands_of_operators_work(laptop: Laptop, stores: Stores) -> None:
    await laptop.follow_quick_start()
    org_id = re.findall(r"^org\s+([0-9a-f-]{36})", await laptop.run("aiws", "whoami"), re.MULTILINE)[0]
    people = "(SELECT user_id FROM memberships WHERE org_id = %s)"
    await sql(stores, f"UPDATE users SET verify_time = now() WHERE id IN {people}", org_id)
    await sql(stores, "INSERT INTO operators SELECT user_id, now() FROM memberships WHERE org_id = %s", org_id)
    await sql(stores, "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('nobodys', 'x')")
    for state in ("doing", "failed"):
        await sql(stores, f"UPDATE procrastinate_jobs SET status = '{state}' WHERE queue_name = 'nobodys'")
    (commands,) = blocks("docs/administration.md", "sh", "## The server as a whole")
    job_id = re.findall(r"[0-9a-f-]{36}", await laptop.run("aiws", "admin", "jobs", "--state", "failed"))[0]
    printed = await laptop.shell(commands.replace("ORG", org_id).replace("JOB", job_id))
    assert "All entries are unchanged." in printed


# Commands of the operator


def operator_commands() -> list[tuple[str, ...]]:
    text = "\n".join(page.read_text() for page in PAGES)
    found = re.findall(r"python -m aiworkspace_server ([^`\n#]+)", text.replace("\\\n", " "))
    return sorted({tuple(shlex.split(command)) for command in found})


@pytest.mark.parametrize("command", operator_commands(), ids=" ".join)
def test_commands_of_the_operator_exist(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"ORG": str(uuid.uuid4()), "RUN": str(uuid.uuid4()), "ID": str(uuid.uuid4()), "N": "4"}
    words = [given.get(word, word) for word in command]
    monkeypatch.setattr(sys, "argv", ["aiworkspace_server", *words])
    assert isinstance(arguments.parse_arguments(), argparse.Namespace)


# Queries of docs/debugging.md


def queries() -> list[str]:
    found = [query for block in blocks("docs/debugging.md", "sql") for query in block.split(";") if query.strip()]
    assert len(found) >= 10
    return found


@pytest.mark.parametrize("query", queries(), ids=lambda query: " ".join(query.split()[:6]))
async def test_queries_for_postgresql_fit_its_tables(app: App, query: str) -> None:
    for name in ("RUN", "ORG"):
        query = re.sub(rf"\b{name}\b", str(uuid.uuid4()), query)
    async with app.db.read() as tx:
        result = await (await tx.connection()).exec_driver_sql(query)
    assert result.returns_rows != query.startswith("SET")


async def test_queries_for_mongodb_name_collections_that_exist(app: App) -> None:
    named = set(re.findall(r"^ *db\.(\w+)\.", "\n".join(blocks("docs/debugging.md", "js")), re.MULTILINE))
    assert named
    assert named <= set(await app.mongo.database.list_collection_names())
