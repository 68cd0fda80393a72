"""What a process that parses cannot do, tried with system calls that no hook of Python sees."""

import subprocess
import sys

import pytest

ENTER = """
import ctypes, os, socket, threading
from aiworkspace_server.parsing.limits import Limits
from aiworkspace_server.parsing.sandbox import Sandbox
libc = ctypes.CDLL(None, use_errno=True)
sandbox = Sandbox(Limits())
sandbox.enter()
sandbox.close_files()
"""
ATTEMPTS = {
    "socket": "libc.socket(2, 1, 0)",
    "connect": "libc.connect(0, None, 0)",
    "open": 'libc.open(b"/etc/passwd", 0)',
    "environment of the parent": 'libc.open(b"/proc/%d/environ" % os.getppid(), 0)',
    "write a file": 'libc.open(b"/tmp/written", os.O_WRONLY | os.O_CREAT, 0o600)',
    "fork": "libc.fork()",
    "execute": 'libc.execl(b"/bin/true", b"true", None)',
    "kill": "libc.kill(os.getppid(), 0)",
    "trace": "libc.ptrace(16, os.getppid(), None, None)",
    "raise a limit": "libc.setrlimit(9, ctypes.byref((ctypes.c_ulong * 2)(1 << 40, 1 << 40)))",
    "delete": 'libc.unlink(b"/tmp/nothing")',
    "thread": "(threading.Thread(target=print).start(), 0)[1]",
}


def attempt(code: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-c", ENTER + code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is a part of Linux")
@pytest.mark.parametrize("name", ATTEMPTS)
def test_system_call_is_refused(name: str) -> None:
    code = f"""
try:
    result = {ATTEMPTS[name]}
    print("refused" if result < 0 and ctypes.get_errno() == 1 else f"allowed {{result}}")
except RuntimeError:
    print("refused")
"""
    assert attempt(code) == "refused"


@pytest.mark.parametrize(
    "call",
    ["socket.socket()", "open('/etc/passwd')", "os.fork()", "os.system('true')", "os.listdir('/')"],
)
def test_python_is_refused_too(call: str) -> None:
    assert "PermissionError" in attempt(call)


def test_memory_is_bounded() -> None:
    assert "MemoryError" in attempt("bytearray(600 << 20)")
