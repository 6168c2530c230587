"""Which addresses nightshift is willing to connect to."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from sync.errors import AddressRefused
from sync.transport.policy import AddressPolicy, SocketRefused, not_public


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("100.64.0.1", "CGNAT"),
        ("0.0.0.0", "unspecified"),  # noqa: S104  (nothing is bound)
        ("0.1.2.3", "reserved"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("192.0.0.170", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "reserved"),
        ("fd00::1", "private"),
        ("fe80::1%eth0", "link-local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("2001::1", "reserved"),
        ("64:ff9b:1::1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("2002:a00:1::", "private"),
        ("64:ff9b::169.254.169.254", "link-local"),
    ],
)
def test_addresses_inside_are_refused(address, reason):
    """Every kind of address that is not of the open internet is refused with its kind as the reason."""
    assert reason in (not_public(address) or "")


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2600:1f18::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_of_the_open_internet_are_fine(address):
    """A global unicast address is connected to, also through a translator."""
    assert not_public(address) is None


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_private(ip):
    """The policy's own table never allows what the standard library knows to be special."""
    if not_public(str(ip)) is None:
        # The library counts mapped and translators' addresses differently, and from version to version.
        translators = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "2002::/16")]
        translated = ip.version == 6 and (ip.ipv4_mapped or any(ip in network for network in translators))
        assert translated or (ip.is_global and not ip.is_multicast)


@given(st.ip_addresses(v=4))
def test_wrapping_changes_nothing(ip):
    """An IPv4 address inside an IPv6 address is judged as if it stood alone."""
    inner = int(ip)
    wrapped = [(0xFFFF << 32) | inner, (0x2002 << 112) | (inner << 80), (0x64FF9B << 96) | inner]
    verdicts = {not_public(str(ipaddress.IPv6Address(number))) is None for number in wrapped}
    assert verdicts == {not_public(str(ip)) is None}


def info(address: str) -> tuple:
    """Spell a resolved address as the resolver does."""
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 443))


def test_the_socket_is_where_it_is_judged():
    """No socket is made for a private address, and an open one for a public address."""
    with pytest.raises(SocketRefused):
        AddressPolicy().open_socket(info("10.0.0.1"))
    AddressPolicy().open_socket(info("8.8.8.8")).close()


def test_private_addresses_can_be_allowed():
    """With the setting on, private hosts and plain http are fine."""
    policy = AddressPolicy(allow_private=True)
    policy.open_socket(info("10.0.0.1")).close()
    policy.check(URL("http://10.0.0.1/blob"))


@pytest.mark.parametrize("scheme", ["http", "ftp", "file", "javascript"])
def test_only_https_is_spoken(scheme):
    """Any other scheme than https is refused; the message names host and setting, never the signature."""
    policy = AddressPolicy(allow_private=False, setting="vendor.allow_it")
    with pytest.raises(AddressRefused) as caught:
        policy.check(URL(f"{scheme}://blobs.example/night?signature=geheim"))
    assert "blobs.example" in str(caught.value)
    assert "vendor.allow_it" in str(caught.value)
    assert "geheim" not in str(caught.value)
