"""How Ray is set up, and how much of the cluster a job takes."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext

from dsvl_pipeline import extras
from dsvl_pipeline.cluster import private_ray
from dsvl_pipeline.cluster.own_cluster import keep_token_private, on_loopback, quick_workers
from dsvl_pipeline.errors import ConfigError, RunStoppedError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.wording import amount

STOPPING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_logger = logging.getLogger(__name__)
_CONNECT_S = 10.0
_ANSWER_S = 2.0
_MAX_FAILED_STARTS = 3  # of engines, one after the other
_CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own
_RAY_GIB = 1.5  # its processes and the workers that wait: measured with the demo


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What the job uses of this cluster.

    Attributes:
        replicas: Engines.
        num_gpus: GPUs of one engine: 1 or 0.
        rows_per_batch: Rows in one Ray call.
        batches_in_flight: Calls an engine's actor works on at once.
        dtype: Of the weights, ``auto`` resolved.
    """

    replicas: int
    num_gpus: int
    rows_per_batch: int
    batches_in_flight: int
    dtype: str


def connect(job: JobConfig) -> None:
    """Join the cluster that the job or ``RAY_ADDRESS`` names, else start one on this machine.

    Unlike ``ray.init()``, a cluster that merely runs on this machine is not joined: it may be
    somebody else's (docs/decisions/0013).

    Raises:
        ConfigError: The cluster that is named cannot be joined.
        RunStoppedError: Ray did not start on this machine.
    """
    if ray.is_initialized():
        return
    # It warns that the new cluster asks for a token, which is as it should be.
    private_ray.log_errors_only("authentication")
    address = address_of(job)
    if address == "local":
        _start()
        return
    try:
        check_reachable(address)
        _init(address=address)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot join the Ray cluster at {address}: {error}; check cluster.address and "
            "RAY_ADDRESS, or set cluster.address to local to start one on this machine"
        ) from error


def check_packages(job: JobConfig) -> None:
    """Look for what the model needs where its engines would run in this environment.

    Raises:
        ConfigError: It is not installed. The nodes of a cluster have environments of their own.
    """
    is_here = not ray.is_initialized() and address_of(job) == "local"
    if job.engine.kind == "model" and is_here:
        extras.check_model()


def address_of(job: JobConfig) -> str:
    """Return the address of the cluster that a job runs on; ``local`` is one of its own."""
    if job.cluster.address != "auto":
        return job.cluster.address
    # Ray sets it for jobs that were submitted, and KubeRay on all of its nodes.
    return os.environ.get("RAY_ADDRESS") or "local"


def check_reachable(address: str) -> bool:
    """Try the port of a cluster's address; Ray itself would try for minutes, and say nothing.

    Args:
        address: ``HOST:PORT``, with ``ray://`` or without; nothing else is tried.

    Returns:
        Whether it was tried.

    Raises:
        OSError: Nothing answers there, or what answers is no Ray head.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return False
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S) as connection:
        connection.settimeout(_ANSWER_S)
        with contextlib.suppress(TimeoutError, ConnectionError):
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")  # a head speaks another protocol
            if connection.recv(7).startswith(b"HTTP/1."):
                raise OSError(
                    "a web server answers there; a Ray head listens on 6379, or on 10001 for "
                    "ray://, and 8265, its dashboard, is for `dsvl submit`"
                )
    return True


def _start() -> None:
    running = private_ray.started_address()
    if running is not None:
        _logger.warning(
            "starting a Ray cluster for this run; to join the one that `ray start` may have left "
            "at %s, set RAY_ADDRESS=auto",
            running,
        )
    try:
        # One more CPU than there are: what the engine is counted for, be it a tenth, must not
        # leave a core without a preprocessing task.
        keep_token_private()
        with on_loopback(), quick_workers():
            _init(address="local", num_cpus=(os.cpu_count() or 1) + 1, include_dashboard=False)
    except Exception as error:  # Ray has no class of its own for this
        raise RunStoppedError(_not_started(error)) from error


def _not_started(error: Exception) -> str:
    """Return what to do about a Ray that did not start, often as the machine is busy."""
    load = f"{os.getloadavg()[0]:.0f} processes want its {amount(os.cpu_count() or 1, 'CPU')}"
    memory = _free_memory_gib()
    if memory is not None:
        load += f", and {memory:.1f} GiB of memory are free"
    return (
        f"Ray did not start on this machine: {' '.join(str(error).split())}\n"
        f"Now {load}; Ray needs a CPU for itself and about {_RAY_GIB:g} GiB, and an engine comes "
        "to that (the demo: 1 GiB).\nWhere others keep the machine busy, wait and run the same "
        "command again: nothing was changed. Where it does not start at rest either, look at "
        f"Ray's logs ({_logs()}) and at `dsvl doctor`"
    )


def _logs() -> Path:
    """Return the folder of this process's last Ray; of the machine's, where that left none."""
    folder = private_ray.temporary_folder()
    of_ours = sorted(folder.glob(f"session_*_{os.getpid()}"))  # a session's name begins with time
    return (of_ours[-1] if of_ours else folder / "session_latest") / "logs"


def _free_memory_gib() -> float | None:
    """Return what processes may still take here; None where the system does not say."""
    known = [gib for gib in (_free_on_machine_gib(), _free_in_container_gib()) if gib is not None]
    return min(known, default=None)


def _free_in_container_gib() -> float | None:
    """Return what is left of this container's limit; None where it has none."""
    names = ("memory.max", "memory.current", "memory.stat")
    try:
        limit, used, told = ((_CGROUP / name).read_text(encoding="ascii") for name in names)
        stat = dict(line.split() for line in told.splitlines())
        # What is kept of files that nobody reads gives way.
        free = int(limit) - int(used) + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):  # without a limit the file says "max"
        return None
    return max(0, free) / (1 << 30)


def _free_on_machine_gib() -> float | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
    except (OSError, ValueError):
        return None
    kib = found.get("MemAvailable", "").split()
    return int(kib[0]) / (1 << 20) if kib else None


def _init(**arguments: Any) -> None:
    with kept_handlers():
        ray.init(logging_level=logging.WARNING, log_to_driver=True, **arguments)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the handlers of both signals afterwards: Ray sets its own when it connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configure() -> None:
    """Set Ray Data up for this project; applies to Datasets made afterwards."""
    context = DataContext.get_current()
    # One batch is one task is one block, whatever its size: a retried task must yield the very
    # same blocks, or rows get lost and doubled.
    context.target_max_block_size = None
    context.execution_options.preserve_order = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0  # anything else drops whole blocks in silence
    context.max_consecutive_actor_init_deaths = _MAX_FAILED_STARTS
    context.wait_for_min_actors_s = -1
    context.execution_no_progress_timeout_s = 6 * 3600
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # It warns that progress bars are off, which they are because we show our own.
    private_ray.log_errors_only("progress")


def scale_of(job: JobConfig) -> Scale:
    """Fit the job's wishes to what the cluster has.

    Raises:
        ConfigError: More engines are wanted than the cluster has GPUs; Ray would wait for ever.
    """
    resources: dict[str, float] = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0)) if job.engine.kind == "model" else 0
    wanted = job.cluster.replicas
    if wanted == "auto":
        replicas = max(1, gpus)
    elif gpus and wanted > gpus:
        raise ConfigError(
            f"cluster.replicas is {wanted}, but the cluster has {amount(gpus, 'GPU')}; "
            "lower it, set it to auto, or add nodes"
        )
    else:
        replicas = wanted
    cpus = resources.get("CPU", 0)
    if not gpus and cpus < replicas * job.cluster.cpus_per_engine + 1:
        raise ConfigError(
            f"cluster.replicas is {replicas}, each engine takes cluster.cpus_per_engine "
            f"({job.cluster.cpus_per_engine:g}) and "
            f"preprocessing needs one more, but the cluster has {cpus:g}; lower replicas"
        )
    has_gpu = gpus > 0
    slots = job.engine.num_sequences(has_gpu=has_gpu)
    rows = min(job.cluster.rows_per_batch, 32)
    wanted_batches = job.cluster.batches_in_flight
    # With rows in flight below four times its slots a continuous-batching engine starves.
    batches = math.ceil(4 * slots / rows) if wanted_batches == "auto" else wanted_batches
    dtype = job.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if has_gpu else "float32"
    return Scale(
        replicas=replicas,
        num_gpus=int(has_gpu),
        rows_per_batch=rows,
        batches_in_flight=batches,
        dtype=dtype,
    )
