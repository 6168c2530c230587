"""What the daemon answers when it is asked how it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sync.errors import StorageUnavailable
from sync.model import Survey
from sync.observe.health import Look, Readiness, Surveyor, judge
from sync.observe.metrics import Metrics


@dataclass(slots=True)
class Pages:
    """Looks at the warehouse when asked, through whatever connections there are right now.

    Attributes:
        counted: What was counted in this process.
        accounts: The configured accounts of each source.
        fresh_since: The oldest success of an account of each source that still counts, at an instant.
        started_at: When the process began.
        is_away: Whether those who work find the warehouse away.
        survey: Looks at the warehouse; None while there are no connections to it.
    """

    counted: Metrics
    accounts: Mapping[str, Sequence[str]]
    fresh_since: Callable[[datetime], Mapping[str, datetime]]
    started_at: datetime
    is_away: Callable[[], bool]
    survey: Callable[[], Awaitable[Survey]] | None = None
    _surveyor: Surveyor = field(init=False)

    def __post_init__(self) -> None:
        self._surveyor = Surveyor(self._look)

    async def aclose(self) -> None:
        """End a look that is under way."""
        await self._surveyor.aclose()

    def health(self) -> Mapping[str, Any]:
        """Which nightshift this is, and for how long: that it answers at all is the point."""
        uptime = datetime.now(UTC) - self.started_at
        return {"version": version("nightshift"), "uptime_seconds": round(uptime.total_seconds(), 1)}

    async def readiness(self) -> Readiness:
        """Whether the warehouse is there and every account is up to date."""
        look, now = await self._seen(), datetime.now(UTC)
        return judge(
            look.survey,
            look.error,
            self.accounts,
            self.fresh_since(now),
            started_at=self.started_at,
            now=now,
        )

    async def metrics(self) -> tuple[bytes, str]:
        """What was counted here, and what the warehouse says."""
        look, now = await self._seen(), datetime.now(UTC)
        for source, since in self.fresh_since(now).items():
            self.counted.fresh_within(source, (now - since).total_seconds())
        self.counted.show(look.survey)
        return self.counted.content()

    async def _seen(self) -> Look:
        """What the warehouse says; nothing while those who work are not served, whatever a look says."""
        look = await self._surveyor.look()
        if look.survey is not None and self.is_away():
            return Look(None, "it does not serve the work; the log says why")
        return look

    async def _look(self) -> Survey:
        if self.survey is None:
            raise StorageUnavailable("it could not be reached yet; the log has the reason")
        return await self.survey()
