"""Which addresses are fetched from: public ones. What counts is what is connected to, whatever its name says."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

IP = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")
_INSIDE = tuple(map(IPv4Network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")))
"""Protocol assignments (RFC 6890), which older Pythons take for public, relays of 6to4, and Azure's host."""
_KINDS = (
    ("unspecified", lambda ip: ip.is_unspecified),
    ("loopback", lambda ip: ip.is_loopback),
    ("link-local", lambda ip: ip.is_link_local),
    ("multicast", lambda ip: ip.is_multicast),
    ("private", lambda ip: ip.is_private),
    ("reserved", lambda ip: ip.is_reserved),
    ("site-local", lambda ip: isinstance(ip, IPv6Address) and ip.is_site_local),
    ("of a network's own", lambda ip: isinstance(ip, IPv4Address) and any(ip in each for each in _INSIDE)),
    ("not public", lambda ip: not ip.is_global),
)
"""The first one that fits says why."""


def refusal(address: str) -> str:
    """Why nothing is fetched from an IP address; empty for a public one."""
    try:
        ip = ip_address(address)
    except ValueError:
        return "it cannot be read"
    return next((why for each in _meant(ip) if (why := _kind(each))), "")


def _kind(ip: IP) -> str:
    return next((name for name, fits in _KINDS if fits(ip)), "")


def _meant(ip: IP) -> list[IP]:
    """The address, and those of IPv4 that it stands for; of those it counts what they are."""
    if isinstance(ip, IPv4Address):
        return [ip]
    if ip.ipv4_mapped:
        return [ip.ipv4_mapped]
    if ip in _NAT64:
        return [IPv4Address(int(ip) & 0xFFFFFFFF)]
    found: list[IP] = [ip]
    if ip.sixtofour:
        found.append(ip.sixtofour)
    if ip.teredo:
        found += ip.teredo
    return found


class Guard:
    """Makes the sockets of aiohttp's connector: none to an address that is refused.

    It is asked with each address that is about to be connected to, so neither a name that resolves otherwise the
    second time nor a redirect gets past it.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow = allow_private
        self.refused = ""
        """The last address that was refused, and why, as aiohttp wraps what is raised here; may be emptied."""

    def __call__(self, info: Any) -> socket.socket:
        """A socket for what ``getaddrinfo`` found. Raises OSError for an address that is refused."""
        family, kind, protocol, _, place = info
        address = str(place[0])
        if not self._allow and (why := refusal(address)):
            self.refused = f"{address} is no public address ({why})"
            raise OSError(self.refused)
        return socket.socket(family, kind, protocol)
