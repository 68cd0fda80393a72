"""The client without asyncio: threads, interrupts, forks, the end of the interpreter."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from aiworkspace.v1 import auth_pb2, chat_pb2
from aiworkspace_client import Client, NotFoundError, Tokens, TokenStore
from tests.client import runs
from tests.client.runs import CONVERSATION_ID, RUN_ID, TEXT, WORDS, connections, hang, whole_run
from tests.client.scripted import ScriptedServer, answer, answers, failure

ME = auth_pb2.GetMeResponse(user=auth_pb2.User(email="ada@example.com"))


def email(client: Client) -> str:
    return client.auth.get_me().email


async def in_thread(server: ScriptedServer, work: Callable[[Client], object]) -> object:
    def run() -> object:
        with Client(server.target, access_token="access-1") as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_calls_and_errors(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))
    server.script("OrgService.GetOrg", answers(failure(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")))
    assert await in_thread(server, email) == "ada@example.com"
    with pytest.raises(NotFoundError):
        await in_thread(server, lambda client: client.orgs.get(RUN_ID))


async def test_streams(server: ScriptedServer) -> None:
    connections(server, (whole_run()[:5], None), (whole_run()[5:], None), (whole_run(), None))

    def work(client: Client) -> None:
        with client.chat.send(CONVERSATION_ID, "Count!") as stream:
            assert stream.run_id == RUN_ID
            assert list(stream.text) == WORDS
            assert stream.final_message().contents[0].text == TEXT
            assert stream.last_sequence == 9
            assert stream.run is not None
        with client.chat.send(CONVERSATION_ID, "Count!") as stream:
            assert [event.sequence for event in stream] == list(range(1, 10))

    await in_thread(server, work)


async def test_many_threads_share_a_client(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))

    def work(client: Client) -> set[str]:
        with ThreadPoolExecutor(16) as pool:
            return set(pool.map(lambda _: email(client), range(200)))

    assert await in_thread(server, work) == {"ada@example.com"}
    assert len(server.calls) == 200


async def test_clients_side_by_side(server: ScriptedServer, capfd: pytest.CaptureFixture[str]) -> None:
    """gRPC wakes every event loop of the process for every event; it must not complain about it."""
    server.script("AuthService.GetMe", answer(ME))
    await asyncio.gather(*(in_thread(server, lambda client: [email(client) for _ in range(30)]) for _ in range(6)))
    assert "Error" not in capfd.readouterr().err


@pytest.mark.parametrize("thread", ["main_thread", "current_thread"])
async def test_an_interrupt_ends_the_wait_and_leaves_the_stream_usable(server: ScriptedServer, thread: str) -> None:
    """As Ctrl-C does on the command line, even when the signal does not wake the thread that waits."""
    run = whole_run()
    partial = runs.message("One two ", chat_pb2.MESSAGE_STATE_PARTIAL)
    cancelled = chat_pb2.ChatEvent(
        run_id=RUN_ID, sequence=5, run_cancelled=chat_pb2.RunCancelled(run=runs.RUN, message=partial)
    )
    connections(server, (run[:4], hang), ([cancelled], None))
    server.script("ChatService.CancelRun", answer(chat_pb2.CancelRunResponse(run=runs.RUN)))
    code = f"""
        import signal, threading
        from aiworkspace_client import Client

        signal.signal(signal.SIGINT, signal.default_int_handler)  # not there in the background

        def interrupt():
            signal.pthread_kill(threading.{thread}().ident, signal.SIGINT)

        with Client("{server.target}") as client:
            with client.chat.send("{CONVERSATION_ID}", "Count!") as stream:
                try:
                    for text in stream.text:
                        print(text)
                        if text == "two ":
                            threading.Timer(0.2, interrupt).start()
                except KeyboardInterrupt:
                    stream.cancel()
                print(list(stream.text), stream.final_message().contents[0].text)
    """
    assert (await script(code)).splitlines() == ["One ", "two ", "[] One two "]


async def test_interrupts_at_any_time_lose_nothing_of_a_stream(server: ScriptedServer) -> None:
    words = [f"{number} " for number in range(100)]
    events = runs.number([runs.started(), *runs.piece(words), runs.completed()])
    runs.replay(server, events, pause=0.001)
    code = f"""
        import os, random, signal, threading, time
        from aiworkspace_client import Client

        armed = False

        def interrupt(*_):
            global armed
            if armed:
                armed = False
                raise KeyboardInterrupt

        def strike():
            for _ in range(50):
                time.sleep(random.random() / 50)
                os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, interrupt)
        with Client("{server.target}") as client:
            with client.chat.stream_run("{RUN_ID}") as stream:
                threading.Thread(target=strike, daemon=True).start()
                texts, ended = [], False
                while not ended:
                    try:
                        armed = True
                        for text in stream.text:
                            texts.append(text)
                        ended, armed = True, False
                    except KeyboardInterrupt:
                        pass
                print("".join(texts), end="")
    """
    assert await script(code) == "".join(words)


async def test_clients_survive_a_fork_that_happens_before_their_first_call(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))
    code = f"""
        import os
        from aiworkspace_client import Client

        client = Client("{server.target}")
        child = os.fork()
        line = ("child " if child == 0 else "parent ") + client.auth.get_me().email + os.linesep
        os.write(1, line.encode())  # in one piece: both write to the same pipe
        if child:
            print("exit", os.waitpid(child, 0)[1])
    """
    assert sorted((await script(code)).splitlines()) == ["child ada@example.com", "exit 0", "parent ada@example.com"]


async def test_after_a_fork_with_a_connection_calls_are_refused_rather_than_stuck(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))
    code = f"""
        import os
        from aiworkspace_client import Client

        client = Client("{server.target}")
        client.auth.get_me()
        child = os.fork()
        if not child:
            for each in (client, Client("{server.target}")):
                try:
                    each.auth.get_me()
                except RuntimeError as error:
                    print("fork" in str(error), flush=True)
        else:
            print("exit", os.waitpid(child, 0)[1], client.auth.get_me().email)
    """
    lines = (await script(code, quiet=False)).splitlines()
    assert sorted(lines) == ["True", "True", "exit 0 ada@example.com"]


@pytest.mark.parametrize("end", ["", "raise SystemExit", "stream.__enter__()", "client.close()", "del client"])
async def test_the_interpreter_ends_at_once(server: ScriptedServer, end: str) -> None:
    server.script("AuthService.GetMe", answer(ME))
    connections(server, (whole_run()[:4], hang))
    code = f"""
        from aiworkspace_client import Client
        client = Client("{server.target}")
        print(client.auth.get_me().email, flush=True)
        stream = client.chat.send("{CONVERSATION_ID}", "Count!")
        {end}
    """
    start = time.monotonic()
    assert await script(code) == "ada@example.com\n"
    assert time.monotonic() - start < 30, "the connection would last longer"


async def test_an_async_client_moves_to_the_next_event_loop_and_not_between_two(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))
    code = f"""
        import asyncio
        from aiworkspace_client import AsyncClient

        client = AsyncClient("{server.target}")

        async def me():
            return (await client.auth.get_me()).email

        async def elsewhere():
            await me()
            try:
                await asyncio.to_thread(asyncio.run, me())
            except RuntimeError as error:
                return "one event loop" in str(error)

        print(asyncio.run(me()), asyncio.run(me()), asyncio.run(elsewhere()))
    """
    assert await script(code) == "ada@example.com ada@example.com True\n"


async def script(code: str, *, quiet: bool = True) -> str:
    """What a program prints; it must end well and, if it is to be quiet, say nothing on stderr."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    # The server's package, which the tests import, turns gRPC's support of forks off. Users of the client have it.
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=240, env=environment)
    assert run.returncode == 0, run.stderr
    assert not (quiet and run.stderr)
    return run.stdout


async def test_a_closed_client_says_so(server: ScriptedServer) -> None:
    client = Client(server.target)
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.auth.get_me()


async def test_a_client_that_is_forgotten_leaves_no_thread(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(ME))

    def work() -> list[str]:
        email(Client(server.target))
        gc.collect()
        return [thread.name for thread in threading.enumerate()]

    assert "aiworkspace-client" not in await asyncio.to_thread(work)


async def test_a_callback_cannot_wait_for_its_own_client(server: ScriptedServer) -> None:
    server.script("AuthService.Login", answer(auth_pb2.LoginResponse(tokens=auth_pb2.TokenPair(access_token="a"))))

    class Store(TokenStore):
        def save(self, tokens: Tokens | None) -> None:
            with pytest.raises(RuntimeError, match="callback"):
                client.auth.get_me()

    client = Client(server.target, token_store=Store())
    await asyncio.to_thread(lambda: client.auth.login(email="a@example.com", password="secret"))
    client.close()
