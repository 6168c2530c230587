"""Who is told what talking to a vendor is like: metrics, or nobody."""

from __future__ import annotations

from typing import Final, Protocol


class Meter(Protocol):
    """Is told of every request and what came of it. Neither hosts nor paths: there is no end of them."""

    def answered(self, status: int, seconds: float) -> None:
        """An answer of that HTTP status began, so long after its request."""

    def unanswered(self, error: str, seconds: float) -> None:
        """A request was given up after so long; ``error`` is the name of its class."""

    def retried(self, reason: str) -> None:
        """A request will be sent again; ``reason`` is the name of the error's class."""

    def received(self, count: int) -> None:
        """So many bytes of a body came, as they are on the wire."""


class _Unmetered:
    """Tells nobody."""

    def answered(self, status: int, seconds: float) -> None: ...

    def unanswered(self, error: str, seconds: float) -> None: ...

    def retried(self, reason: str) -> None: ...

    def received(self, count: int) -> None: ...


UNMETERED: Final[Meter] = _Unmetered()
"""For those whom nobody watches."""
