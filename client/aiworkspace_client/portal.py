"""An event loop on a thread of its own, on which the synchronous client runs the asynchronous one."""

import asyncio
import os
import signal
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from aiworkspace_client.errors import CallCancelledError

T = TypeVar("T")

# How long the client may take to close its connection at exit, in seconds.
_CLOSE_SECONDS = 4.0


class Portal:
    """Runs coroutines for threads that have no event loop.

    The thread starts with the first coroutine. It is a daemon that is stopped by close, when the portal is forgotten,
    or at exit: the interpreter never waits for it. A forked process has no such thread.
    """

    def __init__(self, at_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._at_close = at_close
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: weakref.finalize[..., Portal] | None = None
        self._pid = 0
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for the coroutine. An interrupt of the wait cancels it."""
        try:
            loop = self._running_loop()
        except RuntimeError:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except CancelledError:
            raise CallCancelledError("The client was closed during the call.") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the client and stop the thread. Closing again does nothing."""
        with self._lock:
            self._closed = True
        if self._stop is not None:
            self._stop()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise RuntimeError("The client is closed.")
            if self._pid not in (0, os.getpid()):
                raise RuntimeError("A client that was used before a fork cannot be used in the new process.")
            if self._loop is None:
                self._start()
            if self._thread is threading.current_thread():
                raise RuntimeError("A callback of the client cannot wait for a call of the same client.")
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_work, args=(loop,), name="aiworkspace-client", daemon=True)
        thread.start()
        self._loop, self._thread, self._pid = loop, thread, os.getpid()
        self._stop = weakref.finalize(self, _stop, loop, thread, self._at_close, self._pid)


def _work(loop: asyncio.AbstractEventLoop) -> None:
    # Signals go to the thread that waits for a call, which they wake; the threads of gRPC inherit this.
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
    # The garbage collector may come here in the loop's own thread, which cannot wait for itself.
    if thread is not threading.current_thread():
        thread.join(_CLOSE_SECONDS)


async def _finish(at_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close the client, then end whatever still runs in this loop."""
    async with asyncio.timeout(_CLOSE_SECONDS / 2):
        await at_close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
