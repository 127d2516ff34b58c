"""What a job names, independent of a directory."""

from __future__ import annotations

from pathlib import Path

from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.store.uris import as_text, local_path, scheme_of


def with_absolute_paths(job: JobConfig, source: InputConfig) -> JobConfig:
    """The same job for workers, whose working directory is another."""
    uri, checkpoint = job.output.uri, job.model.checkpoint
    if scheme_of(uri) == "file":
        uri = as_text(local_path(uri))
    if Path(checkpoint).is_dir():
        checkpoint = str(Path(checkpoint).absolute())
    return job.model_copy(
        update={
            "input": source,
            "output": job.output.model_copy(update={"uri": uri}),
            "model": job.model.model_copy(update={"checkpoint": checkpoint}),
        }
    )
