"""One data session beside what is stored of it, and mending what differs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from sync.errors import RequestRefused, SourceContractError, SourceUnavailable
from sync.model import Batch, Difference, Kind, StreamKey
from sync.sources.bace.comparison import ALL_TIME
from sync.sources.bace.data import Failure, SessionData
from sync.sources.bace.proof import Rounding, unproven
from sync.sources.bace.spans import Span, intersection, union
from sync.sources.bace.verification.listing import stream_of
from sync.sources.bace.verification.narrowing import Mismatch, Narrowing
from sync.sources.bace.walk import Part, interval
from sync.transport import TokenRejected

_LOST: Final = "the source serves fewer datapoints than it once did; those that were stored stay"


@dataclass(slots=True)
class ComparedSession(SessionData):
    """The data of one session, where it is suspected to differ.

    Attributes:
        rounding: How the source rounds averages; learns.
        days: Where to look.
        archived: The source may have put its data away: that it serves nothing is no difference.
        repair: Whether to read again what differs.
    """

    rounding: Rounding = field(default_factory=Rounding)
    days: tuple[Span, ...] = ()
    archived: bool = False
    repair: bool = False

    @property
    def stream(self) -> StreamKey:
        """The verification's."""
        return stream_of(self.context)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The difference, if there is one; then what a repair reads again.

        Raises:
            AuthenticationError: The account cannot sign in.
            RetryableError: The vendor, or the warehouse, cannot be reached.
        """
        try:
            async with aclosing(self._differences()) as batches:
                async for batch in batches:
                    yield replace(batch, stream=self.stream)
        except TokenRejected as error:
            self.failure = Failure(str(error), is_denied=True)
        except (RequestRefused, SourceContractError, SourceUnavailable) as error:
            await self.context.client.server_time()  # the vendor is there: it is this session's trouble
            self.failure = Failure(str(error))

    async def _differences(self) -> AsyncGenerator[Batch, None]:
        parts = await self._parts()
        found = [(part, await self._mismatches(part)) for part in parts]
        everything = [mismatch for _, mismatches in found for mismatch in mismatches]
        lost = bool(everything) and all(mismatch.lost for mismatch in everything)
        if not everything or (lost and self._may_be_lost):
            return
        key = f"{self.due.id_data_session}/datapoints"
        yield Batch(self.stream, differences=(_difference(key, everything, self.due.started_at),))
        if not self.repair:
            return
        held: Batch | None = None
        for part, mismatches in found:
            spans = intersection(union(one.span for one in mismatches), self._claims(part))
            if not spans:
                continue
            async with aclosing(self._walk(part, spans, len(parts), doubted=spans)) as batches:
                async for batch in batches:
                    if held is not None:
                        yield held
                    held = _recounted(batch)
        if held is not None:  # with the last rows the difference is over
            yield held if lost else replace(held, mended=(key,))
        verdict = self._note(await self._verdict() if not lost else unproven(_LOST, 0, self._now))
        yield replace(verdict, mended=(key,)) if lost else verdict

    async def _mismatches(self, part: Part) -> Sequence[Mismatch]:
        narrowing = Narrowing(self.context, self.known, self.rounding, part, self._claims(part))
        for day in self.days:
            await narrowing.look(day)
        return narrowing.found

    @property
    def _is_proved(self) -> bool:
        return self.due.final and self.due.is_as_checked and self.due.checked_status == "complete"

    @property
    def _may_be_lost(self) -> bool:
        """Whether it is known, or to be expected, that the source serves less than is stored."""
        return self.archived or (self.due.is_as_checked and self.due.checked_status == "incomplete")

    def _claims(self, part: Part) -> tuple[Span, ...]:
        """The time that is thought to be stored as the source has it: all of it, once that was proved."""
        return (ALL_TIME,) if self._is_proved else part.covered


def _recounted(batch: Batch) -> Batch:
    return replace(batch, stretches=tuple(replace(one, recount=True) for one in batch.stretches))


def _difference(key: str, found: Sequence[Mismatch], began: datetime) -> Difference:
    """What a person reads of mismatches."""
    kind: Kind = "content"
    if all(one.lost for one in found):
        kind = "vanished"
    elif all(one.ours == 0 for one in found):
        kind = "missing"
    first = interval(union(one.span for one in found)[0])
    exact = next((one for one in found if one.instants is not None), found[0])
    theirs, ours = sum(one.theirs for one in found), sum(one.ours for one in found)
    text = f"from {first.start:%Y-%m-%d %H:%M:%S} UTC on "
    if theirs != ours:
        text += f"the source has {theirs:,} datapoints where {ours:,} are stored"
    else:
        text += f"datapoints are not as stored, at {exact.instants or 1:,} of the instants compared"
    if len(found) > 1:
        text += f", in {len(found):,} stretches"
    return Difference(key, kind, text, began)
