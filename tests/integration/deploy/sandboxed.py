"""Run a command in a container's files within the limits of nightshift.service, without systemd.

Usage, as root: ``python3 sandboxed.py FILES UID COMMAND [ARGUMENT ...]``. In force are: the unit's filter of
system calls, no new privileges, no capabilities, no memory that is both writable and executable, the umask.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).parents[3] / "config" / "systemd" / "nightshift.service"
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 38, 65, 1
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO = 0x7FFF0000, 0x00050000


def members(name: str) -> set[str]:
    """The system calls of a name, which may be that of a group."""
    if not name.startswith("@"):
        return {name}
    listing = subprocess.run(  # noqa: S603
        ["systemd-analyze", "syscall-filter", name],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    words = [line.strip() for line in listing.splitlines()[1:]]
    return {call for word in words if word and not word.startswith("#") for call in members(word)}


def allowed() -> set[str]:
    """The system calls that the unit allows; its lines are applied in their order."""
    calls = members("@default")
    for line in UNIT.read_text().splitlines():
        key, _, value = line.partition("=")
        if key == "SystemCallFilter":
            named = {call for word in value.removeprefix("~").split() for call in members(word)}
            calls = calls - named if value.startswith("~") else calls | named
    return calls


def install(calls: set[str]) -> None:
    """Deny this process and its children all other system calls."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(SCMP_ACT_ERRNO | errno.EPERM))
    numbers = (library.seccomp_syscall_resolve_name(call.encode()) for call in calls)
    for number in numbers:
        if number >= 0:  # negative: not of this architecture
            library.seccomp_rule_add(context, SCMP_ACT_ALLOW, number, 0)
    if library.seccomp_load(context) != 0:
        raise OSError("the filter was not accepted")


def main() -> None:
    """Enter the files, give everything up, become the command."""
    files, uid, *command = sys.argv[1:]
    calls = allowed()
    control = ctypes.CDLL(None).prctl
    ctypes.CDLL("libseccomp.so.2")  # while its file can be reached
    os.chroot(files)
    os.chdir("/var/lib/nightshift")
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    os.umask(0o077)
    control(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if control(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
        print("not tested: MemoryDenyWriteExecute, this kernel has no PR_SET_MDWE", file=sys.stderr)  # noqa: T201
    install(calls)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
