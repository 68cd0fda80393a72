"""The operator's commands, while the server runs."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from aiworkspace_server.app import App
from aiworkspace_server.commands import CommandError, read_bill
from aiworkspace_server.llm.base import TokenUsage
from aiworkspace_server.llm.prices import embedding_price, price
from aiworkspace_server.usage.embeddings import reserve_embedding
from aiworkspace_server.usage.ledger import Spender
from tests.support.budgets import counted, make_budget, reserve, settle, spender
from tests.support.ledger import check_books, read_entries
from tests.support.mailbox import Mailbox
from tests.support.operators import run
from tests.support.people import NewPerson, Person, Place, make_place
from tests.support.postgres import until_no_jobs
from tests.support.runs import say
from tests.support.stores import Stores

MODEL = "openai/gpt-4o-mini"
USAGE = TokenUsage(100, 0, 0, 20, 0)
COST = price(MODEL, USAGE).nanos


async def used(app: App, who: Spender, *, own_key: bool = False) -> Spender:
    await reserve(app, who, 10 * COST, model=MODEL, own_key=own_key)
    await settle(app, who, COST, usage=USAGE)
    return who


def write(file: Path, *lines: dict[str, object]) -> str:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def line(who: Spender, input_tokens: int = 100, attempt: int = 1) -> dict[str, object]:
    return {"request": f"{who.run_id}/{attempt}", "input_tokens": input_tokens, "output_tokens": 20}


async def test_usage_is_rebuilt_while_messages_are_sent(
    app: App, owner: Person, stores: Stores, mailbox: Mailbox
) -> None:
    places = [await make_place(owner) for _ in range(2)]
    for place in places:
        await make_budget(owner, place.org_id, 10**12)
        await say(owner, place.conversation_id, "hello")
        async with app.db.write(UUID(place.org_id)) as tx:
            await tx.execute(text("UPDATE usage_rollups SET cost_nanos = cost_nanos + 1"))
            await tx.execute(text("UPDATE budget_windows SET settled_nanos = 5"))
    running = asyncio.create_task(run(stores, mailbox, "rebuild-usage"))
    while not running.done():
        for place in places:
            await say(owner, place.conversation_id, "hello")
    ran = await running
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage and budgets were rebuilt from the ledgers of ")
    for place in places:
        await check_books(stores, place.org_id)


async def test_inspecting_an_unknown_run_fails(app: App, stores: Stores, mailbox: Mailbox) -> None:
    nobody = UUID(int=1)
    unknown = await run(stores, mailbox, "inspect", "run", str(nobody))
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.endswith(f"error: there is no run {nobody}\n")
    no_id = await run(stores, mailbox, "inspect", "run", "hello")
    assert no_id.returncode == 2
    assert "invalid UUID value: 'hello'" in no_id.stderr


async def test_a_bill_for_the_servers_keys_is_reconciled_over_all_organizations(
    app: App, owner: Person, stores: Stores, mailbox: Mailbox, tmp_path: Path
) -> None:
    one, other = [await make_place(owner) for _ in range(2)]
    same, more, less = await used(app, spender(one)), await used(app, spender(one)), await used(app, spender(other))
    budget = await make_budget(owner, other.org_id, 10**9)
    lines = line(same), line(more, 300), line(less, 20), line(spender(one))
    bill = write(tmp_path / "bill.jsonl", *lines)
    arguments = "reconcile", "--provider", "openai", bill
    dry = await run(stores, mailbox, *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert len(await read_entries(stores, one.org_id)) == 4
    ran = await run(stores, mailbox, *arguments)
    assert [row.split() for row in ran.stdout.splitlines()] == [
        ["matched", "1", "0.00", "USD"],
        ["adjusted", "2", "0.000018", "USD"],  # 200 tokens more and 80 less of $0.15 a million
        ["not", "billed", "0", "0.00", "USD"],
        ["in", "progress", "0", "0.00", "USD"],
        ["unknown", "1", "0.00", "USD"],
        ["together", "4", "0.000018", "USD"],
    ]
    assert dry.stdout == ran.stdout + "nothing was written\n"
    assert sum(entry.cost for entry in await read_entries(stores, one.org_id)) == 2 * COST + 200 * 150
    assert await counted(owner, budget) == (COST - 80 * 150, 0)
    again = await run(stores, mailbox, *arguments)
    assert again.stdout.splitlines()[0].split() == ["matched", "3", "0.00", "USD"]
    for place in (one, other):
        await check_books(stores, place.org_id)


async def test_a_complete_bill_takes_back_what_it_lacks(
    app: App, place: Place, stores: Stores, mailbox: Mailbox, tmp_path: Path
) -> None:
    """Of this test's hour alone, long ago, so that no other test's entries are among it."""
    time = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
    billed, missing = [await used(app, spender(place, run_time=time)) for _ in range(2)]
    own = await used(app, spender(place, run_time=time), own_key=True)
    embedding, model = spender(place, run_time=time), "openai/text-embedding-3-small"
    async with app.db.write(embedding.org_id) as tx:
        attempt = await reserve_embedding(tx, app.ledger, embedding, 1, model, 10**6)
        await attempt.settle(tx, 10**6)
    bill = write(tmp_path / "bill.jsonl", line(billed))
    arguments = "reconcile", "--provider", "openai", bill, "--complete", "--start", "2026-01-05T12:00"
    ran = await run(stores, mailbox, *arguments, "--end", "2026-01-05T13:00Z")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[2].split() == ["not", "billed", "1", "-0.000027", "USD"]
    costs = {who.run_id: 0 for who in (billed, missing, own, embedding)}
    for entry in await read_entries(stores, place.org_id):
        costs[entry.run_id] += entry.cost
    embedded = embedding_price(model, 10**6, time).nanos
    assert costs == {billed.run_id: COST, missing.run_id: 0, own.run_id: COST, embedding.run_id: embedded}


async def test_an_alert_that_reconciling_brings_is_sent_by_the_server(
    app: App, new_person: NewPerson, stores: Stores, mailbox: Mailbox, tmp_path: Path
) -> None:
    place = await make_place(await new_person())
    who = await used(app, spender(place))
    await make_budget(place.owner, place.org_id, 2 * COST, alert_percents=[90])
    ran = await run(stores, mailbox, "reconcile", "--provider", "openai", write(tmp_path / "b", line(who, 1000)))
    assert ran.returncode == 0, ran.stderr
    await until_no_jobs(stores, place.org_id)
    assert mailbox.of(place.owner.email, "90% of a budget are spent")


async def test_arguments_that_make_no_sense_are_refused(stores: Stores, mailbox: Mailbox, tmp_path: Path) -> None:
    bill = write(tmp_path / "bill.jsonl")
    for arguments, word in (
        ((bill,), "--provider"),
        ((bill, "--provider", "openai", "--complete"), "--start"),
        ((bill, "--provider", "openai", "--start", "2026-01-01", "--end", "2026-01-02"), "--complete"),
        ((bill, "--provider", "openai", "--complete", "--start", "x", "--end", "2026-01-02"), "--start"),
    ):
        ran = await run(stores, mailbox, "reconcile", *arguments)
        assert (ran.returncode, word in ran.stderr) == (2, True)
    ran = await run(stores, mailbox, "reconcile", "--provider", "openai", str(tmp_path / "none"))
    assert (ran.returncode, "No such file" in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)


RUN = UUID(int=7)
BAD: dict[str, Callable[[], str]] = {
    "line 1: Expecting value": lambda: "nonsense",
    "line 1: 'tokens' is not one of": lambda: json.dumps({"request": f"{RUN}/1", "tokens": 1}),
    "line 1: 'request'": lambda: json.dumps({"input_tokens": 1}),
    "line 1: input_tokens is not a whole number": lambda: json.dumps({"request": f"{RUN}/1", "input_tokens": 1.5}),
    "line 1: output_tokens is not": lambda: json.dumps({"request": f"{RUN}/1", "output_tokens": True}),
    "line 1: badly formed": lambda: json.dumps({"request": "x/1"}),
    "line 1: request must be RUN": lambda: json.dumps({"request": f"{RUN}"}),
    "line 1: request must be RUN/ATTEMPT": lambda: json.dumps({"request": f"{RUN}/0"}),
    "line 1: is impossible": lambda: json.dumps({"request": f"{RUN}/1", "cached_input_tokens": 1}),
    "line 1: is not a JSON object": lambda: "[]",
    "line 3: has the same request as line 1": lambda: (
        json.dumps({"request": f"{RUN}/1"}) + "\n\n" + json.dumps({"request": f"{RUN}/1"})
    ),
}


@pytest.mark.parametrize("complaint", BAD)
def test_a_line_that_makes_no_sense_is_named(complaint: str, tmp_path: Path) -> None:
    (tmp_path / "bill").write_text(BAD[complaint]())
    with pytest.raises(CommandError, match=complaint):
        list(read_bill(tmp_path / "bill"))


def test_all_kinds_of_tokens_are_read(tmp_path: Path) -> None:
    counts = {"input_tokens": 9, "cached_input_tokens": 1, "cache_write_tokens": 2, "output_tokens": 8}
    counts |= {"reasoning_tokens": 3, "input_audio_tokens": 4, "output_audio_tokens": 5}
    write(tmp_path / "bill", {"request": f"{RUN}/12", **counts})
    (billed,) = read_bill(tmp_path / "bill")
    assert (billed.run_id, billed.attempt) == (RUN, 12)
    assert billed.usage == TokenUsage(9, 1, 2, 8, 3, False, 4, 5)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bill").write_bytes(b"\xff\xfe\x00{}")
    with pytest.raises(CommandError, match="is not text in UTF-8"):
        list(read_bill(tmp_path / "bill"))
