"""``dsvl generate``: one answer on the demo checkpoint, and what can be wrong before it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from dsvl_pipeline.cli import main
from tests.processor.vocabularies import DEMO


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """Write a small picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    return str(path)


def test_the_answer_alone_goes_to_standard_output(
    picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it can be piped; the same question gets the same answer."""
    command = ["generate", picture, "--prompt", "What is it?", "--max-new-tokens", "5"]
    assert main.main(command) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\n")
    assert "(cut after 5 tokens: --max-new-tokens)" in first.err
    assert "random weights" not in first.err
    assert main.main(command) == 0
    assert capsys.readouterr().out == first.out


def with_ends(directory: Path, eos_token_id: object) -> str:
    """Copy the demo checkpoint and let its generation_config.json end answers elsewhere."""
    shutil.copytree(DEMO, directory)
    path = directory / "generation_config.json"
    path.write_text(json.dumps({"bos_token_id": 1, "eos_token_id": eos_token_id}))
    return str(directory)


@pytest.mark.parametrize("wrong", [2, "a letter of the answer"])
def test_a_wrong_end_of_sequence_changes_no_answer(
    tmp_path: Path, picture: str, capsys: pytest.CaptureFixture[str], wrong: int | str
) -> None:
    """Conversions say 2, whatever that is: answers ran on, or stopped at the first such letter."""
    command = ["generate", picture, "--prompt", "Describe the image.", "--max-new-tokens", "100"]
    assert main.main(command) == 0
    expected = capsys.readouterr().out
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    token_id = wrong if isinstance(wrong, int) else tokenizer.encode(expected.strip()).ids[5]
    directory = with_ends(tmp_path / "copy", token_id)
    assert main.main([*command, "--checkpoint", directory]) == 0
    found = capsys.readouterr()
    assert found.out == expected
    assert (f"ends answers at {token_id}, no special token" in found.err) == (wrong != 2)


def test_images_and_sampling_reach_the_model(
    picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two pictures or none are fine, and a seed decides where the temperature is high."""
    usual = ["--prompt", "What is it?", "--max-new-tokens", "12", "--temperature", "5"]
    answers = []
    for arguments in ([], [picture, picture], ["--seed", "1"], ["--seed", "1"]):
        assert main.main(["generate", *arguments, *usual]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 3
    assert answers[2] == answers[3]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("a.tif", {"save_all": True}, "a.tif holds 3 pages and the first one is asked; dsvl run"),
        ("a.gif", {"save_all": True}, "a.gif holds 3 frames and the first one is asked)"),
        ("a.mpo", {"save_all": True}, ""),
        ("b.tif", {}, ""),
    ],
)
def test_what_else_a_file_holds_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: dict[str, bool],
    told: str,
) -> None:
    """The answer is about the first page alone; a camera's second lens is no page."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    more = {"append_images": frames[1:], **options} if options else {}
    frames[0].save(tmp_path / name, **more)
    command = ["generate", str(tmp_path / name), "--prompt", "What?", "--max-new-tokens", "2"]
    assert main.main(command) == 0
    found = capsys.readouterr().err
    assert told in found
    assert ("the first one is asked" in found) == bool(told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BROKEN", "--prompt", "x"], "/broken.jpg: "),
        (["no.jpg", "--prompt", "x"], "no.jpg"),
        (["/", "--prompt", "x"], "read /: this is not a regular file"),
        (["--prompt", "x", "--checkpoint", "/nowhere"], "the checkpoint '/nowhere' does not exist"),
        (["--prompt", "x", "--top-p", "0"], "top_p is 0.0; it must be above 0 and at most 1 (off)"),
        (["--prompt", "x" * 5000], "the prompt takes "),
    ],
)
def test_what_is_wrong_is_told_before_the_model_is_loaded(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    """Each with exit code 2."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    monkeypatch.setattr("dsvl_pipeline.model.checkpoint.load_model", None)
    arguments = [str(broken) if word == "BROKEN" else word for word in arguments]
    assert main.main(["generate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsvl: wrong: ")
    assert message in error
