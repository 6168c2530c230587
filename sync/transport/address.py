"""Addresses: reading them, comparing their origins, and naming them without their secrets."""

from __future__ import annotations

import re

from yarl import URL

from sync.errors import AddressRefused

# What an address may consist of so that it can be sent letter for letter.
SENDABLE = re.compile(r"[!-~]+")

# A path is shown up to here; beyond it, it is not information any more.
SHOWN_PATH = 200


def parse(text: str) -> URL:
    """Read an address, keeping its spelling where that is possible: a signature covers it.

    Raises:
        AddressRefused: It is no http or https address, or carries a user name or password.
    """
    try:
        url = _spelled(text)
        usable = url.scheme in {"http", "https"} and bool(url.raw_host) and url.port is not None
        named_user = url.raw_user is not None or url.raw_password is not None
    except ValueError:
        usable = named_user = False
    # Outside of the handler: the parser's own error quotes the address.
    if not usable:
        raise AddressRefused("An address is not a complete http or https address; nothing was sent to it.")
    if named_user:
        raise AddressRefused(f"An address on {url.raw_host} carries a user name; nothing was sent to it.")
    return url


def join(base: URL, text: str) -> URL:
    """A path below the base address, or a whole address of the same origin.

    Raises:
        AddressRefused: The address is of another origin, where this client's token does not belong.
    """
    url = parse(str(base).rstrip("/") + text if text.startswith("/") else text)
    if origin(url) != origin(base):
        raise AddressRefused(
            f"An address on {host_of(url)} was to be asked as if it were {host_of(base)}; nothing was sent,"
            " because the account's token belongs to the configured host only."
        )
    return url


def follow(url: URL, location: str) -> URL:
    """Where a redirect leads, which may be written relative to where it was met.

    Raises:
        AddressRefused: As ``parse``.
    """
    try:
        target = str(url.join(_spelled(location)))
    except ValueError:
        target = ""
    return parse(target)


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port: what a token belongs to."""
    return url.scheme, (url.raw_host or "").lower(), url.port


def host_of(url: URL) -> str:
    """The host, with its port when that is not the usual one."""
    return url.host_port_subcomponent or ""


def place(method: str, url: URL) -> str:
    """How messages name a request: method, host and path, never a query, which may be signed."""
    return f"{method} {host_of(url)}{url.raw_path[:SHOWN_PATH]}"


def _spelled(text: str) -> URL:
    return URL(text, encoded=SENDABLE.fullmatch(text) is not None)
