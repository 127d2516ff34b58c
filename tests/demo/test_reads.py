"""From picture files to right answers in a table: the whole way, judged by what is said.

A wrong page of keys, a wrong resize or a swapped row shows here as wrong text.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dsvl_pipeline.cli import main
from dsvl_pipeline.table.reader import read_table
from tools.demo_checkpoint import held_out, shape
from tools.demo_checkpoint.scoring import character_errors

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]

FIRST_SEED = 4_000_000  # neither training nor evaluation uses those that follow

JOB = """
name: reads
input: {{manifest: {folder}/manifest.jsonl, columns: {{id: id, image: image, prompt: prompt}}}}
model: {{checkpoint: demo}}
generation: {{max_new_tokens: 440, temperature: 0}}
output: {{uri: {folder}/out}}
max_error_fraction: 0
"""


def draw(
    folder: Path, kind: str, num: int, draw_one: Callable[[int], tuple[Image.Image, str]]
) -> dict[str, str]:
    """Draw files of one kind; give what each says."""
    wanted = {}
    for seed in range(FIRST_SEED, FIRST_SEED + num):
        picture, wanted[f"{kind}-{seed}"] = draw_one(seed)
        picture.save(folder / f"{kind}-{seed}.png")
    return wanted


def test_held_out_pages_and_scenes_are_read(tmp_path: Path) -> None:
    """`dsvl run`: at most 2 % of the characters wrong, at least 95 % of the captions exact."""
    pages = draw(tmp_path, "page", 10, held_out.page)
    scenes = draw(tmp_path, "scene", 20, held_out.scene)
    asked = [(name, shape.TRANSCRIBE) for name in pages]
    asked += [(name, shape.DESCRIBE) for name in scenes]
    lines = [json.dumps({"id": n, "image": f"{n}.png", "prompt": p}) for n, p in asked]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "job.yaml").write_text(JOB.format(folder=tmp_path), encoding="utf-8")

    assert main.main(["run", str(tmp_path / "job.yaml")]) == 0

    rows = read_table(str(tmp_path / "out"), columns=["row_id", "status", "text"]).to_pylist()
    found = {row["row_id"]: row["text"] for row in rows if row["status"] == "ok"}
    assert len(rows) == len(found) == len(pages) + len(scenes)
    edits, characters = character_errors([found[name] for name in pages], list(pages.values()))
    assert characters > 1000
    assert edits <= 0.02 * characters
    wrong = [(wanted, found[name]) for name, wanted in scenes.items() if found[name] != wanted]
    assert len(wrong) <= 0.05 * len(scenes), wrong
