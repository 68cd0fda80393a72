"""aiws documents and aiws collections against the real server."""

import json
import os
from pathlib import Path

import pytest

from aiworkspace_server.app import App
from tests.client.conftest import Aiws
from tests.support.people import PASSWORD, Place


@pytest.fixture
def environment(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of commands for the real server, in a directory of their own."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return {**os.environ, "AIWS_SERVER": app.address, "XDG_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}


@pytest.fixture
async def member(aiws: Aiws, place: Place) -> Aiws:
    """Commands of the owner of the place."""
    ran = await aiws("login", "--email", place.owner.email, "--password-stdin", stdin=PASSWORD)
    assert ran.returncode == 0, ran.stderr
    assert (await aiws("workspaces", "use", place.workspace_id)).returncode == 0
    return aiws


async def test_documents_from_upload_to_deletion(member: Aiws, tmp_path: Path) -> None:
    data, here = os.urandom(600_000), tmp_path / "here"
    (here / "report [1].pdf").write_bytes(data)
    (here / "notes.txt").write_text("notes")
    ran = await member("collections", "create", "Papers", "--description", "What we read", "--json")
    collection_id = json.loads(ran.stdout)["collection_id"]
    ran = await member("documents", "upload", "report [1].pdf", "-c", collection_id, "--json")
    assert ran.returncode == 0, ran.stderr
    document_id = json.loads(ran.stdout)["document_id"]
    assert (await member("documents", "upload", "notes.txt")).stderr.startswith("Uploaded notes.txt (")
    listed = (await member("documents", "list")).stdout.splitlines()
    assert listed[0].startswith("DOCUMENT ")
    assert [("notes.txt" in line, "report [1].pdf" in line) for line in listed[1:]] == [(True, False), (False, True)]
    assert "600,000" in listed[2]
    assert len((await member("documents", "list", "-c", collection_id)).stdout.splitlines()) == 2
    assert "What we read" in (await member("collections", "list")).stdout
    refused = await member("documents", "download", document_id)
    assert (refused.returncode, "exists" in refused.stderr) == (2, True)
    assert (await member("documents", "download", document_id, "copy.pdf")).returncode == 0
    assert (here / "copy.pdf").read_bytes() == data
    assert (await member("documents", "delete", document_id, "--yes")).returncode == 0
    assert (await member("collections", "delete", collection_id, "--yes")).returncode == 0
    assert len((await member("documents", "list")).stdout.splitlines()) == 2


GUIDE = """# Museum guide

## Difference engine

The difference engine is cranked every Tuesday at three.
"""


async def test_a_document_is_read_searched_cited_and_replaced(member: Aiws, tmp_path: Path) -> None:
    guide = tmp_path / "here" / "guide.md"
    guide.write_text(GUIDE)
    ran = await member("documents", "upload", "guide.md", "--wait", "--json")
    assert ran.returncode == 0, ran.stderr
    document_id = json.loads(ran.stdout)["document_id"]
    found = (await member("documents", "search", "When is the engine cranked?")).stdout.splitlines()
    assert found[0] == "1. guide.md, Museum guide > Difference engine"
    assert found[1].endswith("The difference engine is cranked every Tuesday at three.")
    assert "every Tuesday at three." in (await member("documents", "text", document_id)).stdout
    ran = await member("chat", "When is the engine cranked?", "--model", "echo/echo", "--documents")
    assert ran.returncode == 0, ran.stderr
    cited = 'guide.md, Museum guide > Difference engine: "The difference engine is cranked every Tuesday at three."'
    assert any(line.startswith("[") and line.endswith(f"] {cited}") for line in ran.stdout.splitlines())
    guide.write_text(GUIDE.replace("Tuesday", "Friday"))
    ran = await member("documents", "replace", document_id, "guide.md", "--wait")
    assert (ran.returncode, ran.stderr) == (0, f"guide.md ({document_id}): ready\n")
    assert "every Friday at three." in (await member("documents", "search", "engine")).stdout


async def test_a_file_that_cannot_be_read_says_why_and_what_to_do(member: Aiws, tmp_path: Path) -> None:
    (tmp_path / "here" / "noise.bin").write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(100))
    ran = await member("documents", "upload", "noise.bin", "--wait")
    assert ran.returncode == 1
    said = ran.stderr.splitlines()
    assert said[0].startswith("noise.bin (")
    assert said[0].endswith("): failed (unsupported)")
    assert said[1] == "The file is of a kind that the server cannot read. Upload it in another format."
    assert said[2].startswith("Next: aiws documents replace ")


async def test_a_file_that_is_not_there_is_named(member: Aiws) -> None:
    ran = await member("documents", "upload", "none.txt")
    assert (ran.returncode, "none.txt" in ran.stderr) == (2, True)
