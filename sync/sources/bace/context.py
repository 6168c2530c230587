"""What all units of one BACE account share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sync.model import StreamKey
from sync.ports import Warehouse
from sync.sources.bace.client import BaceClient
from sync.sources.bace.settings import BaceSettings

STREAM = "sessions"


@dataclass(frozen=True, slots=True)
class AccountContext:
    """What all units of one account share.

    Attributes:
        source: The vendor's short name.
        account: The account's configured name.
        client: Asks with the account's permissions.
        settings: The source's settings.
        warehouse: What is stored already.
        clock: Unix seconds by our own clock.
    """

    source: str
    account: str
    client: BaceClient
    settings: BaceSettings
    warehouse: Warehouse
    clock: Callable[[], float] = time.time

    @property
    def stream(self) -> StreamKey:
        """The account's stream of sessions."""
        return StreamKey(self.source, self.account, STREAM)

    @property
    def other_accounts(self) -> tuple[str, ...]:
        """The other accounts that are configured."""
        return tuple(name for name in self.settings.accounts if name != self.account)
