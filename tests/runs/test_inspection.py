"""What the operator sees of a run with `inspect run`."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.commands import CommandError
from aiworkspace_server.inspection import inspect, render
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.runs.inspection import RunReport, StoredEvent
from aiworkspace_server.settings import Settings
from tests.standin import HttpError, Script, Standin
from tests.support.people import Place
from tests.support.postgres import until_no_jobs
from tests.support.runs import ANTHROPIC, OPENAI, WORDS, events_of, first_deltas, kinds_of, play, say, send, talk
from tests.support.stores import Stores

from .conftest import PlanFor

QUESTION = "what nobody else should read\x1b[2J"


class Inspect:
    def __init__(self, settings: Settings, output: pytest.CaptureFixture[str]) -> None:
        self._settings = settings
        self._output = output

    async def lines(self, run_id: str, *, with_text: bool = False) -> str:
        await inspect(self._settings, UUID(run_id), with_text=with_text, as_json=False)
        return self._output.readouterr().out

    async def values(self, run_id: str, *, with_text: bool = False) -> dict[str, Any]:
        await inspect(self._settings, UUID(run_id), with_text=with_text, as_json=True)
        found: dict[str, Any] = json.loads(self._output.readouterr().out)
        return found


@pytest.fixture
def inspected(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Inspect:
    return Inspect(settings, capsys)


@pytest.fixture
async def fallen_back(place: Place, standin: Standin, plan_for: PlanFor) -> list[pb.ChatEvent]:
    """The events of a run whose first attempt failed."""
    plan_for(ANTHROPIC)
    play(standin, OPENAI, Script(fault=HttpError(404, message="what the provider said", type="not_found_error")))
    play(standin, ANTHROPIC, Script(tokens=WORDS))
    return await say(place.owner, place.conversation_id, QUESTION, model=OPENAI)


async def test_a_run_is_shown_with_attempts_events_claim_and_ledger(
    inspected: Inspect, place: Place, fallen_back: list[pb.ChatEvent]
) -> None:
    found = await inspected.values(fallen_back[0].run_id)
    assert (found["org_id"], found["run"]["state"], found["run"]["answer_model"]) == (
        place.org_id,
        "completed",
        ANTHROPIC,
    )
    assert [(each["model"], each["state"], each["status"]) for each in found["attempts"]] == [
        (OPENAI, "failed", 404),
        (ANTHROPIC, "completed", 200),
    ]
    assert [event["kind"] for event in found["events"]] == kinds_of(fallen_back)
    assert [event["sequence"] for event in found["events"]] == [event.sequence for event in fallen_back]
    kinds = [(entry["attempt"], entry["kind"]) for entry in found["ledger"]]
    assert kinds == [(1, "reserve"), (1, "release"), (2, "reserve"), (2, "settle")]
    assert (found["claim"]["state"], found["claim"]["stop"]) == ("closed", None)
    lines = await inspected.lines(fallen_back[0].run_id)
    shown = (
        "completed stop",
        "HTTP 404",
        "PROVIDER_MODEL_NOT_FOUND",
        "run_completed",
        "0.00 USD still reserved",
        "closed",
    )
    assert [text for text in shown if text not in lines] == []


async def test_what_was_said_is_shown_only_on_request(inspected: Inspect, fallen_back: list[pb.ChatEvent]) -> None:
    run_id = fallen_back[0].run_id
    said = "what nobody else should read", "word7", "what the provider said"
    silent = await inspected.lines(run_id) + json.dumps(await inspected.values(run_id))
    assert [text for text in said if text in silent] == []
    talkative = await inspected.lines(run_id, with_text=True)
    assert [text for text in said if text not in talkative] == []
    assert "\x1b" not in talkative, "it would control the terminal"
    assert (await inspected.values(run_id, with_text=True))["run"]["question"][0]["text"] == QUESTION


async def test_a_run_in_progress_is_shown_with_its_server_and_lease(
    inspected: Inspect, app: App, place: Place, standin: Standin
) -> None:
    enough = talk(standin)
    stream = send(place, model=OPENAI)
    run_id = (await first_deltas(stream, 2))[0].run_id
    async with asyncio.timeout(120):
        while len((found := await inspected.values(run_id))["events"]) < 3:
            pass
    assert (found["run"]["state"], found["claim"]["state"]) == ("running", "open")
    assert found["claim"]["server_id"] == str(app.engine.deps.server_id)
    assert 0 < found["claim"]["lease_seconds"] <= 5
    assert "lease left" in await inspected.lines(run_id)
    enough.set()
    assert kinds_of(await events_of(stream))[-1] == "run_completed"


async def test_claim_and_ledger_are_what_is_left_of_an_erased_run(
    inspected: Inspect, place: Place, stores: Stores
) -> None:
    run_id = (await say(place.owner, place.conversation_id, "hello", model="echo/echo"))[0].run_id
    await place.owner.chat.DeleteConversation(pb.DeleteConversationRequest(conversation_id=place.conversation_id))
    await until_no_jobs(stores, place.conversation_id)
    found = await inspected.values(run_id)
    assert (found["run"], found["attempts"], found["events"]) == (None, [], [])
    assert [entry["kind"] for entry in found["ledger"]] == ["reserve", "settle"]
    assert "it was rolled back or erased" in await inspected.lines(run_id)


@pytest.mark.usefixtures("app")
async def test_an_unknown_run_is_an_error(inspected: Inspect) -> None:
    with pytest.raises(CommandError, match="there is no run"):
        await inspected.lines(str(new_id()))


def test_consecutive_deltas_share_a_line_and_gaps_are_marked() -> None:
    kinds = {1: "run_started", 2: "content_delta", 3: "content_delta", 6: "content_delta", 7: "run_completed"}
    events = [StoredEvent(sequence, kind, 10, None, None) for sequence, kind in kinds.items()]
    lines = list(render(RunReport(new_id(), new_id(), None, [], events, None, [])))
    begin = lines.index("events: 5 stored, 50 bytes") + 1
    assert [line.split()[:2] for line in lines[begin : begin + 5]] == [
        ["1", "run_started"],
        ["2-3", "content_delta"],
        ["4-5", "MISSING"],
        ["6", "content_delta"],
        ["7", "run_completed"],
    ]
