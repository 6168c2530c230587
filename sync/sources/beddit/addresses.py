"""Addresses of raw signal: credentials that expire, kept in memory for as long as they are fresh."""

from __future__ import annotations

from collections.abc import Mapping


class AddressBook:
    """The addresses that an account's last answers named. Never stored, never printed."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[int, str], str] = {}

    def note(self, session_id: int, addresses: Mapping[str, str]) -> None:
        """Remember what an answer said of a session."""
        for track, address in addresses.items():
            self._addresses[session_id, track] = address

    def take(self, session_id: int, track: str) -> str | None:
        """An address, once: whoever takes it uses it now or asks for a new one."""
        return self._addresses.pop((session_id, track), None)

    def clear(self) -> None:
        """Forget addresses that nobody took; they have probably expired."""
        self._addresses.clear()
