"""The guard's own list of networks, at both sides of each border."""

from __future__ import annotations

import ipaddress
from ipaddress import ip_network

import pytest

from dsvl_pipeline.sources.addresses import is_public

# Networks that are not public, where both neighbours are.
INNER = [
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "2001:db8::/32",
    "2002::/16",
]
# Those with a neighbour that is not public either, or that lie at an end.
AT_AN_EDGE = {
    "0.0.0.0/8": ["1.0.0.0"],
    "192.0.0.0/24": ["191.255.255.255", "192.0.1.0"],
    "224.0.0.0/4": ["223.255.255.255"],
    "240.0.0.0/4": [],
    "2001::/23": ["2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"],
    "3fff::/20": ["3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:1000::"],
    "::/3": ["2000::"],
    "4000::/2": ["3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
    "8000::/1": [],
    # Within these, by what IANA registered.
    "::/128": [],
    "::1/128": [],
    "::/96": [],  # ::a.b.c.d, withdrawn long ago
    "::ffff:0:0:0/96": [],
    "64:ff9b:1::/48": [],
    "100::/64": [],
    "100:0:0:1::/64": [],
    "2001::/32": [],  # Teredo
    "2001:2::/48": [],
    "2001:10::/28": [],
    "5f00::/16": [],
    "fc00::/7": [],
    "fe80::/10": [],
    "fec0::/10": [],
    "ff00::/8": [],
}
# Registered as globally reachable, inside of a network that is not or beside one.
PUBLIC = [
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.175.48.0/24",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:20::/28",
    "2001:30::/28",
    "2620:4f:8000::/48",
]


@pytest.mark.parametrize("network", INNER)
def test_an_inner_network_ends_where_the_registry_says(network: str) -> None:
    """A bit too few lets in what is inside, a bit too many loses servers."""
    found = ip_network(network)
    first, last = found[0], found[-1]
    shown = [str(ip) for ip in (first - 1, first, last, last + 1)]
    assert [is_public(ip) for ip in shown] == [True, False, False, True]


@pytest.mark.parametrize(("network", "beside"), AT_AN_EDGE.items())
def test_networks_beside_others_are_not_public(network: str, beside: list[str]) -> None:
    """Their neighbours on one side are named, where they are public."""
    found = ip_network(network)
    assert not any(is_public(str(ip)) for ip in (found[0], found[-1]))
    assert all(is_public(ip) for ip in beside)


@pytest.mark.parametrize("network", PUBLIC)
def test_what_is_registered_as_reachable_is_public(network: str) -> None:
    """Some networks of a special purpose are servers for everybody."""
    found = ip_network(network)
    assert all(is_public(str(ip)) for ip in (found[0], found[-1]))


def test_exceptions_end_where_the_registry_says() -> None:
    """Beside the anycast addresses of 192.0.0.0/24 and 2001::/23 lies what is not public."""
    beside = ["192.0.0.8", "192.0.0.11", "192.0.0.170", "192.0.0.192", "2001:1::", "2001:1::4"]
    beside += ["2001:2:ffff::", "2001:4:111:ffff::", "2001:4:113::", "2001:1f:ffff::", "2001:40::"]
    assert [ip for ip in beside if is_public(ip)] == []


@pytest.mark.parametrize("network", ["::ffff:0:0/96", "64:ff9b::/96"])
def test_an_address_that_carries_another_is_judged_by_it(network: str) -> None:
    """Mapped and NAT64 addresses reach the IPv4 address in them."""
    base = int(ip_network(network)[0])
    for text in ("10.1.2.3", "192.0.0.170", "192.88.99.1", "100.64.0.1", "255.255.255.255"):
        assert not is_public(str(ipaddress.IPv6Address(base + int(ipaddress.IPv4Address(text)))))
    for text in ("8.8.8.8", "192.0.0.9", "1.1.1.1"):
        assert is_public(str(ipaddress.IPv6Address(base + int(ipaddress.IPv4Address(text)))))


@pytest.mark.parametrize("inner", ["8.8.8.8", "10.0.0.1"])
def test_tunnels_are_refused_whatever_they_carry(inner: str) -> None:
    """6to4 and Teredo depend on relays that are anybody's."""
    carried = int(ipaddress.IPv4Address(inner))
    sixtofour = ipaddress.IPv6Address((0x2002 << 112) | (carried << 80) | 1)
    teredo = ipaddress.IPv6Address((0x20010000 << 96) | (carried << 64) | (carried ^ 0xFFFFFFFF))
    assert not is_public(str(sixtofour))
    assert not is_public(str(teredo))


@pytest.mark.parametrize(
    "text", ["", "localhost", "8.8.8", "08.8.8.8", "8.8.8.8/32", "::1%lo", " 8.8.8.8"]
)
def test_what_is_no_public_number_is_refused(text: str) -> None:
    """The guard sees what the resolver gave; anything else is not to be connected to."""
    assert not is_public(text)


def test_pythons_own_opinion_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.11.7 takes 192.88.99.1 and 3fff:: for global, later patch releases do not."""
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_multicast"):
            monkeypatch.delattr(kind, name)
    assert is_public("8.8.8.8")
    assert not is_public("3fff::1")
