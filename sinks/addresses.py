"""Which network addresses a webhook may be posted to.

Whoever configures a webhook names a host; whoever owns that host's DNS decides where the request really
goes. Both must not be able to point the job at its own network. Ranges are those of IANA's special-purpose
registries; they are listed here, because the standard library's `is_private` differs between versions.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Literal

AddressKind = Literal["public", "private", "forbidden"]

Resolve = Callable[[str, int], Sequence[str]]
"""Host and port to numeric addresses; raises OSError or UnicodeError when the name has none."""

_METADATA = {
    ipaddress.ip_address(address)
    for address in (
        "100.100.100.200",  # Alibaba Cloud; the others' IPv4 ones are link-local
        "168.63.129.16",  # Azure's host, though the address looks public
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
}
_PRIVATE_V4 = [
    ipaddress.IPv4Network(network)
    for network in ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]
_FORBIDDEN_V4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
]
_LOOPBACK_V6 = ipaddress.IPv6Address("::1")
_UNIQUE_LOCAL_V6 = ipaddress.IPv6Network("fc00::/7")
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_FORBIDDEN_GLOBAL_V6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other assignments that may carry an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries an IPv4 address
        "3fff::/20",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, which bounds its own wait; addresses in the order to try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def address_kind(address: str) -> AddressKind:
    """Whether a numeric address is the internet's, our own network's (loopback included), or nobody's.

    `forbidden` are those that no webhook may reach under any setting: link-local and cloud metadata,
    multicast, unspecified, reserved, and IPv6 forms of IPv4 addresses. What is no address is forbidden.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "forbidden"
    if ip in _METADATA:
        return "forbidden"
    return _kind_v4(ip) if isinstance(ip, ipaddress.IPv4Address) else _kind_v6(ip)


def _kind_v4(ip: ipaddress.IPv4Address) -> AddressKind:
    if any(ip in network for network in _FORBIDDEN_V4):
        return "forbidden"
    return "private" if any(ip in network for network in _PRIVATE_V4) else "public"


def _kind_v6(ip: ipaddress.IPv6Address) -> AddressKind:
    if ip == _LOOPBACK_V6 or ip in _UNIQUE_LOCAL_V6:
        return "private"
    if ip in _NAT64:
        # The only way to an IPv4 host from a network without IPv4; judged by what it leads to.
        inner = address_kind(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
        return "public" if inner == "public" else "forbidden"
    if ip not in _GLOBAL_V6 or any(ip in network for network in _FORBIDDEN_GLOBAL_V6):
        return "forbidden"
    return "public"
