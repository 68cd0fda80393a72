"""Which URLs the server requests on behalf of callers, and to which addresses it connects for them.

Without this, a URL of a caller reaches what only this machine can: databases, other tenants' services, and the metadata
service of a cloud, which hands out credentials.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, urlsplit

import idna

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

_MOST_CHARACTERS = 2048
_PORTS = {"https": 443, "http": 80}
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")

# Special-purpose networks of the IANA registries, and 168.63.129.16, which is public but Azure's own on its machines.
_FORBIDDEN_4 = [
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
]
# Only global unicast is public at all. That leaves out loopback, IPv4 in any disguise, NAT64, link-local, unique-local
# and multicast. Within it are Teredo and other protocols (2001::/23), documentation, and 6to4.
_PUBLIC_6 = IPv6Network("2000::/3")
_FORBIDDEN_6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
# Metadata services, and link-local addresses, where they are. No setting allows them.
_NEVER: list[IpNetwork] = [
    ip_network(network)
    for network in (
        *("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "fd20:ce::254/128"),
        *("100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32"),
    )
]
# IPv6 networks whose last 32 bits are an IPv4 address, beside those that `ipaddress` knows.
_COMPATIBLE, _NAT64 = IPv6Network("::/96"), IPv6Network("64:ff9b::/96")


class EgressReason(StrEnum):
    INVALID_URL = "invalid_url"
    NOT_PUBLIC = "not_public"  # the host does not exist or has no public address: callers do not learn which of them
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_LARGE = "too_large"
    UNREADABLE = "unreadable"  # the response is not HTTP, or encoded in an unsupported way
    TLS_FAILED = "tls_failed"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"


class EgressError(Exception):
    """A request that was refused or failed. The text is for the caller and shows no address."""

    def __init__(self, reason: EgressReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def retryable(self) -> bool:
        return self.reason in (EgressReason.UNREACHABLE, EgressReason.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its one spelling: host in lower case ASCII, without user name, fragment and default port."""

    scheme: str
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def ordinary(self) -> bool:
        """Whether it is HTTPS on its own port. Everything else is only for allowed networks."""
        return self.scheme == "https" and self.port == _PORTS["https"]


def parse_target(url: str) -> Target:
    """Return what a URL names. Raises EgressError for everything that parsers are known to disagree about."""
    if len(url) > _MOST_CHARACTERS:
        raise _invalid(f"must have at most {_MOST_CHARACTERS} characters")
    if any(char.isspace() or not char.isprintable() for char in url) or "\\" in url:
        raise _invalid("must not have spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _invalid("has no valid host and port") from None
    if parts.scheme not in _PORTS:
        raise _invalid("must begin with https://")
    if "@" in parts.netloc:
        raise _invalid("must not have a user name or a password")
    if port == 0 or parts.netloc.endswith(":"):
        raise _invalid("has no valid port")
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?[]|") if parts.query else ""
    host = _bracketed(parts.netloc) if {"[", "]"} & set(parts.netloc) else _name(host)
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path + query)


def _bracketed(netloc: str) -> str:
    """Return the IPv6 address in a host with brackets."""
    found = re.fullmatch(r"\[([0-9a-f:.]+)\](?::\d+)?", netloc, re.IGNORECASE)
    try:
        return str(IPv6Address(found[1] if found else ""))
    except ValueError:
        raise _invalid("has no valid address in its brackets") from None


def _name(host: str) -> str:
    """Return a host name, or an IPv4 address."""
    name = _to_ascii(host).removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _invalid("has no valid host name")
    if _NUMBER.fullmatch(labels[-1]):  # browsers and resolvers take it for an address, in one of many spellings
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise _invalid("has an address as its host that is not spelled as four decimal numbers") from None
    return name


def _to_ascii(host: str) -> str:
    if host.isascii():
        return host.lower()
    try:
        return idna.encode(host, uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError):
        raise _invalid("has no valid host name") from None


class AddressPolicy:
    """Public addresses, and those in the networks that the operator allows."""

    def __init__(self, allowed_networks: Sequence[IpNetwork]) -> None:
        self._allowed = allowed_networks

    def vet(self, target: Target, addresses: Sequence[str]) -> list[str]:
        """Return those of the host's addresses to which a connection may be made. Raises EgressError if there are none.

        Plain HTTP and other ports are only for allowed networks.
        """
        parsed = [ip_address(address) for address in addresses]
        vetted = [each for each in parsed if self._allows(each) or (target.ordinary and is_public(each))]
        if vetted:
            return [str(each) for each in vetted]
        if any(map(is_public, parsed)):
            raise _invalid("must begin with https:// and have no other port than 443")
        raise not_public()

    def _allows(self, address: IpAddress) -> bool:
        if not _is_in(address, self._allowed) or _is_in(address, _NEVER):
            return False
        inner = _inner(address)
        if inner is None:
            return True
        if _is_in(inner, _NEVER):
            return False
        return address not in _NAT64 or is_public(inner) or _is_in(inner, self._allowed)


def is_public(address: IpAddress) -> bool:
    """Return whether an address is one of the public internet."""
    if isinstance(address, IPv4Address):
        return not _is_in(address, _FORBIDDEN_4)
    return address in _PUBLIC_6 and address.scope_id is None and not _is_in(address, _FORBIDDEN_6)


def _inner(address: IpAddress) -> IPv4Address | None:
    """Return the IPv4 address that a connection to this one may end at: mapped, compatible, NAT64, 6to4 or Teredo."""
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped or address in _COMPATIBLE or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)


def _is_in(address: IpAddress, networks: Sequence[IpNetwork]) -> bool:
    return any(address in network for network in networks)  # False for the other version of IP


def not_public() -> EgressError:
    return EgressError(EgressReason.NOT_PUBLIC, "has a host that is not on the public internet")


def _invalid(text: str) -> EgressError:
    return EgressError(EgressReason.INVALID_URL, text)
