"""The next item of a stream is made while the last one is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """A stream, one item ahead of whoever uses it: what an answer brings comes while another is stored."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._coming = asyncio.create_task(self._following())

    async def comes(self, within: float) -> bool:
        """Whether the next item, or the end, is there after at most so many seconds."""
        done, _ = await asyncio.wait({self._coming}, timeout=max(0.0, within))
        return bool(done)

    async def next(self) -> T | None:
        """The next item; None behind the last one."""
        await asyncio.wait({self._coming})
        item = self._coming.result()
        if item is not None:
            self._coming = asyncio.create_task(self._following())
        return item

    async def aclose(self) -> None:
        """End the stream."""
        self._coming.cancel()
        await asyncio.wait({self._coming})
        if not self._coming.cancelled():
            self._coming.exception()  # whoever stops early does not want to know
        await self._items.aclose()

    async def _following(self) -> T | None:
        return await anext(self._items, None)
