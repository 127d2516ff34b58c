"""Which numeric addresses lie in the public internet.

By a list of our own: what Python's ``ipaddress`` calls global differs between its patch releases.

Source: IANA's IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), read in 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

# What lies in one of these is inside, or leads nowhere.
_INNER_V4 = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # no special purpose to IANA: Azure's metadata and wire server
        "169.254.0.0/16",  # link-local; most clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Parts of the above that IANA calls globally reachable: anycast of PCP and of TURN.
_PUBLIC_V4 = (ip_network("192.0.0.9/32"), ip_network("192.0.0.10/32"))

# All that was ever given out; outside of it lie ::1, fc00::/7, fe80::/10, fec0::/10, 5f00::/16,
# 64:ff9b:1::/48, 100::/64, multicast and what is reserved.
_UNICAST_V6 = ip_network("2000::/3")
_INNER_V6 = tuple(
    ip_network(text)
    for text in (
        "2001::/23",  # protocol assignments; Teredo, which tunnels to whatever it says
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, likewise a tunnel
        "3fff::/20",  # documentation
    )
)
_PUBLIC_V6 = tuple(
    ip_network(text)
    for text in (
        "2001:1::1/128",  # anycast of PCP
        "2001:1::2/128",  # anycast of TURN
        "2001:1::3/128",  # anycast of DNS-SD
        "2001:3::/32",  # multicast tunnels
        "2001:4:112::/48",  # AS112
        "2001:20::/28",  # ORCHIDv2
        "2001:30::/28",  # drones
    )
)
_MAPPED = ip_network("::ffff:0:0/96")
_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether a numeric address lies in the public internet.

    IPv6 addresses that carry an IPv4 address (mapped, NAT64) are judged by it; tunnels (6to4,
    Teredo) are refused.
    """
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and (ip in _MAPPED or ip in _NAT64):
        ip = IPv4Address(int(ip) & 0xFFFF_FFFF)
    if isinstance(ip, IPv4Address):
        return _is_in(ip, _PUBLIC_V4) or not _is_in(ip, _INNER_V4)
    return _is_in(ip, _PUBLIC_V6) or (ip in _UNICAST_V6 and not _is_in(ip, _INNER_V6))


def _is_in(ip: IPv4Address | IPv6Address, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    return any(ip in network for network in networks)
