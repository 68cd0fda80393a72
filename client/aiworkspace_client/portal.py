"""An event loop on its own thread, on which the synchronous client runs the asynchronous one."""

import asyncio
import os
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from aiworkspace_client.errors import CallCancelledError

T = TypeVar("T")

# How long the client may take to close its connection at exit, in seconds.
_CLOSE_SECONDS = 4.0
# The longest single wait, in seconds; longer waits are repeated. Python can miss a signal that arrives just as a wait
# begins, and Ctrl-C would then do nothing until that wait ends.
_WAIT_SECONDS = 0.25


class Portal:
    """Runs coroutines for threads that have no event loop.

    The thread starts with the first coroutine. It is a daemon thread, and stops on close, when the portal is garbage
    collected, or at exit: the interpreter never waits for it. A forked process has no such thread.
    """

    def __init__(self, at_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._at_close = at_close
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: weakref.finalize[..., Portal] | None = None
        self._pid = 0
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T], unread: Callable[[T], None] | None = None) -> T:
        """Run the coroutine and wait for it. An interrupt cancels it, or passes its result to `unread`."""
        try:
            loop = self._running_loop()
        except BaseException:
            coroutine.close()
            raise
        call = _Call(loop, coroutine)
        try:
            return call.wait()
        except BaseException:
            call.give_up(unread)
            raise

    def close(self) -> None:
        """Close the client and stop the thread. Closing again does nothing."""
        with self._lock:
            self._closed = True
        if self._stop is not None:
            self._stop()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise RuntimeError("The client is closed.")
        if self._pid not in (0, os.getpid()):
            raise RuntimeError("A client that was used before a fork cannot be used in the new process.")
        if self._thread is threading.current_thread():
            raise RuntimeError("A callback of the client cannot wait for a call of the same client.")
        return self._loop or self._start()

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is not None:
                return self._loop
            if self._closed:
                raise RuntimeError("The client is closed.")
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_work, args=(loop,), name="aiworkspace-client", daemon=True)
            try:
                thread.start()
            except BaseException:  # the next call starts another one
                loop.call_soon_threadsafe(loop.stop)
                raise
            self._stop = weakref.finalize(self, _stop, loop, thread, self._at_close, os.getpid())
            self._thread, self._pid, self._loop = thread, os.getpid(), loop
            return loop


class _Call(Generic[T]):
    """A coroutine that another thread waits for.

    The wait can be interrupted between any two steps. So it takes no lock that the loop's thread might wait for, as
    futures do, and give_up ends in the loop's thread whatever was started.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._ended: SimpleQueue[asyncio.Task[T]] = SimpleQueue()

    def wait(self) -> T:
        self._loop.call_soon_threadsafe(self._begin)
        while not self._loop.is_closed():
            with suppress(Empty):
                return _result(self._ended.get(timeout=_WAIT_SECONDS))
        raise _closed()

    def give_up(self, unread: Callable[[T], None] | None) -> None:
        """End the coroutine. If it has returned already, `unread` gets the result; an exception is dropped."""
        try:
            self._loop.call_soon_threadsafe(self._end, unread)
        except RuntimeError:  # the loop is closed
            self._coroutine.close()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended.put)

    def _end(self, unread: Callable[[T], None] | None) -> None:
        if self._task is None:
            self._coroutine.close()
            return
        self._task.cancel()
        if unread is not None:
            self._task.add_done_callback(lambda task: _give(task, unread))


def _give(task: asyncio.Task[T], unread: Callable[[T], None]) -> None:
    if not task.cancelled() and task.exception() is None:
        unread(task.result())


def _result(task: asyncio.Task[T]) -> T:
    try:
        return task.result()
    except asyncio.CancelledError:
        raise _closed() from None
    finally:
        del task  # which has the exception, which has this frame


def _closed() -> CallCancelledError:
    return CallCancelledError("The client was closed during the call.")


def _work(loop: asyncio.AbstractEventLoop) -> None:
    # Block signals here, so that they wake the thread that waits for a call. gRPC's threads inherit this.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _stop(
    loop: asyncio.AbstractEventLoop,
    thread: threading.Thread,
    at_close: Callable[[], Coroutine[Any, Any, None]],
    pid: int,
) -> None:
    if pid != os.getpid() or loop.is_closed():
        return
    closing = asyncio.run_coroutine_threadsafe(_finish(at_close), loop)
    closing.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
    # The garbage collector may call this in the loop's own thread, which cannot wait for itself.
    if thread is not threading.current_thread():
        thread.join(_CLOSE_SECONDS)


async def _finish(at_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close the client, then end all tasks of this loop."""
    async with asyncio.timeout(_CLOSE_SECONDS / 2):
        await at_close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
