"""A process that outlives a driver, and says how it ended where the driver itself could not.

Ray ends a driver that has lost its raylet or its GCS from native code, by ``_Exit(1)``, which no
handler sees coming and which here would mean that too many rows failed. A driver that the kernel
kills for its memory says nothing either. So the command runs in a child: its exit code counts when
it has said it, and without a word it is 3.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from signal import SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM
from typing import NoReturn

_PASSED_ON = (SIGINT, SIGTERM, SIGHUP)
_PR_SET_PDEATHSIG = 1
_SI_KERNEL = 0x80


def supervised(command: Callable[[], int]) -> int:
    """Run a command in a child process and give its exit code; 3 if it could not say one.

    Signals are passed on. Who kills this process kills the child with it. The calling process must
    not have other threads.
    """
    if sys.platform != "linux":  # elsewhere a child would outlive a parent that is killed
        return command()
    ours, theirs = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, SIGCHLD))
    parent, pid = os.getpid(), os.fork()
    if not pid:
        os.close(ours)
        _die_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _serve(command, theirs)
    os.close(theirs)
    status = _wait(pid)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    with os.fdopen(ours, "rb") as pipe:
        said = pipe.read()
    if said:
        return said[0]
    print(f"dsvl: stopped: {_how(status)}", file=sys.stderr)
    return 3


def _serve(command: Callable[[], int], pipe: int) -> NoReturn:
    code = command()
    # Said before Ray takes leave, which may fail: its cluster may be what was lost.
    os.write(pipe, bytes([code]))
    sys.exit(code)


def _wait(pid: int) -> int:
    """Pass signals on until the child has ended; give its status."""
    while True:
        found = signal.sigwaitinfo((*_PASSED_ON, SIGCHLD))
        if found.si_signo == SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
        # What a terminal sends, it sends to the child as well.
        elif found.si_code != _SI_KERNEL:
            os.kill(pid, found.si_signo)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != parent:  # it was killed before
        os._exit(3)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    safe = "what was committed is safe, and the same command goes on"
    if code < 0:
        name = signal.Signals(-code).name
        why = "; the kernel does that where memory runs out" if -code == SIGKILL else ""
        return f"the driver was ended by {name}{why}; {safe}"
    if code == SIGTERM:
        return f"SIGTERM reached the driver while Ray started; {safe}"
    return (
        f"the driver ended without a word (exit code {code}), as Ray ends it when its raylet or "
        f"its GCS is gone; see the lines above; {safe}"
    )
