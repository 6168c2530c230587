"""What goes wrong in real life: once, and to one answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Final


class Disorder(StrEnum):
    """What becomes of a page's items.

    ``SHUFFLED``: they come in an order that nobody asked for. ``DOUBLED``: each comes twice, and whatever the
    envelope says of their number stays.
    """

    SHUFFLED = "shuffled"
    DOUBLED = "doubled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to one answer. Without ``status``, ``body`` or ``location`` the true answer is spoilt.

    Attributes:
        status: Answer this status instead of the true answer.
        retry_after: Seconds, an instant (written as an HTTP-date), or any text, for the Retry-After header.
        body: Answer this body instead of the true one.
        content_type: Say that the body is of this type.
        location: Redirect to this address, with ``status`` or 302.
        stall: Seconds to wait before anything is answered.
        cut_after: Close the connection after so many bytes of the body; a shorter body arrives whole.
        drip: Send the body in small pieces and wait so many seconds after each.
        drip_bytes: How small the pieces are.
        disorder: What becomes of the items, where the body is a JSON list or holds one as ``items``.
        reset: Reset the connection instead of answering.
        clock_skew: Seconds by which the Date header is ahead of the service's clock.
        more_headers: Further headers, such as those of a rate limiter.
    """

    status: int | None = None
    retry_after: float | datetime | str | None = None
    body: bytes | None = None
    content_type: str | None = None
    location: str | None = None
    stall: float = 0.0
    cut_after: int | None = None
    drip: float | None = None
    drip_bytes: int = 1024
    disorder: Disorder | None = None
    reset: bool = False
    clock_skew: float = 0.0
    more_headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def replaces_answer(self) -> bool:
        """Whether the true answer is not even computed."""
        return self.status is not None or self.body is not None or self.location is not None

    def headers(self) -> dict[str, str]:
        """The headers that the fault adds."""
        headers = dict(self.more_headers)
        if self.location is not None:
            headers["Location"] = self.location
        match self.retry_after:
            case None:
                pass
            case datetime() as instant:
                headers["Retry-After"] = format_datetime(instant.astimezone(UTC), usegmt=True)
            case str() as text:
                headers["Retry-After"] = text
            case seconds:
                headers["Retry-After"] = f"{seconds:g}"
        return headers


def phrase(status: int) -> str:
    """What a status is called; those that nobody registered have a name as well."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


MALFORMED_JSON: Final = Fault(body=b'[{"id": 1431835725, "start_timestamp": 1431835725.618702, "time_val')
"""A body that ends in the middle of a word, in an answer that is complete for HTTP."""

HTML_PAGE: Final = Fault(
    status=200,
    body=b"<!DOCTYPE html>\n<html><head><title>Welcome</title></head><body>Please log in.</body></html>\n",
    content_type="text/html",
)
"""What a captive portal answers to everything."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault and the answers that it waits for.

    Attributes:
        fault: What will happen.
        host: Only to answers of this host; None: of all.
        path: Only to answers whose path contains this text.
    """

    fault: Fault
    host: str | None = None
    path: str = ""

    def concerns(self, host: str, path: str) -> bool:
        """Whether the fault waits for such a request."""
        return self.host in (None, host) and self.path in path


class FaultPlan:
    """The faults that have not happened yet; the first one that concerns a request happens to it."""

    def __init__(self) -> None:
        self._planned: deque[PlannedFault] = deque()

    def __len__(self) -> int:
        return len(self._planned)

    def add(self, fault: Fault, *, times: int = 1, host: str | None = None, path: str = "") -> None:
        """Plan a fault for the next ``times`` answers of a host, or of those whose path contains a text."""
        self._planned.extend([PlannedFault(fault, host, path)] * times)

    def take(self, host: str, path: str) -> Fault | None:
        """The fault that happens to this request; it is then done."""
        for position, planned in enumerate(self._planned):
            if planned.concerns(host, path):
                del self._planned[position]
                return planned.fault
        return None

    def clear(self) -> None:
        """Nothing more goes wrong."""
        self._planned.clear()
