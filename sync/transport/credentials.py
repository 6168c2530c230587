"""What proves who we are. Values live here and on the wire, nowhere between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Credentials(Protocol):
    """Gives the value of the Authorization header, asked anew before every attempt.

    It is asked before the attempt takes its place in the host's queue, so it may send requests itself
    (with another client) to fetch a fresh token.
    """

    async def authorization(self) -> str:
        """The header's value, such as ``"Bearer ..."``."""

    async def renewed(self, rejected: str) -> bool:
        """Whether there is now another value than this one, which was answered with 401."""


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token that never changes.

    Attributes:
        scheme: The word before the token, such as ``UserToken``.
        token: The secret.
    """

    scheme: str
    token: str = field(repr=False)

    async def authorization(self) -> str:
        """The scheme and the token."""
        return f"{self.scheme} {self.token}"

    async def renewed(self, rejected: str) -> bool:  # noqa: ARG002
        """Never."""
        return False
