"""Documents that need a password: it opens them, and is seen nowhere else."""

from __future__ import annotations

import io
import os
import pickle
from contextlib import closing
from pathlib import Path
from typing import Any

import pikepdf
import pytest
import yaml
from pydantic import ValidationError

from dsvl_pipeline.errors import ConfigError, DocumentError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.sources.documents import DocumentRenderer
from tests.jobs import fake_job, parse
from tests.sources.pdfs import tree

WORD = "hunter2-of-the-canary"


def encrypted(user: str, owner: str = "owner's", *, revision: int = 6, count: int = 3) -> bytes:
    """The pages ONE, TWO and THREE under passwords of their user and owner."""
    out = io.BytesIO()
    options: dict[str, Any] = {"aes": revision > 3, "metadata": revision > 3}
    with pikepdf.open(
        io.BytesIO(tree(count=f"/Count {count}")), inherit_page_attributes=False
    ) as pdf:
        pdf.save(out, encryption=pikepdf.Encryption(user=user, owner=owner, R=revision, **options))
    return out.getvalue()


def opened(data: bytes, password: Any = None) -> list[str]:
    """What its pages show."""
    with closing(DocumentRenderer(DocumentConfig(dpi=36, password=password))) as renderer:
        pages = range(renderer.page_count(data))
        assert all(renderer.render(data, page).size == (100, 50) for page in pages)
        return [renderer.text(data, page) for page in pages]


def refusal(data: bytes, password: Any = None) -> DocumentError:
    """How it is refused."""
    with pytest.raises(DocumentError) as caught:
        opened(data, password)
    assert caught.value.code == "document_encrypted"
    return caught.value


@pytest.mark.parametrize(
    ("user", "revision"), [("abc", 2), ("two words", 3), ("pässwörd", 4), ("pässwörd", 6)]
)
def test_the_password_of_the_user_or_the_owner_opens_a_document(user: str, revision: int) -> None:
    """Of every kind of encryption; what is no ASCII has two spellings in bytes."""
    data = encrypted(user, revision=revision)
    assert opened(data, user) == opened(data, "owner's") == ["ONE", "TWO", "THREE"]


def test_all_pages_of_an_encrypted_document_are_found() -> None:
    """Its page tree is written anew without the password."""
    assert opened(encrypted("日本語", count=3), "日本語") == ["ONE", "TWO", "THREE"]
    raw = encrypted("abc", revision=2)
    assert b"/Count 3" in raw
    assert opened(raw.replace(b"/Count 3", b"/Count 1"), "abc") == ["ONE", "TWO", "THREE"]
    # What qpdf cannot read is read again as pdfium writes it.
    broken = raw.replace(b"/Count 3", b"/Count 1 /X 99999999999999999999999")
    assert opened(broken, "abc") == ["ONE", "TWO", "THREE"]


def test_a_missing_and_a_wrong_password_say_so_and_may_be_corrected() -> None:
    """Retryable: a run with the right one reads these rows again."""
    for data in (encrypted("abc"), encrypted("abc", revision=3)):
        missing, wrong = refusal(data), refusal(data, WORD)
        assert (missing.is_retryable, wrong.is_retryable) == (True, True)
        assert "needs a password; give input.document.password" in str(missing)
        assert "the given one, which does not fit" in str(wrong)
        assert WORD not in str(wrong)


@pytest.mark.parametrize("password", [None, "owner's", WORD])
def test_documents_that_need_no_password_open_with_any(password: str | None) -> None:
    """One setting serves a whole directory. Their owner's password only forbids printing."""
    assert opened(tree(), password) == ["ONE", "TWO", "THREE"]
    assert opened(encrypted("", revision=6), password) == ["ONE", "TWO", "THREE"]
    assert opened(encrypted("", revision=3), password) == ["ONE", "TWO", "THREE"]


def test_a_variable_of_the_environment_may_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read when it is needed; a value that looks like a variable is a value."""
    monkeypatch.setenv("PDF_WORD", "abc")
    assert opened(encrypted("abc"), {"env": "PDF_WORD"}) == ["ONE", "TWO", "THREE"]
    for value in ("env:PDF_WORD", "$PDF_WORD", "{env: PDF_WORD}", "PDF_WORD"):
        assert opened(encrypted(value), value) == ["ONE", "TWO", "THREE"]


def job_with(password: Any, tmp_path: Path) -> JobConfig:
    """A job file's, of documents."""
    source = {"documents": "x/*.pdf", "document": {"password": password}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(fake_job(source, "out")))
    return load_job(tmp_path / "job.yaml")


def test_a_variable_is_read_where_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on other machines have another environment."""
    job = job_with({"env": "PDF_WORD"}, tmp_path)
    for value in (None, "", "a\udcff"):
        monkeypatch.delenv("PDF_WORD", raising=False)
        if value is not None:
            os.environb[b"PDF_WORD"] = os.fsencode(value)
        with pytest.raises(ConfigError, match=r"input.document.password: .* PDF_WORD"):
            job.with_password()
    monkeypatch.setenv("PDF_WORD", WORD)
    resolved = pickle.loads(pickle.dumps(job.with_password()))
    monkeypatch.delenv("PDF_WORD")
    assert resolved.input.document.password_text == WORD


def test_nothing_that_is_written_of_a_job_holds_a_password(tmp_path: Path) -> None:
    """Manifests, digests and the caches of workers are made of these."""
    job = job_with(WORD, tmp_path)
    assert job.input.document.password_text == WORD
    for text in (repr(job), str(job), job.model_dump_json(), repr(job.model_dump(mode="json"))):
        assert WORD not in text
    with pytest.raises(ConfigError, match="name an environment variable of the cluster") as caught:
        job.as_yaml()
    assert WORD not in str(caught.value)


def test_a_job_that_names_a_variable_can_be_sent_elsewhere(tmp_path: Path) -> None:
    """Names are no secret."""
    job = job_with({"env": "PDF_WORD"}, tmp_path)
    assert parse(yaml.safe_load(job.as_yaml())) == job


@pytest.mark.parametrize(
    "value",
    [
        20081987,
        4.25,
        True,
        ["hunter2-of-the-canary"],
        "",
        "hunter2-of-the-canary\0",
        {"env": "hunter2-of-the-canary"},
        {"environ": "hunter2-of-the-canary"},
        {"env": "PDF_WORD", "value": "hunter2-of-the-canary"},
        {},
    ],
)
def test_what_is_no_password_is_refused_and_not_shown(value: Any, tmp_path: Path) -> None:
    """YAML makes numbers of some, dates of others: 007 would be 7."""
    with pytest.raises(ConfigError, match=r"job.yaml:\d+: input.document.password: ") as e:
        job_with(value, tmp_path)
    for part in ("hunter2", "20081987", "4.25"):
        assert part not in str(e.value)
    with pytest.raises(ValidationError):
        DocumentConfig(password=value)


@pytest.mark.parametrize(
    "given",
    [
        "input.document.password=!hunter2",
        "input.document.password=*hunter2",
        "input.document.password=@hunter2",
        "input.document.password=[hunter2",
        "input.document.password=[hunter2]",
        "input.documents.password=hunter2",
        "input.document=[{password: hunter2}]",
        "input.document=password hunter2",
    ],
)
def test_no_message_about_a_setting_repeats_a_password(given: str, tmp_path: Path) -> None:
    """On the command line or in the file."""
    job = fake_job({"documents": "x/*.pdf"}, "out")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "job.yaml", [given])
    assert "hunter2" not in str(caught.value)
    name, _, value = given.rpartition("=")
    if name == "input.document.password":
        job["input"]["document"] = {"password": "HERE"}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job).replace("HERE", value))
        with pytest.raises(ConfigError) as caught:
            load_job(tmp_path / "job.yaml")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [
        "document: hunter2",
        "document: [hunter2]",
        "document: 'hunter2'",
        "document:\n    password:\n      !hunter2 x",
        "document:\n    password:\n      # a comment\n\n      !hunter2 x",
        "document:\n    password:\n      env:\n        !hunter2 x",
        "document: {password:\n !hunter2 x}",
        "document:\n    password: !!int hunter2",
        "document:\n    password: !!bool hunter2",
        "document:\n    password:\n      !!timestamp hunter2",
    ],
)
def test_no_message_about_a_file_repeats_a_password(section: str, tmp_path: Path) -> None:
    """Where it stands in place of its section, or on a line below its key."""
    text = yaml.safe_dump({**fake_job({}, "out"), "input": "HERE"})
    section = "input:\n  documents: x/*.pdf\n  " + section
    (tmp_path / "job.yaml").write_text(text.replace("input: HERE", section))
    with pytest.raises(ConfigError, match=r"job.yaml:") as caught:
        load_job(tmp_path / "job.yaml")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["hunter2", "[hunter2]", "{password: !!bool hunter2}"])
def test_no_message_about_a_whole_section_repeats_a_password(value: str, tmp_path: Path) -> None:
    """The same of ``--set``."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(fake_job({"documents": "x/*.pdf"}, "out")))
    with pytest.raises(ConfigError) as caught:
        load_job(tmp_path / "job.yaml", [f"input.document={value}"])
    assert "hunter2" not in str(caught.value)


def test_an_error_elsewhere_in_a_file_with_a_password_is_told_in_full(tmp_path: Path) -> None:
    """Only what stands at or below the password is hidden."""
    text = yaml.safe_dump({**fake_job({}, "out"), "input": "HERE"}, sort_keys=False)
    section = "input:\n  document:\n    password: 'a'\n    dpi: 100\n  images: !nothing x"
    (tmp_path / "job.yaml").write_text(text.replace("input: HERE", section))
    with pytest.raises(ConfigError, match="tag '!nothing'"):
        load_job(tmp_path / "job.yaml")
