"""Units that ask nothing: what a plan writes down between its questions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sync.errors import SourceContractError
from sync.model import Batch, StreamKey


@dataclass(frozen=True, slots=True)
class Note:
    """Writes something down that no answer is needed for."""

    label: str
    batch: Batch

    @property
    def stream(self) -> StreamKey:
        """The batch's."""
        return self.batch.stream

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """The batch."""
        yield self.batch


@dataclass(frozen=True, slots=True)
class Complaint:
    """Ends a run with an error that did not keep the rest of it from being done."""

    stream: StreamKey
    message: str
    label: str = "what could not be verified"

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Nothing.

        Raises:
            SourceContractError: Always, with the message.
        """
        yield Batch(self.stream)
        raise SourceContractError(self.message)
