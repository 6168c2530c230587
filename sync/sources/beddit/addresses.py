"""Addresses of raw signal: credentials that expire, kept in memory for as long as they are fresh."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple


class Version(NamedTuple):
    """A version of a session: its stamp, and what tells contents of equal stamps apart."""

    updated: float | None
    digest: bytes


class AddressBook:
    """The addresses that an account's last answers named. Never stored, never printed.

    An address belongs to a version of a session: another version's samples are other samples.
    """

    def __init__(self) -> None:
        self._addresses: dict[tuple[int, str, Version], str] = {}
        self._renewals: dict[int, asyncio.Lock] = {}

    def note(self, session_id: int, version: Version, addresses: Mapping[str, str]) -> None:
        """Remember what an answer said of a version of a session."""
        for track, address in addresses.items():
            self._addresses[session_id, track, version] = address

    def has(self, session_id: int, track: str, version: Version) -> bool:
        """Whether an address is at hand."""
        return (session_id, track, version) in self._addresses

    def take(self, session_id: int, track: str, version: Version) -> str | None:
        """An address, once: whoever takes it uses it now or asks for a new one."""
        return self._addresses.pop((session_id, track, version), None)

    def renewing(self, session_id: int) -> asyncio.Lock:
        """Held by whoever lists a session again: one answer names the addresses of all its tracks."""
        return self._renewals.setdefault(session_id, asyncio.Lock())

    def clear(self) -> None:
        """Forget addresses that nobody took; they have probably expired."""
        self._addresses.clear()
        self._renewals.clear()
