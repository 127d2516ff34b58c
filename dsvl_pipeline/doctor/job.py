"""What one job needs: its credentials, its store, its input, its checkpoint."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from dsvl_pipeline import extras, hub
from dsvl_pipeline.cluster.connect import address_of, check_reachable
from dsvl_pipeline.doctor.finding import Finding
from dsvl_pipeline.doctor.machine import GIB, as_size, check_disk, gpus
from dsvl_pipeline.errors import (
    AccessError,
    ConfigError,
    DsvlError,
    FetchError,
    NotFoundError,
    StorageError,
    TableError,
    UnreadableCheckpointError,
)
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.places import absolute_input, absolute_place
from dsvl_pipeline.kuberay.client import Cluster
from dsvl_pipeline.kuberay.render import ACCOUNT
from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
from dsvl_pipeline.model.tensors import list_tensors
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.images import SUFFIXES as IMAGES
from dsvl_pipeline.sources.listing import find
from dsvl_pipeline.sources.manifest import Manifest
from dsvl_pipeline.sources.prefixes import Prefixes
from dsvl_pipeline.store import objects
from dsvl_pipeline.store.uris import is_local, is_object
from dsvl_pipeline.table.claim import check_claims
from dsvl_pipeline.table.format import read_format
from dsvl_pipeline.wording import amount

PACKAGES = "model packages"
"""Subject of the finding that packages of the extra ``model`` are missing."""
PDFS = (".pdf",)
_HOPPER = 9.0


def check_job(job: JobConfig) -> Iterator[Finding]:
    """Look at what a job names, by using it: objects are listed and read, one is written."""
    uris = [*job.input.manifest, *job.input.images, *job.input.documents, job.output.uri]
    if any(map(is_object, uris)):
        yield _credentials()
    yield from _inputs(job)
    yield from _output(job)
    if job.engine.kind == "model":
        if address_of(job) == "local" and (missing := extras.missing_for_model()):
            yield Finding(
                about=PACKAGES,
                grade="problem",
                text=extras.MISSING.format(", ".join(missing)).partition(";")[0],
                advice="pip install 'dsvl-pipeline[model]' (in a source tree: make env)",
            )
        yield from _checkpoint(job)
    address = address_of(job)
    if address != "local":
        yield _ray(address)
    if "kubernetes" in job.model_fields_set:
        yield _kubernetes(job)


def _credentials() -> Finding:
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    shown = f"endpoint {objects.redact(endpoint)}" if endpoint else "endpoint: AWS's own"
    try:
        found = Session().get_credentials()
    except BotoCoreError as error:
        why, found = str(error), None
    else:
        why = "none found in variables, ~/.aws, or a role of this machine"
    if found is not None:
        return Finding(about="credentials", grade="ok", text=f"from {found.method}; {shown}")
    return Finding(
        about="credentials",
        grade="problem",
        text=f"{why}; {shown}",
        advice="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE; on Kubernetes give "
        "the service account a role, or make the secret dsvl-credentials (k8s/README.md)",
    )


def _inputs(job: JobConfig) -> Iterator[Finding]:
    wanted = job.input
    if wanted.manifest:

        def read() -> str:
            resolved = absolute_input(wanted)
            prefixes = Prefixes(resolved)
            source = Manifest(wanted.manifest, wanted.columns, wanted.carry, prefixes=prefixes)
            first = next((row for rows in source.batches() for row in rows), None)
            if first is None:
                return "columns are there, but no row"
            for uri in first.sources[:1]:  # who may list may not always read
                try:
                    Fetcher(resolved).probe(uri)
                except FetchError as error:
                    raise ConfigError(f"the first row: {error}") from error
            return f"columns are there; the first row asks of {first.row_id}"

        yield _tried("input.manifest", read)
    if wanted.images:
        yield _tried("input.images", lambda: _found(wanted.images, "input.images", IMAGES))
    if wanted.documents:
        yield _tried("input.documents", lambda: _found(wanted.documents, "input.documents", PDFS))


def _found(patterns: tuple[str, ...], setting: str, suffixes: tuple[str, ...]) -> str:
    first = next(find(patterns, setting=setting, suffixes=suffixes))
    if first.size:
        objects.read_range(first.uri, 0, 1)  # who may list may not always read
    return f"found and read {objects.redact(first.uri)}"


def _output(job: JobConfig) -> Iterator[Finding]:
    uri = absolute_place(job.output.uri)

    def write() -> str:
        check_claims(uri, f"doctor-{uuid.uuid4().hex}")
        try:
            table = f"a table is there (shards: {read_format(uri).num_shards})"
        except NotFoundError:
            table = "no table yet"
            if is_local(uri):
                _remove_empty(Path(uri, "_dsvl"), Path(uri))
        return f"written, and a second write to the same name refused; {table}"

    yield _tried("output.uri", write)
    if is_local(uri):
        yield check_disk(uri, "the table", "output.uri", needed_bytes=GIB)


def _remove_empty(*directories: Path) -> None:
    with suppress(OSError):  # what holds something stays
        for directory in directories:
            directory.rmdir()


def _checkpoint(job: JobConfig) -> Iterator[Finding]:
    name, revision = job.model.checkpoint, job.model.revision
    about = "checkpoint"
    try:
        directory = _on_disk(name, revision)
        if directory is None:
            yield _on_hub(name, revision)
            return
        tensors = list_tensors(directory)
        Processor.from_pretrained(directory)
        warning = read_end_of_sequence(directory).warning
    except (ConfigError, OSError) as error:
        advice = "fetch it again, or name another: model.checkpoint"
        yield Finding(about=about, grade="problem", text=str(error), advice=advice)
        return
    num_bytes = sum(tensor.num_bytes for tensor in tensors.values())
    shown = f"{directory}: {amount(len(tensors), 'tensor')}, {as_size(num_bytes)}, whole"
    yield Finding(about=about, grade="ok", text=shown)
    if warning is not None:
        advice = "correct eos_token_id in generation_config.json, or let it be"
        yield Finding(about="end of answers", grade="warning", text=warning, advice=advice)
    yield from _fits(job, num_bytes)


def _fits(job: JobConfig, num_bytes: int) -> Iterator[Finding]:
    for _, mib, _, capability in gpus()[:1]:
        if int(mib) << 20 < 1.2 * num_bytes:
            yield Finding(
                about="GPU memory",
                grade="problem",
                text=f"{as_size(int(mib) << 20)} for {as_size(num_bytes)} of weights, and "
                "keys and values beside them",
                advice="a larger GPU, or the 1.3B checkpoint",
            )
        if job.engine.quantization == "fp8" and float(capability) < _HOPPER:
            yield Finding(
                about="fp8",
                grade="problem",
                text=f"this GPU has compute capability {capability}, fp8 needs {_HOPPER}",
                advice="leave engine.quantization out, or use a Hopper GPU (H100, H200)",
            )


def _on_disk(name: str, revision: str | None) -> Path | None:
    """Give the directory of a checkpoint without downloading it; None if it is only on the hub."""
    if hub.local_directory(name) is not None or "/" not in name.strip("/."):
        return hub.resolve(name, revision)
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return hub.resolve(name, revision, download=hub.Download(local_files_only=True))
    except UnreadableCheckpointError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            return None
        raise


def _on_hub(name: str, revision: str | None) -> Finding:
    from huggingface_hub import HfApi, constants

    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
    # Not only its own errors: those of whatever client it fetches with come through.
    except Exception as error:
        return Finding(
            about="checkpoint",
            grade="problem",
            text=f"{name} is not on this disk, and the hub did not give it: {error!r}",
            advice="check the name, model.revision, the network and HF_TOKEN; or give a directory",
        )
    files = info.siblings or []
    size = sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
    if not size:
        return Finding(
            about="checkpoint",
            grade="problem",
            text=f"{name} on the hub holds no safetensors",
            advice="choose a revision with safetensors; pickles are never opened",
        )
    disk = check_disk(constants.HF_HUB_CACHE, "the checkpoint", "HF_HOME", needed_bytes=size + GIB)
    text = f"{name} is on the hub: {as_size(size)} to download; {disk.text}"
    return Finding(about="checkpoint", grade=disk.grade, text=text, advice=disk.advice)


def _ray(address: str) -> Finding:
    try:
        answer = "something answers at" if check_reachable(address) else "not tried:"
    except OSError as error:
        text, advice = f"{address} does not answer: {error}", "check cluster.address, RAY_ADDRESS"
        return Finding(about="Ray cluster", grade="problem", text=text, advice=advice)
    return Finding(about="Ray cluster", grade="ok", text=f"{answer} {address}")


def _kubernetes(job: JobConfig) -> Finding:
    try:
        cluster = Cluster(job.kubernetes.namespace)
        cluster.check_operator()
        cluster.check_account(ACCOUNT)
    except ConfigError as error:  # its message ends with what to do
        advice = "only `dsvl submit --target k8s` and `dsvl schedule` need it"
        return Finding(about="kubernetes", grade="warning", text=str(error), advice=advice)
    text = f"RayJobs and service account {ACCOUNT} in {cluster.namespace} of {cluster.server}"
    return Finding(about="kubernetes", grade="ok", text=text)


def _tried(about: str, do: Callable[[], str]) -> Finding:
    try:
        return Finding(about=about, grade="ok", text=do())
    except AccessError as error:
        advice = "fix the credentials or the rights of their owner (list, read, write, delete)"
        return Finding(about=about, grade="problem", text=str(error), advice=advice)
    except (StorageError, TableError) as error:
        advice = "look whether the store answers: AWS_ENDPOINT_URL, network, its own state"
        return Finding(about=about, grade="problem", text=str(error), advice=advice)
    except DsvlError as error:  # its message ends with what to do
        return Finding(about=about, grade="problem", text=str(error), advice=f"change {about}")
