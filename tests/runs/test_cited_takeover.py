"""A run with sources that another server takes over: the same sources, and no citation twice."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import pytest

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import model_pb2
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.settings import Settings
from tests.standin import Script, Stall, Standin
from tests.support.people import Person, Place, make_place, reconnected
from tests.support.postgres import as_owner
from tests.support.runs import OPENAI, events_of, follow, kinds_of, play, send, text_of
from tests.support.settings import provider_settings, store_settings
from tests.support.sources import MARS, MOON, Library, citations_of, make_source, read_all, until_cited
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until_true


@dataclass
class Scene:
    """A place whose owner is connected with the first server, and its documents."""

    stores: Stores
    other: App
    place: Place
    library: Library

    async def orphan(self, run_id: str) -> None:
        """Let the other server find that the run's server is dead."""
        async with as_owner(self.stores) as owner:
            values = {"server": new_id(), "run": run_id}
            await owner.execute("UPDATE run_claims SET server_id = %(server)s WHERE run_id = %(run)s", values)

    async def follow(self, run_id: str) -> list[pb.ChatEvent]:
        reader = reconnected(self.place.owner, self.other.address)
        return await events_of(follow(reader, run_id))


@pytest.fixture(scope="module")
async def shared(stores: Stores) -> Stores:
    return await other_databases(stores, "cited")


@pytest.fixture
async def scene(
    shared: Stores, stores: Stores, standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    values = store_settings(shared) | provider_settings(standin) | {"redis_url": stores.redis, "shutdown_seconds": 0.1}
    settings = Settings.model_validate(values)
    async with running(settings, migrating=True) as one, running(settings, migrating=False) as other:
        place = await make_place(await Person(one.address).register())
        policy = model_pb2.ModelPolicy(resume_interrupted_runs=True)
        request = model_pb2.SetWorkspaceModelPolicyRequest(workspace_id=place.workspace_id, policy=policy)
        await place.owner.models.SetWorkspaceModelPolicy(request)
        await read_all(place)
        sources = [await make_source(place.owner, place.workspace_id, text) for text in (MOON, MARS)]
        library = Library(sources)
        # The first server counts as dead: it takes over nothing.
        monkeypatch.setattr(one.engine.takeover, "take_over_orphans", partial(asyncio.sleep, 0))
        for app in (one, other):
            library.serve(app, monkeypatch)
            monkeypatch.setattr(app.engine.deps.documents, "seconds", 3600)
        yield Scene(shared, other, place, library)


async def test_run_that_is_taken_over_keeps_its_sources_and_citations(scene: Scene, standin: Standin) -> None:
    cut = Script(tokens=("The Moon is far [1]", ". It", " [", "1"), fault=Stall(3))
    stream = send(scene.place, "Moon?", model=play(standin, OPENAI, cut))
    seen = await until_cited(stream)
    run_id = seen[0].run_id
    play(standin, OPENAI, Script(tokens=(" has no air [1].", " Mars has moons [2] [7].")))
    await scene.orphan(run_id)
    events = await scene.follow(run_id)
    text = "The Moon is far. It has no air. Mars has moons."
    assert text_of(events) == text
    assert events[: len(seen)] == seen
    assert kinds_of(events)[-1] == "run_completed"
    assert [(text[each.start : each.end], each.quote) for each in citations_of(events)] == [
        ("The Moon is far", "The Moon is 384,400 km away."),
        ("It has no air", "It has no air."),
        ("Mars has moons", "Mars has two moons."),
    ]
    end = events[-1].run_completed
    assert list(end.message.citations) == citations_of(events)
    assert end.dropped_citation_count == 1
    assert len(scene.library.queries) == 1, "the sources were stored before the provider was called"
    assert kinds_of(events).count("sources_retrieved") == 1
    said = [each["content"] for each in standin.received[-1].body["messages"] if each["role"] == "assistant"]
    assert said == ["The Moon is far [1]. It"]


async def test_run_that_is_taken_over_during_its_search_searches_again(scene: Scene, standin: Standin) -> None:
    gone = asyncio.Event()
    scene.library.before = gone.wait
    play(standin, OPENAI, Script(tokens=("The Moon is far [1].",)))
    stream = send(scene.place, "Moon?", model=OPENAI)
    run_id = (await stream.read()).event.run_id
    assert await until_true(lambda: bool(scene.library.queries))
    scene.library.before = None
    await scene.orphan(run_id)
    events = await scene.follow(run_id)
    gone.set()
    assert len(scene.library.queries) == 2
    assert kinds_of(events).count("sources_retrieved") == 1
    assert len(citations_of(events)) == 1
    assert events[-1].run_completed.run.attempt_count == 2
