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
        checkpoint: ``demo``, a directory, or a hub id.
        revision: Commit of a hub id; pin it, or a changed hub changes your results.
        dtype: Arithmetic of the weights. ``auto`` is bfloat16 on a GPU and float32 on a CPU.
    """

    checkpoint: str
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class OutputConfig(Section):
    """Where the table goes.

    Attributes:
        uri: Directory or s3:// prefix of the table.
        num_shards: Bounded pieces the rows are dealt into; fixed when the table is made.
        rows_per_part: Most results in one Parquet file.
        seconds_per_part: Results wait no longer than this, in seconds, for their commit.
        vanished: What becomes of rows whose input is no longer there: ``keep``, or ``drop`` from
            the table. A run with ``--limit`` keeps them: it has not seen the whole input.
    """

    uri: str
    num_shards: AtLeastOne | Literal["auto"] = "auto"
    rows_per_part: int = Field(default=2000, ge=1, le=100_000)
    seconds_per_part: float = Field(default=30.0, gt=0)
    vanished: Literal["keep", "drop"] = "keep"


class ClusterConfig(Section):
    """How much of the cluster the job takes.

    Attributes:
        replicas: Engines, one GPU each; ``auto`` is every GPU of the cluster, or one CPU engine.
        rows_per_batch: Rows that travel together from preprocessing to an engine.
        batches_in_flight: Batches an engine works on at once; ``auto`` keeps it fed.
        cpus_per_engine: CPUs reserved for a CPU engine.
        address: Ray cluster to join, as ``host:port``; ``local`` starts one on this machine, and
            ``auto`` does unless the environment variable ``RAY_ADDRESS`` names one.
        price_per_gpu_hour: What a GPU costs, with its share of the machine around it; where engines
            have none, what an engine costs. For the plan's prediction and the run's summary.
        currency: Of the price: the three letters of ISO 4217.
    """

    replicas: AtLeastOne | Literal["auto"] = "auto"
    rows_per_batch: int = Field(default=16, ge=1, le=32)
    batches_in_flight: AtLeastOne | Literal["auto"] = "auto"
    cpus_per_engine: float = Field(default=1.0, gt=0)
    address: str = "auto"
    price_per_gpu_hour: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    currency: str = Field(default="USD", pattern=CURRENCY)

    def price(self, replicas: int, seconds: float) -> float | None:
        """Give what engines cost over some time, in ``currency``; None without a price."""
        if self.price_per_gpu_hour is None:
            return None
        return self.price_per_gpu_hour * replicas * seconds / 3600


class KubernetesConfig(Section):
    """The job's own Ray cluster on Kubernetes (``dsvl submit --target k8s``).

    Attributes:
        image: What the pods run, by tag or digest.
        namespace: Where the job is created; the one of the current kubeconfig context by default.
        workers: Pods that hold engines.
        gpus_per_worker: GPUs of each; 0 for a cluster that only has CPUs.
        cpus_per_worker: CPUs of each: one for the engine of each GPU, the others preprocess.
        memory_gib_per_worker: Memory of each, in GiB; a third of it is Ray's object store.
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
    """When a run that has gone wrong stops itself: exit code 3, and what was committed is safe.

    Attributes:
        stop_above_error_fraction: Stop when a larger share of the last ``window_rows`` rows are
            errors. The default is the job's ``max_error_fraction``. Rows that failed in an earlier
            run, and are tried again, may fail again.
        window_rows: Number of rows over which the share of errors is taken. A run with fewer rows
            is never stopped by that share.
        first_rows: Stop where the first so many rows of a run all fail with one code; 0: never.
        stall_timeout_s: Stop when no row has finished for so long; the first ones wait for nodes
            and for the model to load.
        store_patience_s: Go on trying for so long where the table's store does not answer; a
            full disk or missing permission ends the run at once.
    """

    stop_above_error_fraction: float | None = Field(default=None, ge=0, le=1)
    window_rows: AtLeastOne = 10_000
    first_rows: int = Field(default=1000, ge=0)
    stall_timeout_s: float = Field(default=1800.0, gt=0)
    store_patience_s: float = Field(default=300.0, ge=0)
