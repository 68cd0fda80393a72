"""Takes from this process everything that a parser does not need: memory, time, files, processes, sockets.

Limits hold on every POSIX system. On Linux a seccomp filter lets through only the system calls of a process that
computes, reads what is open, and allocates memory. An audit hook refuses the same things in Python, also where there is
no seccomp.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from typing import Any

from .limits import Limits

# Numbers of system calls on x86_64 and aarch64; -1 where it has none.
_COMPUTE = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "brk": (12, 214), "mremap": (25, 216), "madvise": (28, 233), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "futex": (202, 98),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "exit": (60, 93), "exit_group": (231, 94),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "times": (100, 153), "getrandom": (318, 278), "getrusage": (98, 165),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "uname": (63, 160),
    "rseq": (334, 293), "restart_syscall": (219, 128), "membarrier": (324, 283), "sysinfo": (99, 179),
}  # fmt: skip
_IMPORT = {
    "open": (2, -1), "openat": (257, 56), "stat": (4, -1), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "readlink": (89, -1), "readlinkat": (267, 78), "getdents64": (217, 61), "access": (21, -1),
    "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17), "fcntl": (72, 25), "ioctl": (16, 29),
    "prctl": (157, 167), "seccomp": (317, 277),
}  # fmt: skip
_SEND_SIGNAL = (234, 131)  # tgkill
_NETWORK = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "io_uring_setup": (425, 425),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
_REFUSED_EVENTS = ("socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.")
_REFUSED_LATER = ("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "ctypes.dlopen")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 38, 22, 2  # of prctl
_PARENT_DEATH_SIGNAL = 1  # of prctl
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_IF_EQUAL, _IF_AT_LEAST = 0x15, 0x35
_X32 = 0x40000000  # bit of the numbers by which x86_64 offers the same system calls for 32-bit pointers


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Sandbox:
    """Two steps, because modules have to be read before the file is parsed: `enter`, import, `close_files`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._files_closed = False

    def enter(self) -> None:
        """Apply the limits; refuse sockets, processes, and opening a file for writing."""
        _limit(self._limits)
        sys.addaudithook(self._audit)
        if sys.platform == "linux":
            _prctl(_NO_NEW_PRIVILEGES, 1)
            _install_filter(_COMPUTE | _IMPORT)

    def close_files(self) -> None:
        """Refuse to open any file from now on."""
        if sys.platform == "linux":
            _install_filter(_COMPUTE)
        self._files_closed = True

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        refused = event.startswith(_REFUSED_EVENTS) or (self._files_closed and event in _REFUSED_LATER)
        if refused or (event == "open" and arguments[2] & _WRITING):
            raise PermissionError(errno.EPERM, f"{event} is refused while a file is parsed")


def forbid_network() -> None:
    """Refuse sockets, and the tracing of other processes, in this process and in all that it starts."""
    if sys.platform == "linux":
        _prctl(_NO_NEW_PRIVILEGES, 1)
        _install_filter(_NETWORK, refuse=True)


def die_with_parent(parent_id: int) -> None:
    """Have the kernel kill this process when its parent ends. Exits if it already has."""
    if sys.platform == "linux":
        _prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent_id:
        os._exit(1)


def _limit(limits: Limits) -> None:
    seconds = max(1, round(limits.seconds))
    for name, soft, hard in (
        ("RLIMIT_AS", limits.memory_bytes, limits.memory_bytes),
        ("RLIMIT_CPU", seconds, seconds + 1),  # the soft one sends SIGXCPU, which says what happened
        ("RLIMIT_FSIZE", 0, 0),
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_NOFILE", 64, 64),
        ("RLIMIT_NPROC", 0, 0),
    ):
        # Not every system knows each limit, and some refuse RLIMIT_AS.
        if (which := getattr(resource, name, None)) is not None:
            _try_limit(which, soft, hard)


def _try_limit(which: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(which, (soft, hard))
    except (OSError, ValueError):
        if sys.platform == "linux":
            raise


def _prctl(option: int, value: int, pointer: Any = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _install_filter(calls: dict[str, tuple[int, int]], *, refuse: bool = False) -> None:
    """Allow these system calls alone, or refuse these alone."""
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        return  # the audit hook and the limits remain
    column, architecture = _ARCHITECTURES[machine]
    listed = sorted({numbers[column] for numbers in calls.values()} - {-1})
    program = [
        _statement(0x20, 4),  # load the architecture
        _jump(architecture, 1, 0),
        _statement(0x06, _KILL),  # another architecture has other numbers
        _statement(0x20, 0),  # load the number of the system call
        *(_refused_numbers(_X32) if machine == "x86_64" else []),
        *([] if refuse else _own_signals(_SEND_SIGNAL[column])),
        *(_jump(number, len(listed) - at, 0) for at, number in enumerate(listed)),
        _statement(0x06, _ALLOW if refuse else _REFUSE),
        _statement(0x06, _REFUSE if refuse else _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    _prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(_Program(len(program), ctypes.addressof(code))))


def _refused_numbers(least: int) -> list[bytes]:
    """Refuse all system calls from this number on."""
    return [_jump(least, 0, 1, _IF_AT_LEAST), _statement(0x06, _REFUSE)]


def _own_signals(number: int) -> list[bytes]:
    """Allow a process to send signals to itself alone: abort() does it, by which libraries end without memory."""
    return [
        _jump(number, 0, 4),
        _statement(0x20, 16),  # load the first argument
        _jump(os.getpid(), 1, 0),
        _statement(0x06, _REFUSE),
        _statement(0x06, _ALLOW),
    ]


def _statement(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(value: int, if_true: int, otherwise: int, comparison: int = _IF_EQUAL) -> bytes:
    return struct.pack("=HBBI", comparison, if_true, otherwise, value)
