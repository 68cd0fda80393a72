"""Network addresses of clients, also of those that come through a reverse proxy.

A proxy appends the address that it was called from to x-forwarded-for. Everything to the left of what trusted proxies
appended was written by the client, and says nothing.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any
from urllib.parse import unquote

from .context import Call
from .contract import Method
from .interceptors import Handler

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

HEADER = "x-forwarded-for"
_MOST_PEERS = 10_000


class TrustedProxies:
    """Finds the address of the client behind each call."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        # A peer is the same for all calls of a connection. What clients write into headers is not remembered.
        self._address_of_peer = lru_cache(_MOST_PEERS)(lambda peer: self.client_address(peer, ()))

    def step(self, method: Method, proceed: Handler) -> Handler:
        """Sets the call's address: for limits, sessions, devices and the audit log."""

        async def handler(call: Call, request: Any) -> Any:
            peer, forwarded = call.context.peer(), call.metadata.get(HEADER)
            call.address = self.client_address(peer, forwarded) if forwarded else self._address_of_peer(peer)
            return await proceed(call, request)

        return handler

    def client_address(self, peer: str, forwarded: Iterable[str]) -> str:
        """Return the rightmost address in the header lines that is not a trusted proxy, or the peer if it is no proxy.

        `peer` is in gRPC's notation, such as "ipv6:[2001:db8::1]:50000". A header that does not lead to a client, with
        an entry that is no address or with trusted proxies alone, counts as absent.
        """
        connected = _parse_peer(peer)
        if connected is None:
            return peer.partition(":")[0]  # "unix": a process on this machine
        if self._trusts(connected):
            entries = [entry.strip() for line in forwarded for entry in line.split(",")]
            for entry in filter(None, reversed(entries)):
                address = _parse_entry(entry)
                if address is None:
                    break
                if not self._trusts(address):
                    return str(address)
        return str(connected)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def network_of(address: str) -> str:
    """Return the address or, for IPv6, its /64, all of which belongs to one customer."""
    return str(ip_network((address, 64), strict=False)) if ":" in address else address


def _parse_peer(peer: str) -> Address | None:
    kind, _, rest = unquote(peer).partition(":")
    return _parse_entry(rest) if kind.startswith("ipv") else None


def _parse_entry(text: str) -> Address | None:
    """Parse an address with or without a port: 192.0.2.1:80, [2001:db8::1]:80, 2001:db8::1. None if it is invalid."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        valid = bool(bracket) and (not port or (port[0] == ":" and _is_port(port[1:])))
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        valid = _is_port(port)
    else:
        host, valid = text, True
    return _parse_address(host) if valid else None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def _parse_address(text: str) -> Address | None:
    """Parse an address, without its zone. An IPv4 address that is mapped into IPv6 becomes IPv4."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
