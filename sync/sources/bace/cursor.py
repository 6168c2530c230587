"""The cursor of an account's data sessions, and what was learned about how they can be listed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Up to where an account's sessions are known.

    Attributes:
        changed_since: Unix seconds by the vendor's clock; every change before has been read.
        listed_at: When all sessions were last listed, proven whole, by our own clock.
        tried_at: When a listing of all sessions last came to its end, whole or not, likewise. None asks for
            one.
        mismatch: How far the vendor's count of sessions was off then; nothing to worry about again.
    """

    changed_since: float
    listed_at: float | None = None
    tried_at: float | None = None
    mismatch: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the account's sessions were never listed to the end."""
        return self.listed_at is None and self.tried_at is None

    @classmethod
    def load(cls, stored: Mapping[str, Any] | None) -> Self | None:
        """The cursor as the warehouse has it."""
        return None if stored is None else cls(**stored)

    def dump(self) -> dict[str, Any]:
        """The cursor as the warehouse keeps it."""
        return asdict(self)


SORT = "sessions.sort"
CHANGES = "sessions.updated_at"
BY_ID = "sessions.id_data_session"
EXPAND = "sessions.expand"

_FORGOTTEN_AFTER = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Hints:
    """What the vendor was seen not to support, and why. Nothing that is right depends on them.

    Attributes:
        sort: Why the newest sessions cannot be had first.
        changes: Why sessions cannot be had by their last change.
        by_id: Why several sessions cannot be had by their ids.
        expand: Why relations cannot be had.
    """

    sort: str | None = None
    changes: str | None = None
    by_id: str | None = None
    expand: str | None = None

    @classmethod
    def load(cls, knowledge: Mapping[str, Any], now: float) -> Self:
        """The hints as the warehouse has them; what is a week old is worth another try."""

        def reason(name: str) -> str | None:
            match knowledge.get(name):
                case {"unsupported": str(why), "since": float() | int() as since} if (
                    now - since < _FORGOTTEN_AFTER
                ):
                    return why
            return None

        return cls(reason(SORT), reason(CHANGES), reason(BY_ID), reason(EXPAND))


def unsupported(reason: str, now: float) -> dict[str, Any]:
    """What is learned when something is refused, or not done as asked."""
    return {"unsupported": reason, "since": now}
