"""The sections model, output, cluster, kubernetes and limits of a job file."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
    field_validator,
)

from dsvl_pipeline.job.section import AtLeastOne, Section

NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

IMAGE_NAME = r"^[a-z0-9][A-Za-z0-9._/:-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$"

CURRENCY = r"^[A-Z]{3}$"


class ModelSection(Section):
    """Which checkpoint runs.

    Attributes:
        checkpoint: ``demo``, a local directory, or the id of a repository on the Hugging Face hub.
        revision: Commit of the hub repository. Give one: otherwise a change on the hub changes your
            results.
        dtype: Number format of the weights. ``auto`` is bfloat16 on a GPU and float32 on a CPU.
    """

    checkpoint: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class OutputConfig(Section):
    """Where the table goes.

    Attributes:
        uri: Directory or s3:// prefix of the table. It must be new, empty, or a table of this
            project.
        num_shards: Number of shards, into which rows are divided by a hash of ``row_id``. It is
            fixed when the table is made. ``auto`` chooses it from the number of rows.
        rows_per_part: Most rows in one Parquet file.
        seconds_per_part: Longest time, in seconds, that finished rows wait before they are
            committed.
        vanished: What happens to rows whose input is gone. ``keep`` leaves them in the table, and
            ``drop`` removes them. A run with ``--limit`` always keeps them, because it has not read
            the whole input.
    """

    uri: str
    num_shards: AtLeastOne | Literal["auto"] = "auto"
    rows_per_part: int = Field(default=2000, ge=1, le=100_000)
    seconds_per_part: float = Field(default=30.0, gt=0)
    vanished: Literal["keep", "drop"] = "keep"


class ClusterConfig(Section):
    """How much of the cluster the job takes.

    Attributes:
        replicas: Number of engines. Each takes one GPU. ``auto`` is one for every GPU of the
            cluster, or a single engine on CPUs.
        rows_per_batch: Number of rows that go from preprocessing to an engine in one call.
        batches_in_flight: Number of batches that an engine works on at once. ``auto`` takes as many
            as keep it busy.
        cpus_per_engine: Number of CPUs reserved for an engine that runs without a GPU.
        address: Ray cluster to join, as ``host:port``. ``local`` starts a cluster on this machine.
            ``auto`` joins the one that the environment variable ``RAY_ADDRESS`` names, or else
            starts one.
        price_per_gpu_hour: Price of one GPU for an hour, with its share of the machine. Where
            engines have no GPU, the price of one engine for an hour. It is used for costs in ``dsvl
            plan`` and in the run's summary.
        currency: Currency of the price, as three letters of ISO 4217.
    """

    replicas: AtLeastOne | Literal["auto"] = "auto"
    rows_per_batch: int = Field(default=16, ge=1, le=32)
    batches_in_flight: AtLeastOne | Literal["auto"] = "auto"
    cpus_per_engine: float = Field(default=1.0, gt=0)
    address: str = "auto"
    price_per_gpu_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    currency: str = Field(default="USD", pattern=CURRENCY)

    def price(self, replicas: int, seconds: float) -> float | None:
        """Return what engines cost over some time, in ``currency``; None without a price."""
        if self.price_per_gpu_hour is None:
            return None
        return self.price_per_gpu_hour * replicas * seconds / 3600


class KubernetesConfig(Section):
    """The job's own Ray cluster on Kubernetes (``dsvl submit --target k8s``).

    Attributes:
        image: Container image of all pods, with a tag or a digest.
        namespace: Namespace in which the job is created. The default is that of the current
            kubeconfig context.
        workers: Number of worker pods, which hold the engines.
        gpus_per_worker: GPUs of each worker pod. Use 0 for a cluster without GPUs.
        cpus_per_worker: CPUs of each worker pod. Each engine takes one; the others prepare rows.
        memory_gib_per_worker: Memory of each worker pod, in GiB. A third of it is for Ray's object
            store.
    """

    image: str = Field(default="dsvl-pipeline:0.1.0", pattern=IMAGE_NAME)
    namespace: str | None = Field(default=None, pattern=NAMESPACE)
    workers: AtLeastOne = 1
    gpus_per_worker: int = Field(default=1, ge=0)
    cpus_per_worker: AtLeastOne = 8
    memory_gib_per_worker: AtLeastOne = 48

    @field_validator("image")
    @classmethod
    def _stays_the_same(cls, value: str) -> str:
        if value.endswith(":latest"):
            raise ValueError("latest is another image tomorrow; give a version's tag or a digest")
        return value


class LimitsConfig(Section):
    """When a run stops itself, with exit code 3. What was committed stays.

    Attributes:
        stop_above_error_fraction: Stop when a larger share of the last ``window_rows`` rows are
            errors. The default is the job's ``max_error_fraction``. Rows that failed in an earlier
            run, and are tried again, may fail again.
        window_rows: Number of rows over which the share of errors is taken. A run with fewer rows
            is never stopped by that share.
        first_rows: Stop when this many first rows of a run all fail with the same error code. 0
            turns this off.
        stall_timeout_s: Stop when no row has finished for this long. It covers the wait for nodes
            and for the model to load.
        store_patience_s: How long to try again when the table's store does not answer. A full disk
            or a missing permission ends the run at once.
    """

    stop_above_error_fraction: float | None = Field(default=None, ge=0, le=1)
    window_rows: AtLeastOne = 10_000
    first_rows: int = Field(default=1000, ge=0)
    stall_timeout_s: float = Field(default=1800.0, gt=0)
    store_patience_s: float = Field(default=300.0, ge=0)
