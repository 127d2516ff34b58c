"""What a job names is the same place for everybody who gets the job, wherever that is."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import huggingface_hub
import pytest
import yaml
from pydantic import BaseModel, SecretStr

from dsvl_pipeline import hub
from dsvl_pipeline.cli import main
from dsvl_pipeline.cluster import connect
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job import places
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render, schedule
from dsvl_pipeline.plan.redrive import Redrive
from dsvl_pipeline.run.explanation import explain
from dsvl_pipeline.run.prepare import prepare
from dsvl_pipeline.run.preview import preview
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.failures import Selection
from tests.jobs import jpeg
from tests.tables import write_table

NO_PLACES = {
    "name": "the job's own",
    "input.columns.id": "of a column",
    "input.columns.image": "of a column",
    "input.columns.document": "of a column",
    "input.columns.prompt": "of a column",
    "input.columns.schema": "of a column",
    "input.columns.sha256": "of a column",
    "input.columns.etag": "of a column",
    "input.carry": "of columns",
    "input.document.password": "a secret",
    "input.document.password.env": "of a variable",
    "prompts.id": "part of a key",
    "prompts.text": "what is asked",
    "prompts.schema": "the file is read with the job",
    "prompts.regex": "what answers satisfy",
    "model.revision": "of a hub id",
    "generation.stop": "what ends answers",
    "cluster.address": "of a Ray cluster",
    "cluster.currency": "of a price",
    "kubernetes.image": "in a registry",
    "kubernetes.namespace": "of a cluster",
}
"""Settings of text that name none."""


def settings(section: type, at: str = "") -> Iterator[str]:
    """Yield the keys of a section, and of those in it, that may hold text."""
    if issubclass(section, BaseModel):
        found = {f.alias or name: f.annotation for name, f in section.model_fields.items()}
    else:
        hints = get_type_hints(section)
        found = {field.name: hints[field.name] for field in dataclasses.fields(section)}
    for name, annotation in found.items():
        kinds = list(plain_types(annotation))
        if {str, SecretStr, Any} & set(kinds):
            yield at + name
        for kind in kinds:
            if isinstance(kind, type) and (
                issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)
            ):
                yield from settings(kind, f"{at}{name}.")


def plain_types(annotation: Any) -> Iterator[Any]:
    """Yield what an annotation is made of: of ``tuple[str, ...] | None`` both types."""
    if get_origin(annotation) is Literal:
        return
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner[:1] if get_origin(annotation) is Annotated else inner:
        yield from plain_types(one)


def test_every_setting_of_text_is_a_place_or_known_to_be_none() -> None:
    """A new one must say which, or a submitted job would read from another directory than a run."""
    found = set(settings(JobConfig))
    assert not places.SETTINGS.keys() & NO_PLACES.keys()
    assert found == places.SETTINGS.keys() | NO_PLACES.keys()


# ------------------------------------------------------------------------- the same for everybody


class SeenError(Exception):
    """A job has come as far as the cluster."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run end where it would join a cluster, with the job that workers get."""

    def end(job: JobConfig) -> None:
        raise SeenError(job)

    monkeypatch.setattr(connect, "connect", end)


def by_run(job: JobConfig) -> JobConfig:
    """As workers of a run get it."""
    with pytest.raises(SeenError) as found:
        prepare(job, limit=None, is_fresh=False, stop=threading.Event())
    return found.value.args[0]


def by_plan(job: JobConfig) -> JobConfig:
    """As `dsvl plan` looks at it, with ``--explain`` and without."""
    with pytest.raises(SeenError) as found:
        preview(job)
    with pytest.raises(SeenError) as explained:
        list(explain(job, "row"))
    assert found.value.args == explained.value.args
    return found.value.args[0]


def by_submit(job: JobConfig, capsys: pytest.CaptureFixture[str]) -> JobConfig:
    """As it is sent to a Ray cluster."""
    Path("sent.yaml").write_text(job.as_yaml(), encoding="utf-8")
    assert main.main(["submit", "sent.yaml", "--target", "ray", "--dry-run"]) == 0
    return JobConfig.model_validate(yaml.safe_load(capsys.readouterr().out))


def by_schedule(job: JobConfig) -> JobConfig:
    """As it is sent to Kubernetes, at once or by the clock."""
    config = schedule.manifests(job, "@daily", "Etc/UTC")[0]
    assert config == render.manifests(job)[0]
    return JobConfig.model_validate(yaml.safe_load(config["data"]["job.yaml"]))


def by_report(job: JobConfig) -> JobConfig:
    """As a report reads it from what a run has left, in another directory."""
    return JobConfig.model_validate(by_run(job).model_dump(mode="json"))


def values_of(job: JobConfig) -> dict[str, Any]:
    """Give the values of all settings that name places."""
    found: dict[str, Any] = {}
    for key in places.SETTINGS:
        value: Any = job
        for name in key.split("."):
            value = getattr(value, name, None)
        found[key] = value
    return found


class Bucket:
    """A store that holds a local directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, method: str) -> Callable[..., Any]:
        real = getattr(objects._LOCAL, method)

        def call(uri: str, *args: Any, **named: Any) -> Any:
            answer = real(uri.replace("s3://bucket", str(self._folder)), *args, **named)
            return map(self._spelled, answer) if method == "walk" else answer

        return call

    def _spelled(self, info: objects.ObjectInfo) -> objects.ObjectInfo:
        uri = info.uri.replace(str(self._folder), "s3://bucket")
        return dataclasses.replace(info, uri=uri)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: None) -> Path:
    """Work in a directory with all that a job may name; it is the home directory, too."""
    folder = tmp_path / "here"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a.jpg").write_bytes(jpeg(1))
    (folder / "in" / "a.pdf").write_bytes(b"%PDF")
    (folder / "in" / "m.csv").write_text("image\na.jpg\n")
    demo = hub.resolve("demo")
    (folder / "model").symlink_to(demo)
    (folder / "demo").mkdir()  # the name means the shipped one all the same
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(objects, "_s3", lambda: Bucket(folder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(demo))
    return folder


def job_of(root: str, *, checkpoint: str | None = None, output: str | None = None) -> JobConfig:
    """Make a job whose places all begin alike."""
    values: dict[str, Any] = {
        "name": "test",
        "input": {
            "manifest": f"{root}in/*.csv",
            "images": [f"{root}in/*.jpg"],
            "documents": [f"{root}in"],
            "columns": {"image": "image"},
            "allowed_prefixes": "s3://bucket",
        },
        "prompts": [{"id": "caption", "text": "What is it?"}],
        "model": {"checkpoint": f"{root}model" if checkpoint is None else checkpoint},
        "engine": {"kind": "fake"},
        "output": {"uri": f"{root}out" if output is None else output},
    }
    if not root.startswith("s3:"):  # these are always local
        values["input"]["allowed_roots"] = f"{root}more"
        values["engine"]["fake"] = {"crash_dir": f"{root}crashes"}
    return JobConfig.model_validate(values)


def whole(root: str, checkpoint: str, output: str) -> dict[str, Any]:
    """Give what everybody should see."""
    return {
        "input.manifest": (f"{root}/in/*.csv",),
        "input.images": (f"{root}/in/*.jpg",),
        "input.documents": (f"{root}/in",),
        "input.allowed_roots": (f"{root}/more",),
        "input.allowed_prefixes": ("s3://bucket",),
        "engine.fake.crash_dir": f"{root}/crashes",
        "model.checkpoint": checkpoint,
        "output.uri": output,
    }


LOCAL = ["", "./", "../here/", "~/", "{here}/", "file://{here}/", "file:in/../"]


@pytest.mark.parametrize("root", LOCAL)
@pytest.mark.parametrize("entry", ["run", "plan", "submit", "report"])
def test_local_places_are_the_same_for_everybody(
    entry: str, root: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the root, wherever the job is read."""
    job = job_of(root.format(here=here))
    seers = {"run": by_run, "plan": by_plan, "report": by_report}
    found = by_submit(job, capsys) if entry == "submit" else seers[entry](job)
    assert values_of(found) == whole(str(here), f"{here}/model", f"{here}/out")
    assert places.absolute(found) == found
    assert not list(places.relative_places(found))


@pytest.mark.parametrize("checkpoint", ["demo", "some/model"])
@pytest.mark.parametrize("entry", ["run", "plan", "submit", "report", "schedule"])
def test_objects_and_hub_ids_stay_as_they_are(
    entry: str, checkpoint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory that is called ``demo`` is not the checkpoint of that name."""
    job = job_of("s3://bucket/", checkpoint=checkpoint)
    seers = {"run": by_run, "plan": by_plan, "report": by_report, "schedule": by_schedule}
    found = by_submit(job, capsys) if entry == "submit" else seers[entry](job)
    expected = whole("s3://bucket", checkpoint, "s3://bucket/out")
    assert values_of(found) == expected | {"input.allowed_roots": (), "engine.fake.crash_dir": None}


@pytest.mark.parametrize("root", LOCAL)
def test_kubernetes_takes_what_pods_can_have(root: str, here: Path) -> None:
    """Paths from the root as a run has them; what hangs on a directory or a user is refused."""
    job = job_of(root.format(here=here), output="s3://bucket/out")
    if "{here}" in root:
        expected = whole(str(here), f"{here}/model", "s3://bucket/out")
        assert values_of(by_schedule(job)) == expected
        return
    assert {key for key, _ in places.relative_places(job)} == places.SETTINGS.keys() - {
        "input.allowed_prefixes",
        "output.uri",
    }
    with pytest.raises(ConfigError, match="on this machine, which pods do not have"):
        by_schedule(job)


@pytest.mark.parametrize("folder", ["a[1]", "*", "caf\u00e9 %41", os.fsdecode(b"\xff?")])
@pytest.mark.parametrize("root", ["", "~/", "{here}/"])
def test_odd_directories_are_the_same_for_everybody(
    folder: str, root: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wildcards in the name of a directory are none, and in another one neither."""
    odd = here.rename(tmp_path / folder)
    monkeypatch.chdir(odd)
    monkeypatch.setenv("HOME", str(odd))
    job = job_of(root.format(here=odd)) if root != "{here}/" or folder.isprintable() else job_of("")
    found = by_run(job)
    assert values_of(found) == values_of(places.absolute(job)) == values_of(by_plan(job))
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/")
    again = InputConfig.model_validate_json(found.input.model_dump_json())
    assert Fetcher(again).read(f"{odd}/in/a.jpg").data == jpeg(1)
    assert hub.resolve(found.model.checkpoint).samefile(hub.resolve("demo"))


@pytest.mark.parametrize("name", ["schema.json", "~/schema.json", "{here}/schema.json", "file:"])
def test_the_file_of_a_schema_is_read_with_the_job(name: str, here: Path) -> None:
    """Named as any other place; later it may be gone."""
    (here / "schema.json").write_text(
        '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    )
    name = f"file://{here}/schema.json" if name == "file:" else name.format(here=here)
    values = job_of("").model_dump(mode="json", exclude_unset=True)
    values["prompts"][0]["schema"] = name
    Path("job.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert list(load_job("job.yaml").fields) == ["n"]


def test_what_cannot_be_listed_is_told_before_it_is_sent() -> None:
    """The cluster would say so, minutes later."""
    job = job_of("/").model_copy(update={"input": InputConfig(images=("https://x/a",))})
    with pytest.raises(ConfigError, match=r"input\.images: 'https://x/a' cannot be listed"):
        places.absolute(job)


@pytest.mark.parametrize("root", LOCAL)
def test_a_redrive_looks_into_the_table_that_a_run_made(root: str, here: Path) -> None:
    """Before it joins a cluster."""
    write_table(f"{here}/out", [{"row_id": "a"}])
    job = job_of(root.format(here=here))
    Redrive(selection=Selection(), base=job).check(job)
