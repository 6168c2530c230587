"""One user's stay: the first to come starts the server, the last to go stops it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import FileIO

from sync.storage.embedded.account import Account, open_to
from sync.storage.embedded.cluster import Cluster
from sync.storage.embedded.files import explained
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.locks import try_exclusively, try_shared
from sync.storage.embedded.patience import Patience


@dataclass
class Stay:
    """One use of the server, from enter to leave. All methods block.

    Attributes:
        layout: The embedded database's folder.
        settings: Server settings on top of ours.
        abort: Set by another thread to end ``enter`` early.
    """

    layout: Layout
    settings: Mapping[str, str]
    abort: threading.Event = field(default_factory=threading.Event)
    _membership: FileIO | None = None

    def enter(self) -> str:
        """Become a user of the server, starting it if need be, and return its DSN."""
        with explained(self.layout.root):
            cluster = self._cluster()
            open_to(cluster.account, self.layout.root)
            with self._managing(self.abort):
                self._membership = try_shared(self.layout.users_lock)
                try:
                    return cluster.serve(self.abort)
                except BaseException:
                    self._go(cluster)
                    raise

    def leave(self) -> None:
        """Stop using the server; the last user stops it. Without a successful ``enter``, nothing happens."""
        if self._membership is None:
            return
        with explained(self.layout.root), self._managing():
            self._go(self._cluster())

    def stop_if_unused(self) -> bool:
        """Stop the server unless somebody uses it; tell whether nobody does."""
        with explained(self.layout.root), self._managing():
            return self._stop_if_last(self._cluster())

    def _cluster(self) -> Cluster:
        return Cluster(self.layout, Account.of_server(self.layout), self.settings)

    def _go(self, cluster: Cluster) -> None:
        if self._membership is not None:
            self._membership.close()
            self._membership = None
        self._stop_if_last(cluster)

    def _stop_if_last(self, cluster: Cluster) -> bool:
        last = try_exclusively(self.layout.users_lock)
        if last is None:
            return False
        with last:
            cluster.stop()
        return True

    @contextlib.contextmanager
    def _managing(self, abort: threading.Event | None = None) -> Iterator[None]:
        what = f"another nightshift starts or stops the server in {self.layout.root}"
        patience = Patience(what, abort)
        while (lock := try_exclusively(self.layout.manage_lock)) is None:
            patience.pause()
        with lock:
            yield
