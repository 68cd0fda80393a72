"""Addresses inside of other addresses: what an allowed network opens, and what it never does."""

from ipaddress import ip_address, ip_network

import pytest

from aiworkspace_server.kit.egress_policy import AddressPolicy, EgressError, parse_target

DISGUISES = ["::ffff:{}", "::{}", "64:ff9b::{}"]
METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16"]


@pytest.mark.parametrize("address", [each.format(inner) for each in DISGUISES for inner in METADATA])
def test_metadata_service_is_refused_inside_of_an_ipv6_address(address: str) -> None:
    everything = [ip_network(text) for text in ("0.0.0.0/0", "::/0", "64:ff9b::/96", "::ffff:0:0/96")]
    with pytest.raises(EgressError) as raised:
        AddressPolicy(everything).vet(parse_target("http://example.com/"), [address])
    assert raised.value.reason == "not_public"


@pytest.mark.parametrize("address", ["2002:a9fe:a9fe::1", "2001:0:808:808::5601:5601"])
def test_metadata_service_is_refused_inside_of_a_tunnel(address: str) -> None:
    with pytest.raises(EgressError):
        AddressPolicy([ip_network("::/0")]).vet(parse_target("http://example.com/"), [address])


def test_translated_address_is_allowed_if_it_is_public_or_allowed_itself() -> None:
    target = parse_target("http://example.com/")
    nat64 = ip_network("64:ff9b::/96")
    public, private = "64:ff9b::8.8.8.8", "64:ff9b::10.0.0.1"
    assert AddressPolicy([nat64]).vet(target, [public, private]) == [str(ip_address(public))]
    both = AddressPolicy([nat64, ip_network("10.0.0.0/8")])
    assert both.vet(target, [private]) == [str(ip_address(private))]
    assert AddressPolicy([ip_network("::/0")]).vet(target, ["2001:db8::1", "::1"]) == ["2001:db8::1", "::1"]
