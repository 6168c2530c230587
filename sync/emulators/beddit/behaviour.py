"""What the Beddit documents leave open, as switches, and what goes wrong in real life, as faults.

A ``Behaviour`` says how the emulated service *is*: one switch for every question that the documents do not
answer. A ``Fault`` says what happens *once*. The defaults of both are the most likely truth.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from typing import Final, Literal

Host = Literal["api", "blob"]


class Order(StrEnum):
    """How an answer's sessions are ordered."""

    UPDATED = "updated"
    START = "start"
    SHUFFLED = "shuffled"


class Limit(StrEnum):
    """What becomes of the undocumented parameter ``limit``."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


class RangeBy(StrEnum):
    """Which sessions belong to a range of start_timestamp and end_timestamp."""

    START = "start"
    END = "end"
    OVERLAP = "overlap"
    CONTAINMENT = "containment"


class Overload(StrEnum):
    """How the service gives up on an answer that is too big."""

    GATEWAY_TIMEOUT = "504"
    BAD_GATEWAY = "502"
    CUT = "cut"


class BlobForm(StrEnum):
    """What is wrong with the blobs, if anything.

    ``GZIP`` is an object that was stored compressed and says so in Content-Encoding; ``GZIP_UNLABELLED``
    is one that does not say so.
    """

    WHOLE = "whole"
    HALF = "half"
    DOUBLED = "doubled"
    ODD = "odd"
    EMPTY = "empty"
    GZIP = "gzip"
    GZIP_UNLABELLED = "gzip-unlabelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the emulated service is. Each attribute names the question that it answers.

    Attributes:
        absolute_times: Track times are Unix seconds, as the document says, not offsets from the session's
            start, as its example and a real night say.
        inclusive_updated_after: A session whose ``updated`` equals ``updated_after`` is in the answer.
        order: The order of answers to ``updated_after``.
        range_order: The order of answers to a range.
        limit: Whether ``limit`` works.
        limit_ceiling: A larger ``limit`` is lowered to this, silently.
        answer_ceiling: No answer has more sessions than this, whatever was asked for, silently.
        range_by: What it means that a session is in a range.
        range_includes_start: Whether the range includes its first instant.
        range_includes_end: Whether the range includes its last instant.
        parameters_required: A request without ``updated_after`` or a range is refused, as the document
            says; otherwise it means all sessions, as it does for the ``sleep`` resource.
        group_access: A valid token reads every user's sessions, as members of one group can.
        withdrawn: The API's version is withdrawn: everything answers 410.
        overload_above: An answer with more sessions than this is too much for the service. None: never.
        overload_seconds: How long the service tries before it gives up; about 60 in real life.
        overload: How it gives up.
        data_urls: Sampled tracks come with their addresses.
        url_lifetime: Seconds for which an address is valid.
        one_authorization: The object store refuses a signed address together with an Authorization header.
        blob_form: What is wrong with blobs.
        non_finite: Some values are NaN, Infinity and -Infinity, as Python's JSON encoder writes them.
        gzip: Answers are compressed for those who ask for it.
    """

    absolute_times: bool = False
    inclusive_updated_after: bool = False
    order: Order = Order.UPDATED
    range_order: Order = Order.START
    limit: Limit = Limit.HONOURED
    limit_ceiling: int | None = None
    answer_ceiling: int | None = None
    range_by: RangeBy = RangeBy.START
    range_includes_start: bool = True
    range_includes_end: bool = True
    parameters_required: bool = True
    group_access: bool = False
    withdrawn: bool = False
    overload_above: int | None = None
    overload_seconds: float = 60.0
    overload: Overload = Overload.GATEWAY_TIMEOUT
    data_urls: bool = True
    url_lifetime: float = 3600.0
    one_authorization: bool = True
    blob_form: BlobForm = BlobForm.WHOLE
    non_finite: bool = False
    gzip: bool = False

    def accepts_update(self, updated: float, updated_after: float) -> bool:
        """Whether a session that was put at ``updated`` belongs to the answer."""
        return updated > updated_after or (self.inclusive_updated_after and updated == updated_after)

    def accepts_range(self, start: float, end: float, first: float, last: float) -> bool:
        """Whether a session from ``start`` to ``end`` belongs to the range from ``first`` to ``last``."""
        match self.range_by:
            case RangeBy.START:
                return self._from(start, first) and self._until(start, last)
            case RangeBy.END:
                return self._from(end, first) and self._until(end, last)
            case RangeBy.OVERLAP:
                return self._from(end, first) and self._until(start, last)
            case RangeBy.CONTAINMENT:
                return self._from(start, first) and self._until(end, last)

    def _from(self, instant: float, first: float) -> bool:
        return instant > first or (self.range_includes_start and instant == first)

    def _until(self, instant: float, last: float) -> bool:
        return instant < last or (self.range_includes_end and instant == last)


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
        reset: Reset the connection instead of answering.
        clock_skew: Seconds by which the Date header is ahead of the service's clock.
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
    reset: bool = False
    clock_skew: float = 0.0

    @property
    def replaces_answer(self) -> bool:
        """Whether the true answer is not even computed."""
        return self.status is not None or self.body is not None or self.location is not None

    def headers(self) -> dict[str, str]:
        """The headers that the fault adds."""
        headers = {}
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
        host: Only to answers of this host; None: of both.
        path: Only to answers whose path contains this text.
    """

    fault: Fault
    host: Host | None = None
    path: str = ""

    def concerns(self, host: Host, path: str) -> bool:
        """Whether the fault waits for such a request."""
        return self.host in (None, host) and self.path in path


class FaultPlan:
    """The faults that have not happened yet; the first one that concerns a request happens to it."""

    def __init__(self) -> None:
        self._planned: deque[PlannedFault] = deque()

    def __len__(self) -> int:
        return len(self._planned)

    def add(self, fault: Fault, *, times: int = 1, host: Host | None = None, path: str = "") -> None:
        """Plan a fault for the next ``times`` answers of a host, or of those whose path contains a text."""
        self._planned.extend([PlannedFault(fault, host, path)] * times)

    def take(self, host: Host, path: str) -> Fault | None:
        """The fault that happens to this request; it is then done."""
        for position, planned in enumerate(self._planned):
            if planned.concerns(host, path):
                del self._planned[position]
                return planned.fault
        return None

    def clear(self) -> None:
        """Nothing more goes wrong."""
        self._planned.clear()
