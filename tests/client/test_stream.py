"""Streams of runs, and how they go on after a cut."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from aiworkspace.v1 import auth_pb2, chat_pb2, common_pb2
from aiworkspace.v1.chat_pb2 import ChatEvent
from aiworkspace_client import AsyncClient, StreamTiming, errors
from tests.client import runs
from tests.client.runs import (
    CONVERSATION_ID,
    QUOTED,
    RUN_ID,
    TEXT,
    WORDS,
    cited_run,
    connections,
    hang,
    heartbeat,
    reset,
    whole_run,
)
from tests.client.scripted import ScriptedServer, answer, failure

SEND, STREAM, REFRESH = "ChatService.SendMessage", "ChatService.StreamRun", "AuthService.Refresh"
NEW_TOKENS = auth_pb2.RefreshResponse(tokens=auth_pb2.TokenPair(access_token="access-2", refresh_token="refresh-2"))


hurried = pytest.mark.parametrize("timing", [StreamTiming(silence=0.2, connection=5, give_up=0.6)], ids=[""])


async def text_of(client: AsyncClient) -> list[str]:
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        return [text async for text in stream.text]


async def test_text_events_and_answer(server: ScriptedServer, client: AsyncClient) -> None:
    connections(server, *[(whole_run(), None)] * 3)
    assert await text_of(client) == WORDS
    async with client.chat.send(CONVERSATION_ID, "Count!", model="echo/echo") as stream:
        assert (stream.run_id, stream.last_sequence) == (RUN_ID, 0)
        kinds = [event.WhichOneof("event") async for event in stream]
        assert stream.last_sequence == 9
        assert stream.run is not None
        assert stream.run.state == chat_pb2.RUN_STATE_COMPLETED
        answer = await stream.final_message()
    assert kinds == ["run_started", "content_started", *["content_delta"] * 5, "content_stopped", "run_completed"]
    assert answer.contents[0].text == TEXT
    assert (await client.chat.send(CONVERSATION_ID, "Count!").final_message()).contents[0].text == TEXT
    assert server.calls[1].request.model == "echo/echo"
    assert server.calls[1].token == "access-1"


async def test_citations_are_known_while_they_come_and_at_the_end(server: ScriptedServer, client: AsyncClient) -> None:
    connections(server, (cited_run(), None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        counts = [len(stream.citations) async for _ in stream]
        assert counts == [0] * 8 + [1, 2, 2]
        message = await stream.final_message()
    assert list(message.citations) == stream.citations == [QUOTED, QUOTED]


async def test_thinking_is_no_text(server: ScriptedServer, client: AsyncClient) -> None:
    thinking = runs.piece(["Hm."], chat_pb2.CONTENT_KIND_THINKING)
    connections(server, (runs.number([runs.started(), *thinking, *runs.piece(WORDS), runs.completed()]), None))
    assert await text_of(client) == WORDS


async def test_heartbeats_and_unknown_events_are_hidden(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    unknown = runs.number([*run[:4], ChatEvent(), *run[4:]])
    connections(server, ([*unknown[:3], heartbeat(3), heartbeat(7), *unknown[3:]], None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        sequences = [event.sequence async for event in stream]
    assert sequences == [1, 2, 3, 4, 6, 7, 8, 9, 10]


async def test_the_model_that_speaks_is_known(server: ScriptedServer, client: AsyncClient) -> None:
    connections(server, (runs.two_models(), None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        spoken = [(stream.model, text) async for text in stream.text]
    assert spoken == [("a/one", word) for word in WORDS[:2]] + [("b/two", word) for word in WORDS[2:]]


@pytest.mark.parametrize("seen", range(1, 9))
@pytest.mark.parametrize("end", [None, reset], ids=["just ends", "reset"])
async def test_a_cut_stream_goes_on_after_every_event(
    server: ScriptedServer, client: AsyncClient, seen: int, end: runs.End | None
) -> None:
    run = whole_run()
    connections(server, (run[:seen], end), (run[seen:], None))
    assert await text_of(client) == WORDS
    assert [call.method for call in server.calls] == [SEND, STREAM]
    assert server.calls[1].request == chat_pb2.StreamRunRequest(run_id=RUN_ID, after_sequence=seen)


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED],
)
async def test_every_way_in_which_transports_break(
    server: ScriptedServer, client: AsyncClient, code: grpc.StatusCode
) -> None:
    run = whole_run()
    connections(server, (run[:4], failure(code)), (run[4:], None))
    assert await text_of(client) == WORDS


async def test_many_cuts_and_repeated_events(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    connections(server, (run[:3], reset), ([], reset), (run[1:5], None), ([], None), (run[:7], reset), (run[7:], None))
    assert await text_of(client) == WORDS
    assert [call.request.after_sequence for call in server.called(STREAM)] == [3, 3, 5, 5, 7]


async def test_a_stream_that_breaks_before_its_first_event_is_sent_again(
    server: ScriptedServer, client: AsyncClient
) -> None:
    connections(server, ([], reset), ([], None), (whole_run(), None))
    assert await text_of(client) == WORDS
    assert [call.method for call in server.calls] == [SEND] * 3
    assert len({call.request.request_id for call in server.calls}) == 1


async def test_events_that_were_left_out_are_asked_for(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    connections(server, ([*run[:3], *run[5:]], None), (run[3:], None))
    assert await text_of(client) == WORDS


async def test_the_terminal_event_counts_whatever_its_sequence(server: ScriptedServer, client: AsyncClient) -> None:
    """A server that died had sent more than it had stored."""
    run = whole_run()
    failed = ChatEvent(run_id=RUN_ID, sequence=4, run_failed=chat_pb2.RunFailed(run=runs.RUN))
    connections(server, (run[:6], reset), ([failed], None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        kinds = [event.WhichOneof("event") async for event in stream]
    assert kinds[-1] == "run_failed"
    assert stream.last_sequence == 6


@hurried
async def test_silence_is_a_cut(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    connections(server, (run[:4], hang), (run[4:], None))
    assert await text_of(client) == WORDS


@hurried
async def test_trying_ends(server: ScriptedServer, client: AsyncClient) -> None:
    connections(server, (whole_run()[:4], reset), *[([], reset)] * 200)
    start = time.monotonic()
    with pytest.raises(errors.UnavailableError):
        await text_of(client)
    assert 0.3 < time.monotonic() - start < 60


async def test_errors_of_the_server_are_raised_at_once(server: ScriptedServer, client: AsyncClient) -> None:
    busy = failure(grpc.StatusCode.ABORTED, "RUN_IN_PROGRESS")
    defect = failure(grpc.StatusCode.INTERNAL, "INTERNAL")
    connections(server, ([], busy), (whole_run()[:3], defect))
    with pytest.raises(errors.AbortedError):
        await text_of(client)
    with pytest.raises(errors.InternalError):
        await text_of(client)
    assert len(server.calls) == 2


async def test_a_rate_limit_is_waited_for_when_a_run_is_at_stake(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    limited = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after=0.1)
    connections(server, ([], limited), (run[:4], reset), ([], limited), (run[4:], None))
    with pytest.raises(errors.ResourceExhaustedError):
        await text_of(client)
    assert await text_of(client) == WORDS


async def test_tokens_that_end_during_a_run_are_exchanged(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    refused = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    connections(server, (run[:4], refused), (run[4:], None))
    server.script(REFRESH, answer(NEW_TOKENS))
    assert await text_of(client) == WORDS
    assert [call.token for call in (*server.called(SEND), *server.called(STREAM))] == ["access-1", "access-2"]


async def test_credentials_that_stay_refused(server: ScriptedServer, client: AsyncClient) -> None:
    refused = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")
    connections(server, *[([], refused)] * 5)
    server.script(REFRESH, answer(NEW_TOKENS))
    with pytest.raises(errors.UnauthenticatedError):
        await text_of(client)
    assert len(server.called(SEND)) == 2


async def test_leaving_early_only_detaches(server: ScriptedServer, client: AsyncClient) -> None:
    left = asyncio.Event()

    async def until_left(context: object) -> None:
        try:
            await asyncio.sleep(300)
        finally:
            left.set()

    run = whole_run()
    connections(server, (run[:4], until_left), (run[4:], None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        async for text in stream.text:
            if text == WORDS[1]:
                break
    await asyncio.wait_for(left.wait(), 60)
    assert server.called("ChatService.CancelRun") == []
    assert (await stream.final_message()).contents[0].text == TEXT


async def test_stream_run_goes_on_after_a_sequence(server: ScriptedServer, client: AsyncClient) -> None:
    runs.replay(server, whole_run())
    async with client.chat.stream_run(RUN_ID, after_sequence=5) as stream:
        assert (stream.run_id, stream.last_sequence) == (RUN_ID, 5)
        assert [text async for text in stream.text] == WORDS[3:]
    async with client.chat.stream_run(RUN_ID, after_sequence=99) as stream:
        assert [event.sequence async for event in stream] == [9]


async def test_a_failed_run_raises(server: ScriptedServer, client: AsyncClient) -> None:
    failure = chat_pb2.RunFailure(reason=common_pb2.ERROR_REASON_PROVIDER_STREAM_CUT, message="It broke off.")
    run = chat_pb2.Run(run_id=RUN_ID, failure=failure)
    partial = runs.message("One two ", chat_pb2.MESSAGE_STATE_PARTIAL)
    failed = ChatEvent(run_failed=chat_pb2.RunFailed(run=run, message=partial))
    events = runs.number([*whole_run()[:4], failed])
    connections(server, (events, None), (events, None))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        with pytest.raises(errors.RunFailedError, match="It broke off") as raised:
            await stream.final_message()
    assert (raised.value.reason, raised.value.run) == ("PROVIDER_STREAM_CUT", run)
    assert raised.value.partial_message == partial
    with pytest.raises(errors.RunFailedError):
        await text_of(client)


async def test_a_cancelled_run_gives_its_partial_answer(server: ScriptedServer, client: AsyncClient) -> None:
    partial = runs.message("One ", chat_pb2.MESSAGE_STATE_PARTIAL)
    cancelled = ChatEvent(run_cancelled=chat_pb2.RunCancelled(run=runs.RUN, message=partial))
    connections(server, (runs.number([*whole_run()[:3], cancelled]), None))
    server.script("ChatService.CancelRun", answer(chat_pb2.CancelRunResponse(run=runs.RUN)))
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        assert (await stream.cancel()).run_id == RUN_ID
        assert [text async for text in stream.text] == ["One "]
        assert await stream.final_message() == partial
    assert server.called("ChatService.CancelRun")[0].request.run_id == RUN_ID


async def test_a_read_that_was_cancelled_loses_nothing(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    connections(server, (run[:4], hang), (run[4:], None))
    texts: list[str] = []
    async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
        while (event := await patiently(stream.next_delta)) is not None:
            texts += [event.content_delta.text] if event.sequence else []
    assert texts == WORDS


async def patiently(read: Callable[[], Awaitable[ChatEvent | None]]) -> ChatEvent | None:
    try:
        return await asyncio.wait_for(read(), 0.2)
    except TimeoutError:
        return ChatEvent()


@hurried
async def test_a_deadline_ends_the_stream_and_not_the_run(server: ScriptedServer, client: AsyncClient) -> None:
    connections(server, (whole_run()[:4], hang), *[([], hang)] * 9)
    start = time.monotonic()
    with pytest.raises(errors.DeadlineExceededError):
        await client.chat.send(CONVERSATION_ID, "Count!", timeout=0.5).final_message()
    assert 0.4 < time.monotonic() - start < 60
    assert server.called("ChatService.CancelRun") == []


async def test_closing_the_client_ends_its_streams(server: ScriptedServer) -> None:
    connections(server, (whole_run()[:4], hang))
    client = AsyncClient(server.target)

    async def read() -> None:
        async with client.chat.send(CONVERSATION_ID, "Count!") as stream:
            await stream.final_message()

    reading = asyncio.create_task(read())
    await server.until_called(SEND)
    await asyncio.sleep(0.1)
    await client.close()
    with pytest.raises(errors.CallCancelledError):
        await asyncio.wait_for(reading, 60)


async def test_a_server_that_restarts_is_found_again(server: ScriptedServer, client: AsyncClient) -> None:
    run = whole_run()
    connections(server, (run[:5], hang), (run[5:], None))
    reading = asyncio.create_task(text_of(client))
    await server.until_called(SEND)
    await asyncio.sleep(0.1)
    await server.restart()
    assert await asyncio.wait_for(reading, 60) == WORDS
