"""Which addresses, handed out by a vendor, nightshift is willing to connect to.

Two looks are taken. The address as it is written must be https without a user name. What it leads to is
judged at the socket, on the very IP address that is about to be connected: a look at DNS beforehand would
miss addresses that are written as numbers, and answers that change between the look and the connection.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from yarl import URL

from sync.errors import AddressRefused
from sync.transport.address import host_of

# IANA's special-purpose registries, written out because the standard library's idea of them differs from
# release to release. The first match gives the reason.
SPECIAL = tuple(
    (ipaddress.ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/32", "an unspecified address"),
        ("0.0.0.0/8", "a reserved address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address inside a provider's network (CGNAT)"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a reserved address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a private address"),
        ("ff00::/8", "a multicast address"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "an address for documentation"),
        ("3fff::/20", "an address for documentation"),
    )
)

# IPv6 addresses of the open internet all lie in here; everything else is something special.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")

# Translators (NAT64) deliver to the IPv4 address in the last 32 bits.
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class SocketRefused(Exception):
    """Raised at the socket, where the host's name is not known any more.

    It is no OSError, so that nothing between the socket and the client takes it for a failed connection
    and goes on to the next address.
    """

    def __init__(self, policy: AddressPolicy, reason: str) -> None:
        super().__init__(reason)
        self._policy = policy
        self._reason = reason

    def explained(self, url: URL) -> AddressRefused:
        """The error for a person."""
        return self._policy.refusal(url, self._reason)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Judges addresses that a vendor handed out.

    Attributes:
        allow_private: Any IP address will do, and plain http too: for emulators and private clouds.
        setting: The configuration key of ``allow_private``, for messages.
    """

    allow_private: bool = False
    setting: str = "beddit.allow_private_blob_hosts"

    def check(self, url: URL) -> None:
        """Refuse an address for the way it is written.

        Raises:
            AddressRefused: It is not https.
        """
        if url.scheme != "https" and not (self.allow_private and url.scheme == "http"):
            raise self.refusal(url, f"the address begins with {url.scheme}: and not with https:")

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Make the socket for one resolved address; what ``TCPConnector(socket_factory=...)`` wants.

        Raises:
            SocketRefused: The address is none of the open internet.
        """
        family, kind, protocol, _, destination = info
        if not self.allow_private and (reason := not_public(destination[0])):
            raise SocketRefused(self, f"it leads to {reason}")
        return socket.socket(family=family, type=kind, proto=protocol)

    def refusal(self, url: URL, reason: str) -> AddressRefused:
        """The error for a person: which host, why, and which setting would allow it."""
        return AddressRefused(
            f"nightshift does not connect to {host_of(url)}, an address that a vendor handed out: {reason}."
            f" If that host is yours, set {self.setting} = true."
        )


def not_public(address: str) -> str | None:
    """Why an IP address is none of the open internet; None when it is one."""
    return _reason(ipaddress.ip_address(address))


def _reason(ip: IPv4Address | IPv6Address) -> str | None:
    if isinstance(ip, IPv6Address) and (inner := _embedded(ip)):
        reason = _reason(inner)
        return f"{reason} (inside of an IPv6 address)" if reason else None
    for network, reason in SPECIAL:
        if ip in network:
            return reason
    return None if isinstance(ip, IPv4Address) or ip in GLOBAL_UNICAST else "a reserved address"


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this IPv6 address ends up at."""
    return ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None)
