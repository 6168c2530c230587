"""What the BACE documents leave open, as switches.

A ``Behaviour`` says how the emulated service *is*: one switch for every question that the documents do not
answer. The defaults are the most likely truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HOUR: Final = 3600
DAY: Final = 86_400


class Refresh(StrEnum):
    """What the answer to a refresh says about the refresh token.

    ``ROTATED``: a new one, the old one is spent. ``SAME``: the old one again, still valid. ``KEPT`` and
    ``SPENT``: the answer names none, and the old one stays valid or does not. ``REFUSED``: the grant is
    not supported.
    """

    ROTATED = "rotated"
    SAME = "same"
    KEPT = "kept"
    SPENT = "spent"
    REFUSED = "refused"


class Sorting(StrEnum):
    """What becomes of the parameter ``sort``, where it names a sortable attribute."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    REFUSED = "refused"


class Excess(StrEnum):
    """What becomes of a request for more datasets than one request may have."""

    REFUSED = "400"
    TRUNCATED = "truncated"
    SERVED = "served"


class OddValues(StrEnum):
    """What is strange about the ``*_val`` fields of some rows.

    ``NULL`` and ``TEXT`` stand in min, max and avg; ``NUMERIC_STRING`` stands in all four.
    """

    NULL = "null"
    TEXT = "text"
    NUMERIC_STRING = "numeric-string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How the emulated service is. Each attribute names the question that it answers.

    Attributes:
        access_lifetime: Seconds for which an access token is valid.
        refresh_lifetime: Seconds for which a refresh token is valid.
        refresh: What a refresh does to the refresh token.
        oauth_errors: Errors of the token endpoint are ``{"error", "error_description"}``, not Yii2's.
        permission_text: The message of a 401 for a missing permission; None: the one for a bad token.
        forbidden: Endpoints (``"data-session"``, ``"data-downsampled"``, ...) that nobody may use.
        error_type: Error bodies name the exception's class, as the documents' examples do.
        session_pages: The default ``per-page`` of all collections but data-downsampled.
        session_pages_to: The largest ``per-page`` of these collections; more is lowered silently.
        data_pages: The default ``per-page`` of data-downsampled.
        data_pages_to: The largest ``per-page`` of data-downsampled.
        per_page_ignored: ``per-page`` does nothing.
        links_base: Links point to this address instead of to the host that was asked.
        total_error: So much is added to every ``totalCount``.
        session_sort: What ``sort`` does to data sessions.
        data_sort: What ``sort`` does to rows of data.
        ties_shuffled: Records that ``sort`` does not tell apart come in another order in every answer.
        unknown_sort_refused: ``sort`` with an unknown attribute is refused (422), not ignored.
        refused_attributes: Attributes that can neither be filtered nor sorted.
        unknown_filters_ignored: Unknown filter attributes are ignored, not refused.
        expand_person: ``expand=person`` works, though the documents' list lacks it.
        data_id_objects: ``expand=dataIds`` gives objects, not UUIDs.
        late_data_bumps: Late data changes ``updated_at``.
        count_error: So much is added to every ``datapoint_count``.
        count_frozen: ``datapoint_count`` does not follow data that comes after the end of ingestion.
        raw_up_to: Intervals up to so many seconds are answered with raw samples,
        minutes_up_to: longer ones up to this with minutes,
        hours_up_to: longer ones up to this with hours, and all others with days.
        thresholds_inclusive: An interval of exactly such a length is answered with the finer ones.
        session_span_decides: With ``filter[id_data_session]`` and no time the session's own length decides;
            otherwise such a request is answered with days.
        datasets_to: The most datasets in one request.
        datasets_beyond: What happens to requests for more.
        equal_instants_joined: Raw samples of one instant and dataset are one row that counts them.
        whole_seconds: Raw stamps are cut to whole seconds.
        buckets_per_dataset: A bucket counts all samples of its dataset, those of other sessions too.
        rows_shuffled: Without ``sort``, rows come in no order at all, not by dataset and time.
        archived_data: Archived sessions still have data rows.
        odd_values: What is strange about some rows' values.
        odd_every: One row in so many is strange.
        extra_fields: Rows have a field more than documented.
        gzip: Answers are compressed for those who ask for it.
        clock_skew: Seconds by which the Date header is ahead of the service's clock.
    """

    access_lifetime: int = DAY
    refresh_lifetime: int = 14 * DAY
    refresh: Refresh = Refresh.ROTATED
    oauth_errors: bool = False
    permission_text: str | None = "You are not allowed to perform this action."
    forbidden: frozenset[str] = frozenset()
    error_type: bool = True
    session_pages: int = 20
    session_pages_to: int = 50
    data_pages: int = 500
    data_pages_to: int = 1000
    per_page_ignored: bool = False
    links_base: str | None = None
    total_error: int = 0
    session_sort: Sorting = Sorting.HONOURED
    data_sort: Sorting = Sorting.HONOURED
    ties_shuffled: bool = False
    unknown_sort_refused: bool = False
    refused_attributes: frozenset[str] = frozenset()
    unknown_filters_ignored: bool = False
    expand_person: bool = False
    data_id_objects: bool = False
    late_data_bumps: bool = True
    count_error: int = 0
    count_frozen: bool = False
    raw_up_to: float = HOUR
    minutes_up_to: float = DAY
    hours_up_to: float = 28 * DAY
    thresholds_inclusive: bool = True
    session_span_decides: bool = True
    datasets_to: int = 100
    datasets_beyond: Excess = Excess.REFUSED
    equal_instants_joined: bool = False
    whole_seconds: bool = False
    buckets_per_dataset: bool = False
    rows_shuffled: bool = False
    archived_data: bool = True
    odd_values: OddValues | None = None
    odd_every: int = 10
    extra_fields: bool = False
    gzip: bool = False
    clock_skew: float = 0.0

    def resolution(self, length: float | None) -> int:
        """Seconds of the buckets for an interval of a length (None: an open one); 0 means raw samples."""
        if length is None:
            return DAY
        for bucket, up_to in ((0, self.raw_up_to), (60, self.minutes_up_to), (HOUR, self.hours_up_to)):
            if length < up_to or (self.thresholds_inclusive and length == up_to):
                return bucket
        return DAY
