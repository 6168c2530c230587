"""What the Beddit documents leave open, as switches.

A ``Behaviour`` says how the emulated service *is*: one switch for every question that the documents do not
answer. The defaults are the most likely truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

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
