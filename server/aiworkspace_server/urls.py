"""Checks of URLs in settings. Errors describe a malformed URL but never show it: it may hold a password."""

import re
from ipaddress import IPv6Address, ip_address
from pathlib import PurePosixPath
from socket import inet_aton, inet_ntoa
from urllib.parse import SplitResult, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError, PyMongoError
from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_ESCAPING = "special characters in the password must be percent-encoded"
_HOST = re.compile(r"[\w.-]+|\[[0-9a-f:.]+(?:%[\w.-]+)?\]", re.IGNORECASE)
# The names in common hosts files.
_LOOPBACK_NAMES = {"localhost", "localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"}


def is_loopback(host: str) -> bool:
    """Return whether the host, a name or an address, is this machine."""
    name = host.lower().rstrip(".")
    try:
        # The system also accepts short forms such as 127.1.
        address = ip_address(inet_ntoa(inet_aton(name)) if ":" not in name else name)
    except (OSError, ValueError):
        return name in _LOOPBACK_NAMES or name.endswith(".localhost")
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback or (mapped or address).is_unspecified


def http(url: str) -> str:
    """Return the URL of a server or of a path on it. Raises ValueError."""
    parts = _split(url, "http", "https")
    if "@" in parts.netloc:
        raise ValueError("must not have a user name or a password; keys have their own settings")
    if not is_host(re.sub(r":\d*$", "", parts.netloc)):
        raise ValueError("has no valid host after the scheme")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must not have a query or a fragment")
    if "//" in parts.path or "\\" in url:
        raise ValueError("has two slashes or a backslash in its path")
    return url


def is_host(host: str) -> bool:
    """Return whether this may be a host name, an IPv4 address, or an IPv6 address in brackets."""
    if not _HOST.fullmatch(host) or len(host) > 253 or ".." in host or host.startswith((".", "-")):
        return False
    try:
        if host.startswith("["):
            return bool(IPv6Address(host[1:-1]))
        # Refuses 127.1 and 999.1.1.1, which look like addresses but are invalid.
        return not re.fullmatch(r"[\d.]+", host) or bool(ip_address(host))
    except ValueError:
        return False


def postgres(url: str) -> str:
    """Return the URL with the server's driver, for any spelling of the scheme. Raises ValueError."""
    _refuse_spaces(url)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError("must begin with postgresql://")
    try:
        parsed = make_url(f"postgresql://{rest}")
        conninfo_to_dict(parsed.render_as_string(hide_password=False))
    except (ArgumentError, ProgrammingError, ValueError):
        raise ValueError(f"is malformed: host, port and options must be right, and {_ESCAPING}") from None
    if "@" in (parsed.host or "") or not 0 < (parsed.port or 1) < 65536:
        raise ValueError(f"has no valid host and port; {_ESCAPING}")
    return f"postgresql+psycopg://{rest}"


def mongo(url: str) -> str:
    """Return the URI. Raises ValueError unless it is valid for MongoDB and names a database."""
    _refuse_spaces(url)
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must begin with mongodb:// or mongodb+srv://")
    try:
        client = AsyncMongoClient[dict[str, object]](url, connect=False)
    except (PyMongoError, ValueError, TypeError):
        raise ValueError(f"is malformed: hosts, ports and options must be right, and {_ESCAPING}") from None
    try:
        client.get_default_database()
    except ConfigurationError:
        raise ValueError("names no database: mongodb://host/database") from None
    return url


def redis(url: str) -> str:
    """Return the URL. Raises ValueError unless it is valid for Redis."""
    _refuse_spaces(url)
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis:// or rediss:// or unix://")
    try:
        parts = urlsplit(url)
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
    except (RedisError, ValueError, TypeError, OSError):
        raise ValueError(f"is malformed: host, port and options must be right, and {_ESCAPING}") from None
    if parts.scheme == "unix":
        if not PurePosixPath(parts.path).is_absolute():
            raise ValueError("names no socket: unix:///path/to/redis.sock")
    elif not re.fullmatch(r"/?\d*", parts.path):
        raise ValueError("must end with the number of a database: redis://host/0")
    return url


def document_store(url: str) -> str:
    """Return the URL of a bucket or container, or of a prefix in it, without a slash at its end. Raises ValueError."""
    parts = _split(url, "s3", "gs", "az")
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]{1,220}[a-z0-9])?", parts.netloc):
        raise ValueError("must name a bucket or container: s3://bucket/prefix")
    path = parts.path.strip("/")
    if "?" in url or "#" in url or not re.fullmatch(r"(?:[\w.=-]+(?:/[\w.=-]+)*)?", path, re.ASCII):
        raise ValueError("must have a prefix of letters, digits and . _ = - between single slashes, or none")
    if {".", ".."} & set(path.split("/")):
        raise ValueError("must not have . or .. in its prefix")
    return f"{parts.scheme}://{parts.netloc}/{path}".rstrip("/")


def clamd(address: str) -> str:
    """Return the address of clamd: host:port, or the absolute path of a socket. Raises ValueError."""
    _refuse_spaces(address)
    host, _, port = address.rpartition(":")
    if not (address.startswith("/") or (is_host(host) and re.fullmatch(r"\d{1,5}", port) and 0 < int(port) < 65536)):
        raise ValueError("must be host:port, or the absolute path of a socket, such as /run/clamav/clamd.ctl")
    return address


def proxy(url: str) -> str:
    """Return the URL of a proxy, with or without a scheme."""
    parts = _split(url if "://" in url else f"http://{url}", "http", "https", "socks5", "socks5h")
    if not parts.hostname:
        raise ValueError("has no valid host")
    return url


def no_proxy(hosts: str) -> str:
    """Return the list of hosts. Raises ValueError for invalid ones."""
    try:
        for host in hosts.split(","):
            urlsplit(f"//{host.strip().rpartition('://')[2]}")
    except ValueError:
        raise ValueError("has no valid host in its list") from None
    return hosts


def _split(url: str, *schemes: str) -> SplitResult:
    _refuse_spaces(url)
    if url.partition("://")[0].lower() not in schemes or "://" not in url:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return _parts(url)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("has no valid host and port") from None
    return parts


def _refuse_spaces(url: str) -> None:
    if any(char.isspace() or not char.isprintable() for char in url):
        raise ValueError("must not have spaces or control characters")
