"""Measure a checkpoint: characters wrong on held-out pages and on a PDF's, exact captions.

python -m tools.demo_checkpoint.evaluate demo --document dsvl_pipeline/demo/samples/handbook.pdf

Pages and scenes are drawn at run time (`held_out`), made into PNG files, and go the way that a
job's go: processor, then engine.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.results import write_results
from dsvl_pipeline import hub
from dsvl_pipeline.engine.engine import ModelEngine
from dsvl_pipeline.processor.processor import Processor
from dsvl_pipeline.records import EngineConfig, SamplingParams
from tools import demo_samples
from tools.demo_checkpoint import held_out, shape
from tools.demo_checkpoint.glyphs import faces
from tools.demo_checkpoint.scoring import character_errors, edit_distance

MOST_TOKENS = 440
DPI = 144  # a job's default
_ROWS_AT_A_TIME = 32


def evaluate(
    directory: Path, *, num_pages: int, num_scenes: int, document: Path | None, device: str
) -> dict[str, Any]:
    """Answer and score.

    Args:
        directory: A checkpoint.
        num_pages: Held-out pages, of the seeds from 0.
        num_scenes: Held-out scenes, likewise.
        document: The PDF among the samples; None leaves it out.
        device: As torch names it.

    Returns:
        What `main` writes: rates in percent, and the worst answers.
    """
    processor = Processor.from_pretrained(directory)
    engine = ModelEngine.from_checkpoint(
        directory, EngineConfig(kv_cache_gib=1.0), dtype="auto", device=device
    )
    result: dict[str, Any] = {
        "weights": hub.weights_digest(directory),
        "device": device,
        "faces": list(faces()),
        "seeds": {"pages": [0, num_pages], "scenes": [0, num_scenes]},
    }
    try:
        pages = (held_out.page(seed) for seed in range(num_pages))
        result["pages"] = _read(processor, engine, pages)
        if document is not None:
            result["document_pages"] = _read(processor, engine, _rendered(document))
        scenes = (held_out.scene(seed) for seed in range(num_scenes))
        answers = list(_answers(processor, engine, scenes, shape.DESCRIBE))
    finally:
        engine.close()
    wrong = [(wanted, found) for wanted, found in answers if wanted != found]
    result["scenes"] = {
        "count": len(answers),
        "exact_percent": round(100 * (1 - len(wrong) / max(1, len(answers))), 2),
        "wrong": wrong[:10],
    }
    return result


def _rendered(document: Path) -> Iterator[tuple[Image.Image, str]]:
    """Render the sample document's pages at a job's default resolution; give their texts."""
    import pypdfium2  # only documents need it

    pages = pypdfium2.PdfDocument(document)
    for page, lines in zip(pages, demo_samples.CHAPTERS, strict=True):
        image = page.render(scale=DPI / 72).to_pil().convert("RGB")
        yield image, "\n".join(line for line in lines if line)


def _read(
    processor: Processor, engine: ModelEngine, pages: Iterator[tuple[Image.Image, str]]
) -> dict[str, Any]:
    began = time.monotonic()
    answers = list(_answers(processor, engine, pages, shape.TRANSCRIBE))
    seconds = time.monotonic() - began
    edits, characters = character_errors([found for _, found in answers], [w for w, _ in answers])
    worst = sorted(answers, key=lambda answer: -edit_distance(answer[1], answer[0]))
    return {
        "count": len(answers),
        "characters": characters,
        "error_percent": round(100 * edits / max(1, characters), 3),
        "without_error": sum(wanted == found for wanted, found in answers),
        "seconds_per_page": round(seconds / max(1, len(answers)), 3),
        "worst": worst[:5],
    }


def _answers(
    processor: Processor,
    engine: ModelEngine,
    pictures: Iterator[tuple[Image.Image, str]],
    prompt: str,
) -> Iterator[tuple[str, str]]:
    """Give what was wanted and what was found, in order."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    sampling = SamplingParams(max_new_tokens=MOST_TOKENS)
    while some := list(islice(pictures, _ROWS_AT_A_TIME)):
        requests = [
            processor.request(
                str(index), [{"role": "user", "content": content}], [_png(image)], sampling
            )
            for index, (image, _) in enumerate(some)
        ]
        completions = engine.generate(requests)
        for (_, wanted), completion in zip(some, completions, strict=True):
            yield wanted, completion.text


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    """Parse, evaluate, print, write."""
    parser = argparse.ArgumentParser(prog="tools.demo_checkpoint.evaluate")
    parser.add_argument("checkpoint", help="a directory, or demo")
    parser.add_argument("--pages", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--document", type=Path, help="the sample PDF, to be read as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--write", action="store_true", help="also into benchmarks/results")
    options = parser.parse_args()
    result = evaluate(
        hub.resolve(options.checkpoint),
        num_pages=options.pages,
        num_scenes=options.scenes,
        document=options.document,
        device=options.device,
    )
    print(json.dumps(result, indent=2))
    if options.write:
        device = None if options.device == "cpu" else options.device
        write_results("demo-checkpoint", result, device=device)


if __name__ == "__main__":
    main()
