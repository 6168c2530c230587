"""Where a session's data differs between source and warehouse, found from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sync.errors import AnswerTooLarge
from sync.sources.bace.context import AccountContext
from sync.sources.bace.decode import Readings, decode_data
from sync.sources.bace.knowledge import Known
from sync.sources.bace.proof import WIDTHS, Bucket, Buckets, buckets_of, differences, is_as_fine_as
from sync.sources.bace.query import Query
from sync.sources.bace.resolution import Ask
from sync.sources.bace.spans import SECOND, Span, floor, union
from sync.sources.bace.tables import STORED_BUCKETS
from sync.sources.bace.walk import LARGEST_PAGE, Part, data_query, interval

ALL_TIME: Final = Span(0, (1 << 32) * SECOND)
"""Device clocks err: what is in a session may lie anywhere."""

MOST_PAGES: Final = 50
"""Pages of buckets that a comparison reads at most."""

MOST_PARTS: Final = 64
"""Differing buckets beyond which no finer ones are asked for: reading them again costs less."""


async def differing(
    context: AccountContext, known: Known, part: Part, within: Span = ALL_TIME
) -> tuple[Span, ...]:
    """The stretches that have to be read again; none where both sides hold the same.

    Costs one request where they do. ``within`` is whole days.
    """
    return await _differing(context, known, part, within, WIDTHS)


async def _differing(
    context: AccountContext, known: Known, part: Part, within: Span, widths: Sequence[int]
) -> tuple[Span, ...]:
    width, *finer = widths
    readings = await read_part(context, known, part, within)
    if not is_as_fine_as(readings, width):
        return (within,)
    theirs = buckets_of(readings, width)
    wrong = differences(theirs, await stored_buckets(context, part, within, width), width)
    if not finer or width <= known.lengths.raw.reached or len(wrong) > MOST_PARTS:
        return union(wrong)
    found: list[Span] = []
    for span in wrong:
        found += await _differing(context, known, part, span, finer)
    return union(found)


async def read_part(context: AccountContext, known: Known, part: Part, within: Span) -> Readings:
    """The source's rows of a stretch, in whatever resolution it has for it."""
    query = data_query(part, Ask(within), sorts=known.sorts, per_page=LARGEST_PAGE)
    return await read_pages(context, query, within.start, f"session {part.session}")


async def read_pages(context: AccountContext, query: Query, start: int, whose: str) -> Readings:
    """All pages of a question for data.

    Args:
        context: The account.
        query: The question, for the first page.
        start: As of ``decode_data``.
        whose: What it is about, for a person.

    Raises:
        AnswerTooLarge: There are more than ``MOST_PAGES``.
    """
    items: list[object] = []
    for number in range(1, MOST_PAGES + 1):
        page = await context.client.data(replace(query, page=None if number == 1 else number))
        items += page.items
        if not page.has_next or number >= (page.page_count or number):
            return decode_data(items, start)
        if (page.page_count or 0) > MOST_PAGES:
            break
    raise AnswerTooLarge(
        f"the buckets of {whose} come on more than {MOST_PAGES} pages, so that it cannot be compared with"
        " the source"
    )


async def stored_buckets(context: AccountContext, part: Part, within: Span, width: int) -> Buckets:
    """What the warehouse holds of a stretch, in buckets of a width."""
    span = interval(Span(floor(within.start, width), within.end))
    rows = await context.warehouse.fetch(STORED_BUCKETS, part.session, span.start, span.end, width)
    return {
        (row["id_container_data_latest"], row["start"]): Bucket(
            row["count"], row["least"], row["most"], row["total"]
        )
        for row in rows
        if part.holds(row["id_container_data_latest"])
    }
