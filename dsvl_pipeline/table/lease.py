"""The lease: one driver per table.

``_dsvl/lease/<8 digits>.json`` names the holder and is never changed; the highest number holds.
The holder rewrites ``<8 digits>.renewed.json``, its heartbeat, every quarter of the lease's time,
and nobody else does. Whoever wants the table watches that file by a clock of its own: where it does
not change for the lease's time, the holder is taken for dead and the next number is claimed. So no
two clocks ever have to agree.

A store may let two drivers claim one number (a proxy, a weak emulator); the later PUT's token then
stands. So a driver holds the table only as long as it finds its own token in the file.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from dsvl_pipeline.errors import LeaseError, NotFoundError, StorageError, TableError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.claim import claim
from dsvl_pipeline.table.document import as_record, list_numbered, load

LEASE_TIME_S = 60.0
TWO_WINNERS = (
    "the store let two drivers write one object that only the first may write (a proxy or emulator "
    "that checks If-None-Match apart from the write?); make sure that one driver at a time works "
    "on this table, and run again: what the log does not hold is computed again"
)
_PASSED_OVER = "its holder counts as unknown and is waited for"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease.

    Attributes:
        number: Of the lease.
        token: Random; tells whose claim it is.
        run_id: Of the run.
        host: Its name, for people.
        host_id: Equal for two processes that can see each other's process ids; None if unknown.
        pid: Process id of the driver.
        pid_started: When that process started, in the kernel's ticks; a process id is used again.
        time_s: Without renewal for so long, the lease has expired.
        acquired_at: ISO 8601.
    """

    number: int
    token: str
    run_id: str
    host: str
    host_id: str | None
    pid: int
    pid_started: int | None
    time_s: float
    acquired_at: str

    def __str__(self) -> str:
        return f"run {self.run_id} (process {self.pid} on {self.host}, since {self.acquired_at})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heartbeat:
    """What a holder rewrites while it lives."""

    count: int
    renewed_at: AwareDatetime | None
    is_released: bool


class Lease:
    """The right to append to a table's log, renewed in the background until released.

    Attributes:
        number: Higher than that of any driver before.
    """

    def __init__(self, uri: str, holder: Holder) -> None:
        self.number = holder.number
        self._uri = uri
        self._holder = holder
        self._count = 0
        self._is_lost = False
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="dsvl-lease", daemon=True)
        self._renew()
        self._thread.start()

    @classmethod
    def acquire(cls, uri: str, *, run_id: str, time_s: float = LEASE_TIME_S) -> Lease:
        """Take a table, waiting where its last holder may be dead.

        A holder of this host whose process has ended is followed at once.

        Args:
            uri: The table.
            run_id: Of this run, for the messages of others.
            time_s: How long others wait after our last heartbeat.

        Raises:
            LeaseError: The holder is alive.
        """
        number = wait_until_free(uri, time_s=time_s)
        wanted = Holder(
            number=number + 1,
            token=uuid.uuid4().hex,
            run_id=run_id,
            host=socket.gethostname(),
            host_id=_host_id(),
            pid=os.getpid(),
            pid_started=_process_started(os.getpid()),
            time_s=time_s,
            acquired_at=_now(),
        )
        claim(_lease_uri(uri, wanted.number), asdict(wanted), advice="start again")
        holder = _read_holder(uri, wanted.number, time_s)  # also where the store says: yours
        if holder.token != wanted.token:
            raise LeaseError(f"{objects.redact(uri)}: {holder} took the table at the same moment")
        return cls(uri, holder)

    def check(self) -> None:
        """Check that nobody has taken over, and that nobody else holds the same lease.

        Raises:
            LeaseError: Somebody does.
        """
        number = _highest_number(self._uri, start_after=self._holder.number)
        if number:
            holder = _read_holder(self._uri, number, self._holder.time_s)
            raise LeaseError(
                f"{objects.redact(self._uri)}: {holder} took over, because this driver gave no "
                f"sign of life for {self._holder.time_s:g} s; what was committed is safe; let the "
                "other run finish, then run again"
            )
        standing = _read_holder(self._uri, self.number, self._holder.time_s)
        if self._is_lost or standing.token != self._holder.token:
            self._is_lost = True
            raise LeaseError(
                f"{objects.redact(_lease_uri(self._uri, self.number))}: this driver was told that "
                f"the lease is its own, but the file now names {standing}; {TWO_WINNERS}"
            )

    def release(self) -> None:
        """Let the next driver in without waiting. Doing it twice does no harm."""
        if not self._released.is_set():
            self._released.set()
            self._thread.join()
            try:
                if not self._is_lost:  # else the heartbeat is another's
                    self._renew(is_released=True)
            except StorageError as error:
                _logger.warning("the lease could not be released, it will expire: %s", error)

    def _keep(self) -> None:
        while not self._released.wait(self._holder.time_s / 4):
            try:
                holder = _read_holder(self._uri, self.number, self._holder.time_s)
                if holder.token != self._holder.token:
                    self._is_lost = True
                    _logger.warning("lease %d now names %s", self.number, holder)
                    return
                self._renew()
            except StorageError as error:
                # Not the end: others wait for the whole lease time, and every append checks.
                _logger.warning("the lease could not be renewed: %s", error)

    def _renew(self, *, is_released: bool = False) -> None:
        self._count += 1
        heartbeat = {"count": self._count, "renewed_at": _now(), "is_released": is_released}
        objects.put(_renewed_uri(self._uri, self.number), json.dumps(heartbeat).encode())


def wait_until_free(uri: str, *, time_s: float, may_wait: bool = True) -> int:
    """Return the highest lease's number once nobody holds it; 0 if there never was one.

    Args:
        uri: The table.
        time_s: How long to wait for a heartbeat of a holder of whom nothing is known.
        may_wait: Whether to wait at all.

    Raises:
        LeaseError: Its holder is alive, or, if this may not wait, may be.
    """
    number = _highest_number(uri)
    if number:
        _wait_for_end(uri, _read_holder(uri, number, time_s), may_wait=may_wait)
    return number


def is_released(uri: str) -> bool:
    """Return whether the last holder of a table has given it back, or there never was one."""
    number = _highest_number(uri)
    if not number:
        return True
    heartbeat = _last_heartbeat(uri, number)
    return heartbeat is not None and heartbeat.is_released


def _wait_for_end(uri: str, holder: Holder, *, may_wait: bool) -> None:
    """Return once the holder has released its lease, is dead, or must be taken for dead."""
    first = _last_heartbeat(uri, holder.number)
    started = time.monotonic()
    has_warned = False
    while True:
        heartbeat = _last_heartbeat(uri, holder.number)
        if heartbeat is not None and heartbeat.is_released:
            return
        if _is_on_this_host(holder) and _process_started(holder.pid) != holder.pid_started:
            return
        if heartbeat != first or _was_renewed_just_now(holder, heartbeat):
            raise LeaseError(
                f"{objects.redact(uri)}: {holder} is writing this table; wait until it ends, or "
                "stop it"
            )
        if not may_wait:
            raise LeaseError(
                f"{objects.redact(uri)}: {holder} has not given the table back, and whether it is "
                "alive was not waited for"
            )
        waited_s = time.monotonic() - started
        if waited_s >= holder.time_s:
            return
        if not has_warned:
            has_warned = True
            _logger.warning(
                "%s: the last run did not end well: %s; waiting up to %g s for a sign of life",
                objects.redact(uri),
                holder,
                holder.time_s,
            )
        time.sleep(min(1.0, holder.time_s / 10))


def _was_renewed_just_now(holder: Holder, heartbeat: _Heartbeat | None) -> bool:
    """Return whether a living process of this host renewed within the lease's time.

    Only here may the stated time be compared: both were read from the same clock.
    """
    if heartbeat is None or heartbeat.renewed_at is None or not _is_on_this_host(holder):
        return False
    age = datetime.now(UTC) - heartbeat.renewed_at
    return 0 <= age.total_seconds() < holder.time_s


def _is_on_this_host(holder: Holder) -> bool:
    return holder.host_id is not None and holder.host_id == _host_id()


def _read_holder(uri: str, number: int, time_s: float) -> Holder:
    """Read who holds a lease; somebody unknown where its file is damaged or gone.

    Whoever that is, its heartbeats are in another file, and the log lets it append nothing
    once there is a higher lease.
    """
    place = _lease_uri(uri, number)
    try:
        document = load(place, objects.read(place), advice=_PASSED_OVER)
        return as_record(Holder, place, document, advice=_PASSED_OVER)
    except (NotFoundError, TableError) as error:
        _logger.warning("%s", error)
    return Holder(
        number=number,
        token="",
        run_id="(unknown)",
        host="an unknown host",
        host_id=None,
        pid=0,
        pid_started=None,
        time_s=time_s,
        acquired_at="(unknown)",
    )


def _last_heartbeat(uri: str, number: int) -> _Heartbeat | None:
    place = _renewed_uri(uri, number)
    try:
        body = objects.read(place)
    except NotFoundError:  # it died, or is slow, between its claim and its first renewal
        return None
    try:
        document = load(place, body, advice=_PASSED_OVER)
        return as_record(_Heartbeat, place, document, advice=_PASSED_OVER)
    except TableError as error:
        _logger.warning("%s", error)
        return _Heartbeat(count=0, renewed_at=None, is_released=False)


def _highest_number(uri: str, start_after: int = 0) -> int:
    """Find the highest claimed number above one; 0 if there is none."""
    folder = objects.join(uri, "_dsvl", "lease")
    # Sorts after "00000001.json" and "00000001.renewed.json".
    after = objects.join(folder, f"{start_after:08d}.~")
    found = list_numbered(folder, pattern=r"(\d{8})(?:\.renewed)?\.json", start_after=after)
    return max((number for number, _ in found), default=0)


def _lease_uri(uri: str, number: int) -> str:
    return objects.join(uri, "_dsvl", "lease", f"{number:08d}.json")


def _renewed_uri(uri: str, number: int) -> str:
    return objects.join(uri, "_dsvl", "lease", f"{number:08d}.renewed.json")


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _host_id() -> str | None:
    """Identify this boot of this machine and this container's view of its processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _process_started(pid: int) -> int | None:
    """Read when a process started; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The program's name, in brackets, may hold anything; state and start time come after it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
