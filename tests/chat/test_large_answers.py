"""Answers larger than what plain gRPC clients take in one message, which is 4 MiB."""

from typing import Any, cast
from uuid import uuid4

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1.chat_pb2_grpc import ChatServiceStub
from aiworkspace_client import AsyncClient
from aiworkspace_client.errors import RunFailedError
from aiworkspace_client.messages import WholeMessages
from aiworkspace_server.app import App
from aiworkspace_server.conversations import proto as parts
from aiworkspace_server.conversations.models import Content, Message
from aiworkspace_server.kit.timestamps import now
from tests.standin import Cut, Script, Standin
from tests.support.people import PASSWORD, Place
from tests.support.runs import OPENAI, events_of, play

PIECE = "wörd " * 10_000  # 60,000 bytes
TEXT = PIECE * 90  # 5.4 MB


def plain(place: Place, app: App) -> Any:
    """Chat over a connection without options."""
    channel = grpc.aio.insecure_channel(app.address, interceptors=place.owner.bearer.interceptors())
    return ChatServiceStub(channel)


async def all_pages(chat: Any, conversation_id: str, **fields: Any) -> list[list[pb.Message]]:
    pages, token = [], ""
    while True:
        request = pb.ListMessagesRequest(conversation_id=conversation_id, page_token=token, **fields)
        page = await chat.ListMessages(request)
        pages.append(list(page.messages))
        token = page.next_page_token
        if not token:
            return pages


def whole(pages: list[list[pb.Message]]) -> list[pb.Message]:
    joiner = WholeMessages()
    joined = [joiner.take(message) for page in pages for message in page]
    return [message for message in joined if message]


@pytest.mark.parametrize("together", [False, True], ids=["in pieces", "in one piece"])
async def test_plain_clients_can_follow_and_read_an_answer_above_4_mib(
    place: Place, app: App, standin: Standin, together: bool
) -> None:
    model = play(standin, OPENAI, Script(tokens=(PIECE,) * 90, piece_bytes=8_000_000 if together else None))
    chat = plain(place, app)
    request = pb.SendMessageRequest(conversation_id=place.conversation_id, content="Much!", model=model)
    events = await events_of(chat.SendMessage(request))
    ended = events[-1].run_completed
    assert "".join(event.content_delta.text for event in events) == TEXT
    assert (ended.message.more_contents, ended.message.state) == (True, pb.MESSAGE_STATE_COMPLETE)
    assert TEXT.startswith(ended.message.contents[0].text)
    assert len(ended.message.contents[0].text) > len(TEXT) / 3
    again = await events_of(chat.StreamRun(pb.StreamRunRequest(run_id=ended.run.run_id, after_sequence=10_000)))
    assert again == [events[-1]]
    pages = await all_pages(chat, place.conversation_id)
    assert [[message.message_id for message in page] for page in pages] == [
        [ended.run.user_message_id],
        [ended.message.message_id],
        [ended.message.message_id],
    ]
    asked, answered = whole(pages)
    assert (asked.contents[0].text, answered.contents[0].text) == ("Much!", TEXT)
    assert (len(answered.contents), answered.more_contents) == (1, False)
    alone = await all_pages(chat, place.conversation_id, message_id=ended.message.message_id)
    assert whole(alone) == [answered]
    assert await all_pages(chat, place.conversation_id, message_id=str(uuid4())) == [[]]
    follow_up = pb.SendMessageRequest(conversation_id=place.conversation_id, content="And now?", model="echo/echo")
    assert (await events_of(chat.SendMessage(follow_up)))[-1].HasField("run_completed")
    assert [m.role for m in whole(await all_pages(chat, place.conversation_id))] == [1, 2, 1, 2]


async def test_the_sdk_returns_the_whole_of_a_large_answer(place: Place, app: App, standin: Standin) -> None:
    async with AsyncClient(app.address) as client:
        await client.auth.login(email=place.owner.email, password=PASSWORD)
        model = play(standin, OPENAI, Script(tokens=(PIECE,) * 90))
        message = await client.chat.send(place.conversation_id, "Much!", model=model).final_message()
        assert (message.contents[0].text == TEXT, message.more_contents) == (True, False)
        play(standin, OPENAI, Script(tokens=(PIECE,) * 90, fault=Cut(80)))
        with pytest.raises(RunFailedError) as caught:
            await client.chat.send(place.conversation_id, "Again!", model=model).final_message()
        assert caught.value.partial_message.contents[0].text == PIECE * 80
        sizes = [len(m.contents[0].text) async for m in client.chat.list_messages(place.conversation_id)]
        assert sizes == [5, len(TEXT), 6, len(PIECE) * 80]


def stored(contents: list[tuple[Any, str]]) -> Message:
    return Message(
        message_id=uuid4(),
        conversation_id=uuid4(),
        run_id=uuid4(),
        role="assistant",
        contents=[Content(kind=kind, text=text) for kind, text in contents],
        partial=False,
        model="echo/echo",
        citations=(),
        omissions=(),
        create_time=now(),
    )


@given(
    st.lists(st.tuples(st.sampled_from(["text", "thinking"]), st.text("aé😀", min_size=1, max_size=40)), max_size=6),
    st.integers(24, 120),
)
def test_parts_are_small_and_together_the_whole(contents: list[tuple[Any, str]], size: int) -> None:
    message, begin, joiner = stored(contents), 0, WholeMessages()
    for _ in range(1000):
        part, begin = parts.part(message, begin, size)
        assert sum(16 + len(content.text.encode()) for content in part.contents) <= size
        assert part.more_contents == (begin > 0)
        if found := joiner.take(part):
            break
    assert found
    kinds = {1: "text", 2: "thinking"}
    assert [(kinds[cast(int, content.kind)], content.text) for content in found.contents] == contents
    assert not any(content.continues for content in found.contents)
