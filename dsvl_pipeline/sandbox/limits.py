"""Bounds of time and memory, for a process that may be lost."""

from __future__ import annotations

import contextlib
import math
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def limited(seconds: float, memory_bytes: int) -> Iterator[None]:
    """Bound the time and memory of what runs inside; only for a process that may be lost.

    Too much memory is a MemoryError where the code that asked for it can raise one. Too much time
    ends the process by SIGALRM: code that hangs gives no signal handler a chance.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    bounds = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([in_use + memory_bytes, *bounds]), hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def limit_memory(num_bytes: int) -> None:
    """Bound the address space, where the system can."""
    if sys.platform == "linux":
        _lower(resource.RLIMIT_AS, num_bytes)


def limit_cpu(seconds: float) -> None:
    """Grant so many more seconds of CPU: an orphan in an endless loop ends by itself."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    _lower(resource.RLIMIT_CPU, limit)


def _lower(what: int, limit: int) -> None:
    _, hard = resource.getrlimit(what)
    soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (soft, hard))
