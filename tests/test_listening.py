"""Ports and TLS certificates: what keeps a server from listening, what does not, and certificates that change."""

import codecs
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from aiworkspace_server.listening import Tls, check_port, listen, read_certificate, reserved_port
from aiworkspace_server.settings import Settings, SettingsError
from tests.support.certificates import PEM, make_certificate, served
from tests.support.server_process import ServerProcess
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until, until_true

# Ports


def has_ipv6() -> bool:
    try:
        check_port("::1", 0)
    except OSError:
        return False
    return True


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", *(["::1", "::"] if has_ipv6() else [])]


@asynccontextmanager
async def listening(host: str, port: int, *, shared: bool) -> AsyncIterator[int]:
    server = grpc.aio.server(options=(("grpc.so_reuseport", int(shared)),))
    url = f"[{host}]" if ":" in host else host
    bound = server.add_insecure_port(f"{url}:{port}")
    await server.start()
    yield bound
    await server.stop(0)


async def leave_in_time_wait(host: str) -> int:
    """A port whose server closed a connection first and is gone, as after a restart."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, 0))
        server.listen()
        port: int = server.getsockname()[1]
        with socket.create_connection(({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    if Path("/proc/net/tcp").exists():
        await until_true(lambda: left_in_time_wait(port))
    return port


def left_in_time_wait(port: int) -> bool:
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "06" for row in rows)


@pytest.mark.parametrize("host", HOSTS)
async def test_port_of_a_server_that_just_stopped_is_free_for_workers_and_for_a_single_one(host: str) -> None:
    port = await leave_in_time_wait(host)
    with reserved_port(host, port) as reserved:
        assert reserved == port
        async with listening(host, port, shared=True), listening(host, port, shared=True):
            pass
    check_port(host, port)
    async with listening(host, port, shared=False):
        pass
    with reserved_port(host, port):
        pass


@pytest.mark.parametrize("host", HOSTS)
async def test_reserved_port_is_closed_to_others_while_no_worker_listens(host: str) -> None:
    with (
        reserved_port(host, 0) as port,
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other,
    ):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((host, port))


@pytest.mark.parametrize("shared", [False, True])
async def test_port_of_a_running_server_is_refused(shared: bool) -> None:
    async with listening("127.0.0.1", 0, shared=shared) as port:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(OSError, match=f"cannot listen on {host}:{port}: is another server running there"):
                check_port(host, port)
            with pytest.raises(OSError, match="is another server running there"), reserved_port(host, port):
                pass


@pytest.mark.parametrize(
    ("host", "problem"),
    [
        ("no.such.host.invalid", r"cannot listen on no\.such\.host\.invalid: .*HOST must be"),
        ("999.1.1.1", "HOST must be"),
        ("a" * 70, "HOST must be"),
        ("192.0.2.7", "not an address of this machine. Set HOST"),
    ],
)
def test_host_that_is_none_is_named(host: str, problem: str) -> None:
    with pytest.raises(OSError, match=problem):
        check_port(host, 0)


# Certificates


def other_key(folder: Path) -> bytes:
    (folder / "other").mkdir()
    return make_certificate(folder / "other")[1].read_bytes()


def encrypted(pem: bytes) -> bytes:
    password = serialization.BestAvailableEncryption(b"password")
    return load_pem_private_key(pem, None).private_bytes(PEM, serialization.PrivateFormat.PKCS8, password)


def ed25519_key() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


BROKEN = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
Change = Callable[[Path, Path], object]


def write(text: bytes, *, certificate: bool = False, key: bool = False) -> Change:
    def change(cert_path: Path, key_path: Path) -> None:
        for path in ((cert_path,) if certificate else ()) + ((key_path,) if key else ()):
            path.write_bytes(text)

    return change


def exchange(cert_path: Path, key_path: Path) -> None:
    cert, key = cert_path.read_bytes(), key_path.read_bytes()
    cert_path.write_bytes(key)
    key_path.write_bytes(cert)


def issuer_first(cert_path: Path, key_path: Path) -> None:
    own = cert_path.read_bytes()
    (cert_path.parent / "issuer").mkdir()
    cert_path.write_bytes(make_certificate(cert_path.parent / "issuer")[0].read_bytes() + own)


def directory(cert_path: Path, key_path: Path) -> None:
    cert_path.unlink()
    cert_path.mkdir()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (write(b"", certificate=True), "TLS_CERT_FILE: holds no valid certificate in PEM form"),
        (write(b"host\n", certificate=True), "TLS_CERT_FILE: holds no valid certificate in PEM form"),
        (write(b"\x30\x82\0\1\xff", certificate=True), "TLS_CERT_FILE: holds no valid certificate in PEM form"),
        (write(BROKEN, certificate=True), "TLS_CERT_FILE: holds no valid certificate in PEM form"),
        (write(b"host\n", key=True), "TLS_KEY_FILE: holds no valid private key in PEM form"),
        (exchange, "TLS_CERT_FILE: holds no valid certificate, but a private key: are the two files exchanged"),
        (lambda cert, key: key.write_bytes(cert.read_bytes()), "TLS_KEY_FILE: .* but a certificate: are the two files"),
        (lambda cert, key: key.write_bytes(other_key(key.parent)), "TLS_KEY_FILE: is not the key of the certificate"),
        (lambda cert, key: key.write_bytes(encrypted(key.read_bytes())), "TLS_KEY_FILE: is encrypted"),
        (write(ed25519_key(), key=True), "TLS_KEY_FILE: must be an RSA key, or one for P-256"),
        (issuer_first, "TLS_CERT_FILE: the server's own certificate must come first"),
        (lambda cert, key: cert.unlink(), r"TLS_CERT_FILE: .*cert\.pem cannot be read: No such file"),
        (lambda cert, key: key.unlink(), r"TLS_KEY_FILE: .*key\.pem cannot be read: No such file"),
        (directory, "TLS_CERT_FILE: .* cannot be read: Is a directory"),
    ],
)  # fmt: skip
def test_tls_file_that_is_none_is_named_as_what_it_is(tmp_path: Path, change: Change, problem: str) -> None:
    settings = tls_settings(*make_certificate(tmp_path))
    certificate = read_certificate(settings)
    assert certificate
    assert not certificate.expired
    change(tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(SettingsError, match=problem) as caught:
        read_certificate(settings)
    assert len(caught.value.problems) == 1
    assert "\n" not in caught.value.problems[0]


def test_key_in_place_of_a_path_is_not_shown(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    for secret in (key.read_text(), key.read_text().replace("\n", "")):
        with pytest.raises(SettingsError) as caught:
            read_certificate(tls_settings(certificate, Path(secret)))
        assert "TLS_KEY_FILE: the file cannot be read" in str(caught.value)
        assert "BEGIN" not in str(caught.value)


def tls_settings(certificate: Path, key: Path) -> Settings:
    stores = Stores("postgresql://db/app", "mongodb://db/app", "redis://db")
    return Settings.model_validate(store_settings(stores) | {"tls_cert_file": certificate, "tls_key_file": key})


@pytest.mark.parametrize("before", [b"Certificate:\n    Data: ...\n", codecs.BOM_UTF8])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_chain_and_key_with_text_around_them_are_served(tmp_path: Path, before: bytes, line_end: bytes) -> None:
    certificate, key = make_certificate(tmp_path, "around")
    both = before + (certificate.read_bytes() + key.read_bytes()).replace(b"\n", line_end)
    certificate.write_bytes(both)
    settings = tls_settings(certificate, certificate)
    taken = read_certificate(settings)
    assert taken
    server = grpc.aio.server()
    address = listen(server, settings.model_copy(update={"port": 0}), Tls(taken))
    await server.start()
    assert await served(address) == "CN=around"
    await server.stop(0)


async def test_all_workers_read_certificates_again_on_hang_up_and_do_not_use_bad_ones(
    stores: Stores, tmp_path: Path
) -> None:
    workers = 2
    certificate, key = make_certificate(tmp_path, "first")
    environment = store_settings(await other_databases(stores, "certificates")) | {"redis_url": stores.redis}
    environment |= {"tls_cert_file": certificate, "tls_key_file": key}
    async with ServerProcess(tmp_path / "data", environment, "--migrate", "--workers", str(workers)) as server:

        async def hang_up(event: str) -> None:
            before = server.log.read_text().count(event)
            server.send(signal.SIGHUP)
            await until(lambda: _reached(server, event, before + workers))

        async def subjects() -> set[str]:
            return {await served(server.address) for _ in range(8)}  # of both, but for once in 128 times

        assert await subjects() == {"CN=first"}
        make_certificate(tmp_path, "second")
        await hang_up("tls_certificate_replaced")
        assert await subjects() == {"CN=second"}
        for path, content in ((key, other_key(tmp_path)), (certificate, b"garbage")):
            make_certificate(tmp_path, "broken")
            path.write_bytes(content)
            await hang_up("tls_certificate_kept")
            assert await subjects() == {"CN=second"}
        make_certificate(tmp_path, "expired", days=-1)
        await hang_up("tls_certificate_kept")
        assert await subjects() == {"CN=second"}
        make_certificate(tmp_path, "third")
        await hang_up("tls_certificate_replaced")
        assert await subjects() == {"CN=third"}
    assert "Traceback" not in server.log.read_text()


async def _reached(server: ServerProcess, event: str, count: int) -> bool:
    return server.log.read_text().count(event) >= count
