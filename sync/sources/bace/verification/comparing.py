"""One data session beside what is stored of it, and mending what differs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime

from sync.errors import RequestRefused, SourceContractError, SourceUnavailable
from sync.model import Batch, Difference, Kind, StreamKey
from sync.sources.bace.comparison import ALL_TIME
from sync.sources.bace.data import Failure, SessionData
from sync.sources.bace.proof import LOST, Rounding, unproven
from sync.sources.bace.spans import Span, intersection, union
from sync.sources.bace.verification.listing import stream_of
from sync.sources.bace.verification.narrowing import Mismatch, Narrowing
from sync.sources.bace.walk import Part, interval
from sync.transport import TokenRejected


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
        if not everything or self._is_known_loss(everything):
            return
        yield Batch(self.stream, differences=(self._difference(everything),))
        if not self.repair:
            return
        for part, mismatches in found:
            spans = intersection(union(one.span for one in mismatches), self._claims(part))
            if spans:
                walk = self._walk(part, spans, len(parts), doubted=spans, keeps=True)
                async with aclosing(walk) as batches:
                    async for batch in batches:
                        yield _recounted(batch)
        yield await self._outcome([mismatch for part in parts for mismatch in await self._mismatches(part)])

    async def _outcome(self, left: Sequence[Mismatch]) -> Batch:
        """What a repair came to: nothing is left, or what the source has lost, or what it did not mend."""
        lost = all(mismatch.lost for mismatch in left)
        if left and lost and self.due.final and not self.archived:
            verdict = unproven(LOST, 0, self._now)
        else:
            verdict = await self._verdict()
        is_news = bool(left) and not self._is_known_loss(left)
        return replace(
            self._note(verdict),
            differences=(self._difference(left),) if is_news else (),
            mended=(self._key,) if lost else (),
        )

    async def _mismatches(self, part: Part) -> Sequence[Mismatch]:
        narrowing = Narrowing(
            self.context, self.known, self.rounding, part, self._claims(part), thorough=self._may_be_lost
        )
        for day in self.days:
            await narrowing.look(day)
        return narrowing.found

    def _is_known_loss(self, found: Sequence[Mismatch]) -> bool:
        return self._may_be_lost and all(mismatch.lost for mismatch in found)

    @property
    def _key(self) -> str:
        return f"{self.due.id_data_session}/datapoints"

    def _difference(self, found: Sequence[Mismatch]) -> Difference:
        return _difference(self._key, found, self.due.started_at)

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
