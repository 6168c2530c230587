"""What both other loaders are told, and how they read the cloud: asked for ten days at a time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STEP: Final = 10 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to load.

    Attributes:
        address: The cloud.
        token: Its user's token.
        user: The user.
        dsn: The database, which is empty.
        first: Unix seconds of the first night's start,
        last: and of the last one's.
        samples: What becomes of raw signal: ``none``, one row a sample (``rows``), or a ``bytea`` a track.
        arrow: Whether dlt is given Arrow tables.
        folder: For files.
    """

    address: str
    token: str
    user: int
    dsn: str
    first: int
    last: int
    samples: str
    arrow: bool
    folder: str

    @property
    def headers(self) -> dict[str, str]:
        """Who asks."""
        return {"Authorization": f"UserToken {self.token}"}

    def questions(self) -> Iterator[str]:
        """The addresses to ask."""
        for start in range(self.first, self.last + 1, STEP):
            end = min(start + STEP - 1, self.last)
            yield (
                f"{self.address}/api/v1/user/{self.user}/session?start_timestamp={start}&end_timestamp={end}"
            )


def told() -> Job:
    """The job of this process."""
    return Job(**json.loads(sys.argv[1]))
