"""What a process that parses cannot do, tried with system calls that no hook of Python sees."""

import platform
import signal
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


HELPER = """
import ctypes, mmap
from aiworkspace_server.parsing.sandbox import forbid_network
libc = ctypes.CDLL(None, use_errno=True)
forbid_network()
"""
# getpid of 32-bit Linux: mov eax, 20; int 0x80; ret
FOREIGN_CALL = """
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print("allowed", ctypes.CFUNCTYPE(ctypes.c_int)(address)())
"""
X32 = 0x40000000


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)


def attempt(code: str) -> str:
    done = run(ENTER + code)
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


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is a part of Linux")
@pytest.mark.parametrize("call", ["libc.socket(2, 1, 0)", "libc.ptrace(16, 1, None, None)"])
def test_helper_has_no_network(call: str) -> None:
    assert run(f"{HELPER}print({call}, ctypes.get_errno())").stdout == "-1 1\n"


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="a part of Linux on x86_64")
@pytest.mark.parametrize("number", [41, 39, 2, 521], ids=["socket", "getpid", "open", "ptrace"])
@pytest.mark.parametrize("before", [ENTER, HELPER], ids=["parser", "helper"])
def test_x32_system_calls_are_refused(before: str, number: int) -> None:
    """Without the filter, the error would be ENOSYS, or none where Linux has x32."""
    done = run(f"{before}print(libc.syscall(ctypes.c_long({X32 | number}), 2, 1, 0), ctypes.get_errno())")
    assert done.stdout == "-1 1\n", done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="a part of Linux on x86_64")
def test_system_call_of_another_architecture_kills() -> None:
    done = run(HELPER + FOREIGN_CALL)
    # Linux without 32-bit programs sends SIGSEGV.
    assert (done.stdout, done.returncode in (-signal.SIGSYS, -signal.SIGSEGV)) == ("", True), done
