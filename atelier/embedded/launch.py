"""Becomes another program, which then dies with the process that started it.

    python -I -S launch.py PARENT_PID SIGNAL UID:GID|- PROGRAM ARGUMENTS...

A program of its own, because this must happen between fork and exec, where a Python with threads
(gRPC's, the probes') must not run code. Standard library only: it starts in a few milliseconds.
Becoming another user comes first, since the kernel forgets the death signal when the user changes.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: str, death_signal: str, identity: str, program: str, *arguments: str) -> None:
    if identity != "-":
        uid, gid = map(int, identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the kernel was told
            sys.exit(1)
    try:
        os.execv(program, (program, *arguments))  # noqa: S606 - no shell is meant
    except OSError as error:
        sys.exit(f"cannot start {program}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
