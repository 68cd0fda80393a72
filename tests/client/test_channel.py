import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aiworkspace.v1 import auth_pb2
from aiworkspace_client import AsyncClient, Backoff, UnavailableError
from aiworkspace_client.channel import is_loopback
from tests.client.scripted import ScriptedServer, answer


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:50051", "localhost:1", "[::1]:50051", "dns:///localhost:443", "ipv4:127.8.9.1:5"),
        *("unix:/run/a.sock", "LocalHost:1", "localhost.:1", "127.1:5", "[::ffff:127.0.0.1]:5", "ip6-localhost:1"),
    ],
)
def test_loopback(target: str) -> None:
    assert is_loopback(target)


@pytest.mark.parametrize(
    "target",
    ["example.com:443", "10.0.0.1:50051", "localhost.example.com:1", "dns:///example.com:443", "[2001:db8::1]:1", ""],
)
def test_not_loopback(target: str) -> None:
    assert not is_loopback(target)


def certificate() -> tuple[bytes, bytes]:
    """Key and self-signed certificate of 127.0.0.1, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain), built.public_bytes(serialization.Encoding.PEM)


async def test_tls_with_a_private_authority() -> None:
    key, chain = certificate()
    server = ScriptedServer()
    await server.start(credentials=grpc.ssl_server_credentials([(key, chain)]))
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(email="a@example.com"))))
    try:
        async with AsyncClient(server.target, root_certificates=chain) as client:
            assert (await client.auth.get_me()).email == "a@example.com"
        once = Backoff(first=1000, longest=1000)
        for trusting in (AsyncClient(server.target, tls=True, backoff=once), AsyncClient(server.target, backoff=once)):
            async with trusting as client:
                with pytest.raises(UnavailableError):
                    await client.auth.get_me(timeout=60)
    finally:
        await server.stop()


async def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(email="a@example.com"))))
    async with AsyncClient(server.target) as client:
        assert (await client.auth.get_me(timeout=60)).email == "a@example.com"
