"""What a model reads of a conversation: the latest that fits into its context, and no more work than that."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from pymongo import AsyncMongoClient, monitoring

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.conversations.history import ContextTooLong, History, fit, room
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.llm.base import Turn
from aiworkspace_server.llm.echo import EchoProvider
from aiworkspace_server.policies.providers import Target
from tests.standin import Script, Standin
from tests.support.outcomes import CONTEXT_TOO_LONG, UNAVAILABLE, outcome
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.stores import Stores

MINI = "openai/gpt-4o-mini"
ORG_ID = UUID(int=1)
SMALL = "openai/gpt-4"  # its context has 8,192 tokens


def user(text: str) -> Turn:
    return Turn("user", text)


def assistant(text: str) -> Turn:
    return Turn("assistant", text)


TURNS = [user("a" * 40), assistant("b" * 40), user("c" * 40), assistant("d" * 40), user("e" * 40)]  # of 14 tokens each


@pytest.mark.parametrize(
    ("tokens", "kept"), [(1000, 5), (70, 5), (69, 3), (56, 3), (55, 3), (42, 3), (41, 1), (28, 1), (14, 1)]
)
def test_the_latest_turns_are_kept_and_a_person_speaks_first(tokens: int, kept: int) -> None:
    assert fit(TURNS, "", tokens) == TURNS[-kept:]


def test_the_system_prompt_comes_first() -> None:
    assert fit(TURNS, "s" * 40, 69) == TURNS[-3:]
    with pytest.raises(ContextTooLong):
        fit(TURNS, "s" * 40, 27)


@pytest.mark.parametrize("tokens", [13, 0])
def test_a_message_that_does_not_fit_by_itself_is_refused(tokens: int) -> None:
    with pytest.raises(ContextTooLong):
        fit(TURNS, "", tokens)


def test_nothing_is_kept_that_lies_before_what_was_left_out() -> None:
    turns = [user("short"), assistant("x" * 1000), user("short")]
    assert fit(turns, "", 100) == turns[-1:]


def test_who_needs_more_than_the_last_turn_gets_it_or_nothing() -> None:
    assert fit(TURNS, "", 42, least=3) == TURNS[-3:]
    with pytest.raises(ContextTooLong):
        fit(TURNS, "", 41, least=3)


def test_the_answer_has_its_room() -> None:
    target = Target("a/x", "x", EchoProvider(0), False, "a", context_tokens=10_000)
    assert (room(target, 1000), room(target, 9_000), room(target, 50_000)) == (8_000, 0, 0)
    assert room(replace(target, context_tokens=20_000), 1000) == 17_000


# Reading


class Reads(monitoring.CommandListener):
    """How many documents came from MongoDB, with how many commands."""

    def __init__(self) -> None:
        self.documents = self.commands = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Nothing was read yet."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        if event.command_name in ("find", "getMore"):
            cursor = event.reply["cursor"]
            self.commands += 1
            self.documents += len(cursor.get("firstBatch", cursor.get("nextBatch", ())))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing was read."""


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
async def mongo(stores: Stores, reads: Reads) -> AsyncIterator[Mongo]:
    mongo = Mongo(stores.mongo)
    await mongo.close()
    mongo.client = AsyncMongoClient(stores.mongo, uuidRepresentation="standard", event_listeners=[reads])
    mongo.database = mongo.client.get_default_database()
    yield mongo
    await mongo.close()


@pytest.fixture
def chat(mongo: Mongo) -> ConversationStore:
    return ConversationStore(mongo, ORG_ID)


async def talk(mongo: Mongo, conversation_id: UUID, texts: Sequence[str]) -> UUID:
    """Add these messages to a conversation, a person's first. Return the id of the last run."""
    run_id = new_id()
    for number in range(0, len(texts), 2):
        question, answer = texts[number], texts[number + 1 : number + 2]
        run_id = new_id()
        exchange = {"conversation_id": conversation_id, "question": _contents(question)}
        await mongo.tenant("runs", ORG_ID).insert(
            {"_id": run_id, **exchange, "answer": [each for text in answer for each in _contents(text)]}
        )
    return run_id


def _contents(text: str) -> list[dict[str, str]]:
    return [{"kind": "thinking", "text": "hm"}, {"kind": "text", "text": text}]


def texts_of(history: History) -> list[str]:
    return [turn.text for turn in history.turns]


async def test_no_more_is_read_than_is_needed(mongo: Mongo, chat: ConversationStore, reads: Reads) -> None:
    texts = [f"{number:04d}" + "x" * 396 for number in range(300)]  # of 104 tokens each
    conversation_id = new_id()
    await talk(mongo, conversation_id, texts)
    history = History(chat, conversation_id)
    await history.load(1000)
    assert texts_of(history) == texts[-10:]
    assert reads.documents == 10
    await history.load(900)
    assert (reads.documents, len(history.turns)) == (10, 10)
    await history.load(2080)
    assert texts_of(history) == texts[-20:]
    await history.load(1_000_000)
    assert texts_of(history) == texts[-200:], "however large the context"
    commands = reads.commands
    await history.load(2_000_000)
    assert reads.commands == commands


async def test_a_short_conversation_is_read_once(mongo: Mongo, chat: ConversationStore, reads: Reads) -> None:
    conversation_id = new_id()
    await talk(mongo, conversation_id, ["one", "two", "three"])
    history = History(chat, conversation_id)
    await history.load(1000)
    await history.load(1_000_000)
    assert (texts_of(history), reads.commands) == (["one", "two", "three"], 1)


async def test_a_long_conversation_of_short_messages_is_read_in_few_commands(
    mongo: Mongo, chat: ConversationStore, reads: Reads
) -> None:
    texts = [str(number) for number in range(240)]
    conversation_id = new_id()
    await talk(mongo, conversation_id, texts)
    history = History(chat, conversation_id)
    await history.load()
    assert (texts_of(history), reads.commands) == (texts[-200:], 2)
    small = History(chat, conversation_id, size_bytes=2_000_000)
    await small.load()
    assert (texts_of(small), reads.commands) == (texts[-200:], 3)
    large = History(chat, conversation_id, size_bytes=3_000_000)
    await large.load()
    assert (texts_of(large), reads.commands) == (texts[-200:], 5)


async def test_history_until_a_run_has_its_question_and_nothing_later(mongo: Mongo, chat: ConversationStore) -> None:
    conversation_id = new_id()
    run_id = await talk(mongo, conversation_id, ["one", "two", "three"])
    await talk(mongo, new_id(), ["in another one"])
    await talk(mongo, conversation_id, ["four"])
    history = History(chat, conversation_id, until=run_id)
    await history.load()
    assert texts_of(history) == ["one", "two", "three"]


# Through the server


def told(standin: Standin) -> list[str]:
    """What the model read with the last request, the oldest first."""
    return [message["content"] for message in standin.received[-1].body["messages"]]


async def test_a_long_conversation_is_cut_to_the_context_of_the_model(place: Place, standin: Standin) -> None:
    change = workspace_pb2.Workspace(workspace_id=place.workspace_id, system_prompt="Be brief.")
    await place.owner.workspaces.UpdateWorkspace(workspace_pb2.UpdateWorkspaceRequest(workspace=change))
    standin.script("gpt-4o-mini", Script())
    said = [f"{number} " + "x" * 3998 for number in range(6)]  # of 1,004 tokens each
    for text in said:
        await say(place.owner, place.conversation_id, text, model=MINI)
    assert len(told(standin)) == 1 + 11
    parameters = pb.ModelParameters(max_output_tokens=3000)
    await say(place.owner, place.conversation_id, "And now?", model=SMALL, parameters=parameters)
    system, *before, last = told(standin)  # of 90 % of 8,192 tokens less 3,000
    assert (system, last) == ("Be brief.", "And now?")
    assert before == [each for text in said[2:] for each in (text, "Hello, world!")]


async def test_what_does_not_fit_is_refused_and_nowhere(place: Place, standin: Standin) -> None:
    sent, large = len(standin.received), "x" * 40_000
    assert await outcome(say(place.owner, place.conversation_id, large, model=SMALL)) == CONTEXT_TOO_LONG
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id)
    assert not (await place.owner.chat.ListMessages(request)).messages
    assert len(standin.received) == sent
    assert (await say(place.owner, place.conversation_id, large, model=MINI))[-1].HasField("run_completed")


async def test_the_reservation_is_for_what_is_sent(place: Place, stores: Stores, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script())
    for text in ("x" * 20_000, "y" * 20_000):
        await say(place.owner, place.conversation_id, text, model=MINI)
    parameters = pb.ModelParameters(max_output_tokens=1)
    await say(place.owner, place.conversation_id, "z", model=SMALL, parameters=parameters)
    query = "SELECT reserved_nanos FROM ledger_entries WHERE org_id = %s AND kind = 'reserve' ORDER BY id DESC LIMIT 1"
    ((reserved,),) = await sql(stores, query, place.org_id)
    # Of the two messages the later one fits, with its answer of 13 bytes and "z": their bytes as JSON and 32 each, an
    # empty system prompt, and 400 for the rest, at 30 USD a million; 1 token at 60.
    assert reserved == (20_002 + 15 + 3 + 2 + 4 * 32 + 400) * 30_000 + 60_000


async def test_a_run_whose_conversation_went_on_meanwhile_is_taken_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the model would not know what was said last."""
    load = History.load

    async def slow(history: History, *tokens: int) -> None:
        await load(history, *tokens)
        monkeypatch.setattr(History, "load", load)
        await say(place.owner, place.conversation_id, "in between")

    monkeypatch.setattr(History, "load", slow)
    assert await outcome(say(place.owner, place.conversation_id, "late")) == UNAVAILABLE
    request = pb.ListMessagesRequest(conversation_id=place.conversation_id)
    messages = (await place.owner.chat.ListMessages(request)).messages
    assert [message.contents[0].text for message in messages if message.role == pb.MESSAGE_ROLE_USER] == ["in between"]
    assert (await say(place.owner, place.conversation_id, "again"))[-1].HasField("run_completed")
