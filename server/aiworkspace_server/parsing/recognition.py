"""Reads pictures of text with tesseract, which the sandboxed parser may not start itself.

A helper is forked before the sandbox is entered. It takes pictures from a pipe and runs tesseract on each. Neither has
the network, and both end with the child: they are in its process group, and the kernel kills them if it is gone.
"""

import os
import resource
import struct
import subprocess
import time
from collections.abc import Callable
from functools import partial

from .limits import Limits
from .sandbox import die_with_parent, forbid_network

_LENGTH = struct.Struct(">I")
_SHARE_OF_TIME = 0.6  # of the limit, after which pages are left unread: the text of the others is worth having
_SHARE_OF_PAGE = 0.3  # of the limit, after which one page is given up; both together leave some time
_MOST_OF_TEXT = 1 << 20  # bytes of one page


def start_recognizer(tesseract: str, limits: Limits) -> Callable[[bytes], str]:
    """Start the helper. Return a function that returns the text in a picture, "" if there is none in time."""
    requests, replies, parent_id = os.pipe(), os.pipe(), os.getpid()
    if os.fork() == 0:
        try:
            die_with_parent(parent_id)
            os.close(requests[1])
            os.close(replies[0])
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # the parent waits until nobody has this end of its pipe
            _serve(tesseract, limits, requests[0], replies[1])
        finally:
            os._exit(0)
    os.close(requests[0])
    os.close(replies[1])
    deadline = time.monotonic() + limits.seconds * _SHARE_OF_TIME

    def recognize(picture: bytes) -> str:
        if time.monotonic() > deadline:
            return ""
        try:
            _write(requests[1], picture)
        except BrokenPipeError:  # the helper has ended
            return ""
        return _read(replies[0]).decode(errors="replace")

    return recognize


def _serve(tesseract: str, limits: Limits, requests: int, replies: int) -> None:
    seconds = round(limits.seconds) + 1
    for which, most in (
        (resource.RLIMIT_AS, 2 * limits.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (most, most))
    forbid_network()
    while picture := _read(requests):
        _write(replies, _recognized(tesseract, picture, limits.seconds * _SHARE_OF_PAGE))


def _recognized(tesseract: str, picture: bytes, seconds: float) -> bytes:
    """Return the text in a picture, b"" if tesseract cannot be started, fails, or takes too long."""
    try:
        done = subprocess.run(
            [tesseract, "stdin", "stdout"],
            input=picture,
            capture_output=True,
            env={"LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"},
            check=False,
            timeout=seconds,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    except (OSError, subprocess.SubprocessError):
        return b""
    return done.stdout[:_MOST_OF_TEXT] if done.returncode == 0 else b""


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read(descriptor: int) -> bytes:
    """Return what one call of _write wrote, b"" once the other end is closed."""
    head = _exactly(descriptor, _LENGTH.size)
    return _exactly(descriptor, _LENGTH.unpack(head)[0]) if head else b""


def _exactly(descriptor: int, size: int) -> bytes:
    pieces = []
    while size and (piece := os.read(descriptor, min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"" if size else b"".join(pieces)
