"""Where a call comes from, also behind a reverse proxy: for limits, sessions and the audit log."""

from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network
from typing import Any

import pytest

from aiworkspace.v1 import audit_pb2
from aiworkspace.v1 import auth_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.kit.addresses import TrustedProxies, network_of
from aiworkspace_server.settings import Settings
from tests.support.accounts import registration
from tests.support.outcomes import OK, RATE_LIMITED, outcome
from tests.support.people import Person
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases

PROXY = "ipv4:10.0.0.1:50000"
TRUSTED = TrustedProxies([ip_network(text) for text in ("10.0.0.0/8", "2001:db8:ffff::/48", "127.0.0.1")])

CLIENT = "203.0.113.7"

HEADERS = {
    "none": ((), "10.0.0.1"),
    "one address": ((CLIENT,), CLIENT),
    "forged ones before it": ((f"127.0.0.1, 198.51.100.1, {CLIENT}",), CLIENT),
    "a forged trusted one before it": ((f"10.1.1.1, {CLIENT}",), CLIENT),
    "proxies behind it": ((f"198.51.100.1, {CLIENT}, 10.2.2.2, 2001:db8:ffff::1",), CLIENT),
    "several lines": (("198.51.100.1", f"{CLIENT}, 10.2.2.2", "10.3.3.3"), CLIENT),
    "spaces, tabs and empty entries": ((f" ,198.51.100.1 ,\t{CLIENT}\t, ,",), CLIENT),
    "a port": ((f"{CLIENT}:51234",), CLIENT),
    "IPv6": (("2001:db8::7",), "2001:db8::7"),
    "IPv6 in another spelling": (("2001:0DB8:0:0::0007",), "2001:db8::7"),
    "IPv6 in brackets": (("[2001:db8::7]",), "2001:db8::7"),
    "IPv6 with a port": (("[2001:db8::7]:51234",), "2001:db8::7"),
    "IPv6 with a zone": (("fe80::7%eth0",), "fe80::7"),
    "IPv4 as IPv6": ((f"::ffff:{CLIENT}",), CLIENT),
    "a proxy in IPv4 as IPv6": ((f"{CLIENT}, ::ffff:10.2.2.2",), CLIENT),
    "proxies alone": (("10.2.2.2, 10.3.3.3",), "10.0.0.1"),
    "nothing in it": (("",), "10.0.0.1"),
    "a word": (("unknown",), "10.0.0.1"),
    "a word behind the client": ((f"{CLIENT}, unknown",), "10.0.0.1"),
    "a word before the client": ((f"unknown, {CLIENT}",), CLIENT),
    "a name": (("localhost",), "10.0.0.1"),
    "too large a number": (("203.0.113.256",), "10.0.0.1"),
    "leading zeros": (("203.0.113.007",), "10.0.0.1"),
    "a network": (("203.0.113.0/24",), "10.0.0.1"),
    "a port that is none": ((f"{CLIENT}:http",), "10.0.0.1"),
    "an empty port": ((f"{CLIENT}:",), "10.0.0.1"),
    "a bracket that is not closed": (("[2001:db8::7",), "10.0.0.1"),
    "text after the bracket": (("[2001:db8::7]7",), "10.0.0.1"),
    "digits of another script": (("٢٠٣.0.113.7",), "10.0.0.1"),
    "the syntax of another header": ((f"for={CLIENT}",), "10.0.0.1"),
    "a semicolon": ((f"{CLIENT}; 198.51.100.1",), "10.0.0.1"),
    "very many": ((", ".join([CLIENT] + ["10.2.2.2"] * 1500),), CLIENT),
}


@pytest.mark.parametrize(("header", "address"), HEADERS.values(), ids=list(HEADERS))
def test_behind_a_trusted_proxy_the_last_foreign_address_counts(header: Sequence[str], address: str) -> None:
    assert TRUSTED.client_address(PROXY, header) == address


@pytest.mark.parametrize("header", [header for header, _ in HEADERS.values()], ids=list(HEADERS))
def test_without_a_trusted_proxy_the_header_is_ignored(header: Sequence[str]) -> None:
    assert TrustedProxies([]).client_address(PROXY, header) == "10.0.0.1"
    assert TRUSTED.client_address("ipv4:192.0.2.1:50000", header) == "192.0.2.1"
    assert TRUSTED.client_address("unix:", header) == "unix"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50000", "2001:db8::1"),
        ("ipv6:[2001:db8::1]:50000", "2001:db8::1"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:50000", "192.0.2.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50000", "fe80::1"),
        ("unix:/run/aiworkspace.sock", "unix"),
        ("unix:", "unix"),
    ],
)
def test_the_peer_of_a_connection_is_named_without_its_port(peer: str, address: str) -> None:
    assert TRUSTED.client_address(peer, ()) == address


def test_addresses_of_one_customer_are_one_network() -> None:
    assert network_of("2001:db8:0:1:2:3:4:5") == network_of("2001:db8:0:1::9") == "2001:db8:0:1::/64"
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("unix") == "unix"


# Through a server


@pytest.fixture(scope="module")
async def behind_proxy(stores: Stores) -> AsyncIterator[App]:
    """A server to which every client of the machine is a trusted proxy, with three registrations a minute."""
    own = {"trusted_proxies": "127.0.0.0/8 ::1", "rate_limit_factor": 0.1}
    values = store_settings(await other_databases(stores, "behind_proxy")) | own
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


def register(person: Person, forwarded: str) -> Any:
    return person.auth.Register(registration(), metadata=(("x-forwarded-for", forwarded),))


async def test_behind_a_proxy_each_client_has_limits_of_its_own(behind_proxy: App) -> None:
    person = Person(behind_proxy.address)
    for number in range(8):
        assert await outcome(register(person, f"203.0.113.{number}")) == OK
    found = [await outcome(register(person, f"198.51.100.{number}, 203.0.113.99")) for number in range(4)]
    assert found == [OK] * 3 + [RATE_LIMITED], "a forged address changes nothing"
    await person.channel.close()


async def test_behind_a_proxy_sessions_and_audit_log_name_the_client(behind_proxy: App) -> None:
    person = Person(behind_proxy.address)
    person.sign_in(await register(person, "198.51.100.1, 2001:db8::7"))
    [session] = (await person.auth.ListSessions(pb.ListSessionsRequest())).sessions
    [entry] = (await person.audit.ListAccountEvents(audit_pb2.ListAccountEventsRequest())).events
    assert session.address == entry.address == "2001:db8::7"
    await person.channel.close()


async def test_without_the_setting_a_forwarded_address_is_not_believed(app: App) -> None:
    person = Person(app.address)
    person.sign_in(await register(person, CLIENT))
    [session] = (await person.auth.ListSessions(pb.ListSessionsRequest())).sessions
    assert session.address == "127.0.0.1"
    await person.channel.close()
