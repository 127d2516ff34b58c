"""Job files: every mistake gets a message that says where, what, what is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig, check_grammars
from dsvl_pipeline.job.prompts import PromptConfig
from dsvl_pipeline.job.reading import as_job, load_job
from dsvl_pipeline.records import SamplingParams

GOOD = """\
name: try
input:
  images: photos/*.jpg
prompts:
  - {id: caption, text: "Describe the image."}
model:
  checkpoint: demo
output:
  uri: out/try
"""


def load(tmp_path: Path, text: str, *overrides: str) -> JobConfig:
    """Load a job file with this text."""
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, overrides)


def mistakes(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """Give the lines of the message for a wrong job file, without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_a_good_file_gets_the_defaults(tmp_path: Path) -> None:
    """What is not said is decided in one place, and a lone value is a list of one."""
    job = load(tmp_path, GOOD)
    assert job.input.images == ("photos/*.jpg",)
    assert job.generation.max_new_tokens == 128
    assert job.generation.temperature == 0
    assert job.max_error_fraction == 0.05


def test_a_wrong_key_names_the_nearest_right_one(tmp_path: Path) -> None:
    """A misspelt setting must never be ignored silently."""
    (message,) = mistakes(tmp_path, GOOD + "generation: {max_new_token: 5}\n")
    assert message.startswith(
        "job.yaml:10: generation.max_new_token: no such key; did you mean max_new_tokens? "
        "known keys: max_new_tokens, temperature, "
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "engine: {fake: {mean_delay: 1}}",
            "job.yaml:10: engine.fake.mean_delay: no such key; did you mean mean_delay_s? "
            "known keys: mean_delay_s, mean_completion_tokens, crash_rate, crash_dir, seed",
        ),
        (
            "max_errors: 0.1",
            "job.yaml:10: max_errors: no such key; did you mean max_error_fraction? "
            "known keys: name, input, prompts, model, generation, output, engine, cluster, "
            "kubernetes, limits, max_error_fraction",
        ),
        (
            "cluster: {frobnicate: 1}",
            "job.yaml:10: cluster.frobnicate: no such key; known keys: replicas, rows_per_batch, "
            "batches_in_flight, cpus_per_engine, address, "
            "price_per_gpu_hour, currency",
        ),
    ],
)
def test_wrong_keys_are_found_at_every_depth(tmp_path: Path, text: str, message: str) -> None:
    """Pydantic sections and plain dataclasses alike."""
    assert mistakes(tmp_path, GOOD + text) == [message]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (
            "generation: {temperature: warm}",
            'job.yaml:10: generation.temperature: found "warm": Input should be a valid number',
        ),
        (
            "generation: {max_new_tokens: 0}",
            "job.yaml:10: generation: max_new_tokens is 0; it must be at least 1",
        ),
        (
            "cluster:\n  rows_per_batch: 1000",
            "job.yaml:11: cluster.rows_per_batch: found 1000: "
            "Input should be less than or equal to 32",
        ),
        (
            "cluster: {replicas: 0}",
            "job.yaml:10: cluster.replicas: found 0: Input should be greater than or equal to 1",
        ),
        (
            "cluster: {batches_in_flight: 0}",
            "job.yaml:10: cluster.batches_in_flight: found 0: "
            "Input should be greater than or equal to 1",
        ),
        (
            "generation: 3",
            "job.yaml:10: generation: found 3: this is a section; set generation.KEY, with one of "
            "max_new_tokens, temperature, ",
        ),
        (
            "cluster: [auto]",
            'job.yaml:10: cluster: found ["auto"]: this is a section; set cluster.KEY, with one '
            "of replicas, ",
        ),
        (
            "max_error_fraction:",
            "job.yaml:10: max_error_fraction: found nothing (null); give a value, or leave the key "
            "out",
        ),
        (
            "cluster: {replicas: many}",
            'job.yaml:10: cluster.replicas: found "many": Input should be a valid integer, '
            "unable to parse string as an integer, or Input should be 'auto'",
        ),
        (
            "max_error_fraction: 5",
            "job.yaml:10: max_error_fraction: found 5: Input should be less than or equal to 1",
        ),
    ],
)
def test_wrong_values_say_what_was_found_and_what_is_allowed(
    tmp_path: Path, text: str, start: str
) -> None:
    """With the line of the value, also where a section spans several."""
    (message,) = mistakes(tmp_path, GOOD + text)
    assert message.startswith(start)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  images: photos/*.jpg",
            "  images: []",
            "job.yaml:2: input: input names nothing to read; give manifest, images or documents",
        ),
        (
            "  images: photos/*.jpg",
            "  manifest: rows.csv",
            "job.yaml:2: input: input.columns must name at least one of image, document, prompt",
        ),
        (
            "photos/*.jpg",
            "photos/*.jpg\n  carry: [category]",
            "job.yaml:2: input: columns and carry belong to a manifest, but input.manifest is "
            "empty",
        ),
        (
            "id: caption",
            "id: column",
            "job.yaml:5: prompts.0: prompt id 'column' is kept for the manifest's own prompt "
            "column",
        ),
        (
            '  - {id: caption, text: "Describe the image."}',
            '  - {id: a, text: "x"}\n  - {id: a, text: "y"}',
            "job.yaml:1: the job: prompts has an id twice (a, a); give each its own",
        ),
        (
            'prompts:\n  - {id: caption, text: "Describe the image."}\n',
            "",
            "job.yaml:1: the job: nothing is asked; give prompts, or input.columns.prompt",
        ),
        (
            "photos/*.jpg",
            "null",
            "job.yaml:3: input.images: found nothing (null); give a value, or leave the key out",
        ),
        ("photos/*.jpg", "3", "job.yaml:3: input.images: found 3: Input should be a list"),
        (
            "images: photos/*.jpg",
            "manifest: m.csv\n  columns: {image: i}\n  carry: [a, b, a]",
            "job.yaml:2: input: carry names a column twice (a, b, a); keep one",
        ),
        (
            "name: try",
            "name: My Job",
            'job.yaml:1: name: found "My Job": use lower case letters, digits and dashes (not '
            "first or last), at most 40",
        ),
        (
            "id: caption",
            "id: my caption",
            "job.yaml:5: prompts.0.id: found \"my caption\": use letters, digits, '_', '.' and "
            "'-', at most 64",
        ),
        (
            "uri: out/try",
            "uri: null",
            "job.yaml:9: output.uri: found nothing (null); give a value, or leave the key out",
        ),
        (
            "uri: out/try",
            "uri: out/try\n  num_shards: 0",
            "job.yaml:10: output.num_shards: found 0: Input should be greater than or equal to 1, "
            "or Input should be 'auto'",
        ),
        ("  uri: out/try", "  num_shards: 1", "job.yaml:8: output.uri: required, but not given"),
    ],
)
def test_parts_that_do_not_fit_together_are_mistakes(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """What no single value shows is still found before anything starts."""
    assert old in GOOD
    assert mistakes(tmp_path, GOOD.replace(old, new)) == [message]


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Fixing a file must not take one run per mistake."""
    lines = mistakes(tmp_path, GOOD + "generation: {top_k: x}\ncluster: {replica: 1}\nfoo: 1\n")
    assert [line.split(": ")[1] for line in lines] == ["generation.top_k", "cluster.replica", "foo"]


def test_a_missing_file_points_to_the_examples(tmp_path: Path) -> None:
    """The first thing a newcomer gets wrong."""
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "no.yaml")
    assert str(caught.value) == (
        f"job file {tmp_path}/no.yaml does not exist; configs/ holds examples to copy"
    )


def test_a_directory_is_not_a_job_file(tmp_path: Path) -> None:
    """It exists but cannot be read."""
    with pytest.raises(ConfigError, match=r"cannot be read: .*directory"):
        load_job(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.yaml: holds NoneType, expected keys such as input, prompts, model, output; "),
        ("- a\n- b\n", "job.yaml: holds list, expected keys such as "),
        ("name: [a\n", "job.yaml:2: not valid YAML: "),
        (GOOD + "name: again\n", "job.yaml:10: name is given twice (first in line 1); keep one"),
        (
            GOOD + "cluster: {replicas: 1, replicas: 2}\n",
            "job.yaml:10: cluster.replicas is given twice (first in line 10); keep one",
        ),
        (
            "a: &x [1]\nb: *x\n",
            "job.yaml:2: not valid YAML: aliases are not allowed",
        ),
        ("a: !!python/object:os.system {}\n", "job.yaml:1: not valid YAML: could not determine a"),
    ],
)
def test_yaml_that_is_no_job_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Empty, not a mapping, malformed, ambiguous, expanding, or running code."""
    assert mistakes(tmp_path, text)[0].startswith(message)


def test_set_wins_over_the_file_and_creates_sections(tmp_path: Path) -> None:
    """Values are YAML: numbers are numbers, lists are lists."""
    job = load(
        tmp_path,
        GOOD,
        "output.uri=s3://bucket/x",
        "generation.temperature=0.5",
        "input.images=[a/*.png, b/*.png]",
        "prompts.0.text=What is it?",
        "input.images.1=c/*.png",
    )
    assert job.prompts[0].text == "What is it?"
    assert job.output.uri == "s3://bucket/x"
    assert job.generation.temperature == 0.5
    assert job.input.images == ("a/*.png", "c/*.png")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "generation.temprature=1",
            "job.yaml (--set): generation.temprature: no such key; did you mean temperature? "
            "known keys: ",
        ),
        ("max_error_fraction", "--set max_error_fraction: expected KEY=VALUE, e.g. "),
        ("=3", "--set =3: expected KEY=VALUE, e.g. "),
        ("name.first=x", "--set name.first=x: name is not a section"),
        ("name=[a", "--set name=[a: the value is not valid YAML: "),
        ("generation=3", "job.yaml (--set): generation: found 3: this is a section; set "),
        (
            "prompts.1.text=x",
            "--set prompts.1.text=x: prompts is a list of 1; use a number from 0 to 0, or set the "
            "whole list",
        ),
        ("prompts.first.text=x", "--set prompts.first.text=x: prompts is a list of 1; use a "),
        (
            "prompts.0.texts=x",
            "job.yaml (--set): prompts.0.texts: no such key; did you mean text? ",
        ),
    ],
)
def test_a_wrong_set_says_that_it_came_from_the_command_line(
    tmp_path: Path, override: str, message: str
) -> None:
    """There is no line of a file to look at."""
    assert mistakes(tmp_path, GOOD, override)[0].startswith(message)


def test_jobs_stop_loops_unless_told_otherwise(tmp_path: Path) -> None:
    """The public generate() does as transformers does; a job's rows must end."""
    assert SamplingParams().max_loop_tokens == 0
    assert load(tmp_path, GOOD).generation.max_loop_tokens == 256
    cooler = load(tmp_path, GOOD, "generation={temperature: 0.2}")
    assert cooler.generation.max_loop_tokens == 256
    assert load(tmp_path, GOOD, "generation.max_loop_tokens=0").generation.max_loop_tokens == 0
    # A benchmark that ignores the end of sequence wants all of its tokens.
    assert load(tmp_path, GOOD, "generation.ignore_eos=true").generation.max_loop_tokens == 0


SCHEMA = '{"type":"object","properties":{"b":{"type":"integer"},"a":{"type":"string"}}}'


def with_schema(schema: str, key: str = "schema") -> str:
    """Give the prompt of the good file a schema, in line 6."""
    prompt = '- {id: caption, text: "Describe the image."}'
    block = f'- id: caption\n    {key}: {schema}\n    text: "Describe the image."'
    assert prompt in GOOD
    return GOOD.replace(prompt, block)


class TestGrammars:
    """Schemas and regular expressions of prompts."""

    @pytest.fixture(autouse=True)
    def _library(self) -> None:
        pytest.importorskip("llguidance", reason="comes with the extra 'model'")

    def test_a_schema_stands_in_the_job_or_in_a_file(self, tmp_path: Path) -> None:
        """Workers get it with the job: the file is read where the job is loaded."""
        (tmp_path / "s.json").write_text(SCHEMA)
        inline = load(tmp_path, with_schema(SCHEMA))
        by_path = load(tmp_path, with_schema(str(tmp_path / "s.json")))
        assert inline == by_path
        (prompt,) = inline.prompts
        assert prompt.schema_text == SCHEMA  # in its own order, which is that of the answer
        assert inline.fields == {"b": "integer", "a": "string"}
        assert JobConfig.model_validate_json(inline.model_dump_json()) == inline
        assert inline.model_dump()["prompts"][0]["schema"] == prompt.json_schema

    @pytest.mark.parametrize(
        ("schema", "message"),
        [
            ("{type: objekt}", "the JSON schema cannot be enforced: Invalid type: objekt"),
            ("{not: {type: string}}", "the JSON schema cannot be enforced: Unimplemented keys"),
            ("none.json", 'found "none.json": this file cannot be read as JSON: [Errno 2]'),
            ("[1]", "found [1]: give a JSON schema, or the path of a file that holds one"),
            ("{enum: [2020-01-01]}", "a JSON schema holds only JSON: Object of type date"),
        ],
    )
    def test_a_wrong_schema_names_its_line(self, tmp_path: Path, schema: str, message: str) -> None:
        """Before anything starts, as every mistake of a job file."""
        (found,) = mistakes(tmp_path, with_schema(schema))
        assert found.startswith(f"job.yaml:6: prompts.0.schema: {message}")

    def test_a_wrong_regular_expression_names_its_line(self, tmp_path: Path) -> None:
        """The same for the other kind."""
        (found,) = mistakes(tmp_path, with_schema('"["', "regex"))
        assert found == (
            "job.yaml:6: prompts.0.regex: the regular expression cannot be enforced: unclosed "
            "character class"
        )

    def test_a_prompt_has_one_grammar(self, tmp_path: Path) -> None:
        """Which one should win?"""
        (found,) = mistakes(tmp_path, with_schema(SCHEMA), "prompts.0.regex=a")
        assert found == "job.yaml:5: prompts.0: the prompt has both schema and regex; keep one"

    def test_prompts_that_disagree_about_a_field_are_refused(self, tmp_path: Path) -> None:
        """They share the column."""
        other = "prompts.1={id: b, text: b, schema: {properties: {a: {type: boolean}}}}"
        text = with_schema(SCHEMA).replace("model:", "  - {id: b, text: b}\nmodel:")
        (found,) = mistakes(tmp_path, text, other)
        assert "the schema of prompt 'caption' has 'a' as string, that of prompt 'b'" in found

    def test_a_job_that_was_not_loaded_is_checked_too(self) -> None:
        """Jobs may be made in Python."""
        prompt = PromptConfig.model_validate({"id": "a", "text": "a", "regex": "["})
        job = JobConfig.model_validate(
            {
                "name": "a",
                "input": {"images": "a"},
                "prompts": [prompt],
                "model": {"checkpoint": "demo"},
                "output": {"uri": "out"},
            }
        )
        with pytest.raises(ConfigError, match=r"^prompts.0.regex: the regular expression cannot"):
            check_grammars(job)


def test_a_missing_library_is_named_where_a_schema_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver without the extra can run every job that does not ask for structure."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert load(tmp_path, GOOD)
    (found,) = mistakes(tmp_path, with_schema(SCHEMA))
    assert found.startswith("job.yaml:6: prompts.0.schema: a JSON schema or regular expression")
    assert found.endswith("install it with pip install 'dsvl-pipeline[model]'")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("engine: {kind: fakee}", "'model' or 'fake'; did you mean fake?"),
        ("engine: {kind: FAKE}", "'model' or 'fake'; did you mean fake?"),
        ("engine: {kv_cache_gib: atuo}", "Input should be 'auto'; did you mean auto?"),
        ("cluster: {replicas: Auto}", "Input should be 'auto'; did you mean auto?"),
        ("engine: {quantization: f8}", "'none' or 'fp8'; did you mean fp8?"),
        ("engine: {quantization: int4}", "Input should be 'none' or 'fp8'"),
        ("cluster: {replicas: many}", "or Input should be 'auto'"),
        ("engine: {prefix_sharing: ja}", 'found "ja": Input should be true or false'),
        ("generation: {logprobs: 2}", "found 2: Input should be true or false"),
        ("engine: {cuda_graphs: [true]}", "found [true]: Input should be true or false"),
    ],
)
def test_a_wrong_value_is_told_which_one_was_meant(tmp_path: Path, text: str, end: str) -> None:
    """The nearest of those allowed, where one is near; and what YAML calls a yes."""
    (message,) = mistakes(tmp_path, GOOD + text)
    assert message.endswith(end)


def test_switches_and_choices_of_the_input_are_told_too(tmp_path: Path) -> None:
    """Sections of pydantic as well as plain dataclasses, and what --set says."""
    path = tmp_path / "job.yaml"
    path.write_text(GOOD, encoding="utf-8")
    wrong = ["input.frames=page", "input.check_changes=yess", "output.vanished=dorp"]
    with pytest.raises(ConfigError) as caught:
        load_job(path, wrong)
    ends = [line.partition(" found ")[2] for line in str(caught.value).splitlines()]
    assert ends == [
        '"yess": Input should be true or false',
        "\"page\": Input should be 'pages', 'first' or 'error'; did you mean pages?",
        "\"dorp\": Input should be 'keep' or 'drop'; did you mean drop?",
    ]


def test_a_job_is_a_file_a_dictionary_or_a_job(tmp_path: Path) -> None:
    """Of a dictionary, tuples are lists, paths are texts, and nothing is changed."""
    job = load(tmp_path, GOOD)
    assert as_job(job) is job
    assert as_job(tmp_path / "job.yaml") == as_job(str(tmp_path / "job.yaml")) == job
    values = {
        "name": "try",
        "input": {"images": Path("photos/*.jpg")},
        "prompts": ({"id": "caption", "text": "Describe the image."},),
        "model": {"checkpoint": "demo"},
        "output": {"uri": Path("out/try")},
        "limits": {"max_error_fraction": 0.5},  # an old name
    }
    assert as_job(values).model_copy(update={"limits": job.limits}) == job
    assert as_job(values).limits.stop_above_error_fraction == 0.5
    assert "max_error_fraction" in values["limits"]  # type: ignore[operator]


def test_mistakes_of_a_dictionary_have_no_lines() -> None:
    """There is no file to name."""
    with pytest.raises(ConfigError) as caught:
        as_job({"name": "try", "input": {"image": "a"}, "output": {"uri": 1}})
    lines = str(caught.value).splitlines()
    assert "the job: input.image: no such key; did you mean images? known keys:" in lines[0]
    assert "the job: model: required, but not given" in lines
