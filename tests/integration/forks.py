"""``python -m sync`` without the imports: a program that has made them forks a process for each order.

What is forked is a process like any other, with arguments, environment, folder, files and an end of its own.
It does what ``python -m sync`` does; only that most of what it imports is there already, which saves it a
second of processor time.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from asyncio.base_subprocess import BaseSubprocessTransport
from asyncio.subprocess import DEVNULL, PIPE, Process, SubprocessStreamProtocol
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
IMPORTED: Final = (
    *(f"sync.commands.{name}" for name in ("archive", "bace", "check", "demo", "emulate", "forget")),
    *("sync.commands.retry", "sync.commands.verify", "sync.daemon"),
    *("alembic.command", "alembic.config", "sqlalchemy.ext.asyncio"),
)
"""Not ``sync.cli``, which looks at the terminal."""

READ_AT_THE_START: Final = ("PYTHON", "LANG", "LC_")
"""How variables begin that an interpreter reads when it starts, and not again."""

LIMIT: Final = 2**24
_NUMBER: Final = struct.Struct("i")
_LONGEST: Final = 2**17


# --- for tests --------------------------------------------------------------------------------------


async def start(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    stdin: int = PIPE,
    stdout: int = PIPE,
    stderr: int = PIPE,
) -> Process:
    """Start ``nightshift``, as ``asyncio.create_subprocess_exec`` would start ``python -m sync``."""
    if _read_at_the_start(env) != _read_at_the_start(os.environ) or not hasattr(os, "pidfd_open"):
        program = (sys.executable, "-m", "sync", *arguments)
        return await asyncio.create_subprocess_exec(
            *program, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr, limit=LIMIT
        )
    loop = asyncio.get_running_loop()
    protocol = SubprocessStreamProtocol(LIMIT, loop)
    connected = loop.create_future()
    transport = _Transport(
        loop, protocol, arguments, False, stdin, stdout, stderr, 0, connected, cwd=cwd, env=env
    )
    await connected
    return Process(transport, protocol, loop)


def _read_at_the_start(env: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in env.items() if k.startswith(READ_AT_THE_START) and k != "PYTHONPATH"}


class _Transport(BaseSubprocessTransport):
    """What asyncio has between a process and those who deal with it."""

    def _start(self, *, args: Any, stdin: int, stdout: int, stderr: int, **how: Any) -> None:
        order = {"arguments": args, "cwd": str(how["cwd"]), "env": dict(how["env"])}
        self._proc = process = _Forked(order, stdin, stdout, stderr)
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(process.report)
            self._process_exited(process.wait())

        loop.add_reader(process.report, ended)


class _Forked:
    """As much of a ``subprocess.Popen`` as asyncio asks for."""

    def __init__(self, order: Mapping[str, Any], stdin: int, stdout: int, stderr: int) -> None:
        self.returncode: int | None = None
        child_in, self.stdin = _pipe(stdin, "wb")
        child_out, self.stdout = _pipe(stdout, "rb")
        child_err, self.stderr = _pipe(stderr, "rb")
        self.report, reporting = os.pipe()
        files = (child_in, child_out, child_err, reporting)
        socket.send_fds(_program(), [json.dumps(order).encode()], files)
        for file in files:
            os.close(file)
        self.pid = self._told()

    def _told(self) -> int:
        told: int
        (told,) = _NUMBER.unpack(os.read(self.report, _NUMBER.size))
        return told

    def wait(self) -> int:
        """Wait for the exit code."""
        self.returncode = self._told()
        os.close(self.report)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, once it is known."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """As ``kill`` does."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def _pipe(wanted: int, mode: str) -> tuple[int, Any]:
    """The child's file, and our end of it where it is a pipe."""
    if wanted == DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None
    if wanted != PIPE:
        return os.dup(wanted), None
    read, write = os.pipe()
    child, ours = (read, write) if mode == "wb" else (write, read)
    return child, os.fdopen(ours, mode, buffering=0)


@cache
def _program() -> socket.socket:
    """Where orders are given."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - this very file
            [sys.executable, "-m", "tests.integration.forks", str(theirs.fileno())],
            cwd=ROOT,
            stdin=DEVNULL,
            stdout=DEVNULL,
            pass_fds=(theirs.fileno(),),
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- the program that forks -------------------------------------------------------------------------


def serve(orders: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    """Fork a process for each order; what is forked returns from here with its order and its files."""
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is orders:
                    message, files, _, _ = socket.recv_fds(orders, _LONGEST, 4)
                    if not message:
                        sys.exit()
                    pid = os.fork()
                    if not pid:
                        return json.loads(message), files
                    *others, report = files
                    for file in others:
                        os.close(file)
                    os.write(report, _NUMBER.pack(pid))
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))
                else:
                    pid, report = key.data
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    os.write(report, _NUMBER.pack(code))
                    os.close(report)
                    selector.unregister(key.fileobj)
                    os.close(key.fd)


def become(arguments: list[str], cwd: str, env: Mapping[str, str], files: list[int]) -> None:
    """Be a process that has just begun."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    os.closerange(3, 1024)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    tempfile.tempdir = None
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["sync", *arguments]


if __name__ == "__main__":
    for _name in IMPORTED:
        importlib.import_module(_name)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and this when they have ended
    _orders = socket.socket(fileno=int(sys.argv[1]))
    _order, _files = serve(_orders)
    _orders.detach()
    become(**_order, files=_files)
    runpy.run_module("sync", run_name="__main__", alter_sys=True)
