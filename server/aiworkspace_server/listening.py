"""The server's address, port and TLS certificate, which can be replaced while it runs."""

import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from .settings import Settings, SettingsError

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# The curves that gRPC's TLS library accepts in a certificate.
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)

_Address = tuple[socket.AddressFamily, tuple[str, int]]
_LONGEST_PATH = 100  # shown in errors; anything longer may be a key in place of a path

log = structlog.get_logger("serve")


def address_of(settings: Settings, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Raise OSError, with a text that says what to change, unless a server can listen on every address of the host."""
    with ExitStack() as stack:
        for family, address in _addresses(host, port):
            _bind(stack, host, family, address, shared=False).listen()


@contextmanager
def reserved_port(host: str, port: int) -> Iterator[int]:
    """Reserve a port that only this user's workers can share, also while all of them are dead; 0: any free port."""
    check_port(host, port)
    with ExitStack() as stack:
        for family, address in _addresses(host, port):
            held = _bind(stack, host, family, (address[0], port), shared=True)
            port = held.getsockname()[1]
        yield port


def _addresses(host: str, port: int) -> Sequence[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a host name"
        raise OSError(f"cannot listen on {host}: {reason}. HOST must be an address of this machine.") from error
    addresses = [(family, (str(address[0]), port)) for family, _, _, _, address in found]
    # A name such as localhost may have an address of a protocol that is disabled on this machine.
    return [each for each in addresses if _is_here(*each)] or addresses


def _is_here(family: socket.AddressFamily, address: tuple[str, int]) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0))
    except OSError:
        return False
    return True


def _bind(
    stack: ExitStack, host: str, family: socket.AddressFamily, address: tuple[str, int], *, shared: bool
) -> socket.socket:
    """Bind until the stack closes.

    SO_REUSEADDR ignores connections of an earlier server in TIME_WAIT, which last a minute. A shared port drops it
    again once it is bound: otherwise any program could listen on the port while no worker does.
    """
    try:
        held = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        held.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(not shared))
    except OSError as error:
        raise _refusal(host, address[1], error) from error
    return held


def _refusal(host: str, port: int, error: OSError) -> OSError:
    if error.errno == errno.EADDRINUSE:
        advice = "is another server running there? Set PORT or HOST."
    elif error.errno == errno.EADDRNOTAVAIL:
        advice = "it is not an address of this machine. Set HOST."
    else:
        advice = f"{error.strerror}. Set PORT or HOST."
    return OSError(f"cannot listen on {host}:{port}: {advice}")


def listen(server: grpc.aio.Server, settings: Settings, tls: "Tls | None") -> str:
    """Add the port to the server. Return the address with the port that was chosen."""
    wanted = address_of(settings, settings.port)
    try:
        port = server.add_secure_port(wanted, tls.credentials()) if tls else server.add_insecure_port(wanted)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {wanted}: is another server running there? Set PORT or HOST.") from error
    return address_of(settings, port)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain with its private key, in PEM form, checked to belong together."""

    key: bytes
    chain: bytes
    expire_time: datetime

    @property
    def expired(self) -> bool:
        return self.expire_time < datetime.now(UTC)

    @property
    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)])


class Tls:
    """The server's TLS credentials. Connections that begin after `use` get the new certificate."""

    def __init__(self, certificate: Certificate) -> None:
        self._first = certificate
        self._next: deque[Certificate] = deque(maxlen=1)  # gRPC's threads take it

    def credentials(self) -> grpc.ServerCredentials:
        fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], self._take)  # its stub does not allow None
        return grpc.dynamic_ssl_server_credentials(self._first.configuration, fetch)

    def use(self, certificate: Certificate) -> None:
        self._next.append(certificate)

    def _take(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the next certificate, None for no change. gRPC calls this at each handshake."""
        try:
            return self._next.popleft().configuration
        except IndexError:
            return None


def read_certificate(settings: Settings) -> Certificate | None:
    """Return the certificate of the settings, None without TLS. Raises SettingsError for unusable files."""
    if not (settings.tls_cert_file and settings.tls_key_file):
        return None
    chain, pem = _read(settings.tls_cert_file, "TLS_CERT_FILE"), _read(settings.tls_key_file, "TLS_KEY_FILE")
    certificates, key = _certificates(chain), _private_key(pem)
    public = _encoded(key)
    if _encoded(certificates[0]) != public:
        if public in map(_encoded, certificates):
            raise SettingsError(["TLS_CERT_FILE: the server's own certificate must come first, its issuers after it"])
        raise SettingsError(["TLS_KEY_FILE: is not the key of the certificate in TLS_CERT_FILE"])
    # Encoded again, because gRPC's parser refuses some files that are valid here, such as with a byte-order mark.
    certificate = Certificate(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"".join(each.public_bytes(Encoding.PEM) for each in certificates),
        certificates[0].not_valid_after_utc,
    )
    if certificate.expired:
        log.warning("tls_certificate_expired", expire_time=certificate.expire_time.isoformat())
    return certificate


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        shown = str(path) if len(str(path)) <= _LONGEST_PATH and "-----" not in str(path) else "the file"
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise SettingsError([f"{name}: {shown} cannot be read: {reason}"]) from None


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        hint = ", but a private key: are the two files exchanged?" if b"PRIVATE KEY-----" in pem else " in PEM form"
        raise SettingsError([f"TLS_CERT_FILE: holds no valid certificate{hint}"]) from None


def _private_key(pem: bytes) -> _PrivateKey:
    """Return the key. Raises SettingsError unless gRPC can serve with it."""
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise SettingsError(["TLS_KEY_FILE: is encrypted; decrypt it with openssl pkey"]) from None
    except (ValueError, UnsupportedAlgorithm):
        hint = ", but a certificate: are the two files exchanged?" if b" CERTIFICATE-----" in pem else " in PEM form"
        raise SettingsError([f"TLS_KEY_FILE: holds no valid private key{hint}"]) from None
    if isinstance(key, rsa.RSAPrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)
    ):
        return key
    raise SettingsError(["TLS_KEY_FILE: must be an RSA key, or one for P-256, P-384 or P-521"])


def _encoded(holder: x509.Certificate | _PrivateKey) -> bytes:
    """Return the encoded public key of a certificate or of a private key."""
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
