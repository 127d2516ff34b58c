"""``dsvl generate``: one answer, without Ray."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.options import named_by_user, option, positive_int
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.errors import ConfigError, RowError
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from pathlib import Path

    from dsvl_pipeline.processor.decode import Frame
    from dsvl_pipeline.processor.processor import Processor
    from dsvl_pipeline.records import Completion, ImageInput, Request, SamplingParams

EXAMPLES = """\
dsvl generate photo.jpg --prompt "Describe the image."
dsvl generate before.png after.png --prompt "What changed?" --checkpoint /models/dsvl-7b
dsvl generate --prompt "Say hello." --temperature 0.7 --seed 3"""
NOTES = "The answer goes to standard output, what there is to say about it to standard error."
EXIT_CODES = {
    0: "answered",
    2: "image, prompt or checkpoint is wrong",
    3: "the engine could not go on",
}
OPTIONS = (
    option("images", nargs="*", metavar="IMAGE", help="path or s3:// URI, in order"),
    option("--prompt", required=True, metavar="TEXT", help="what to ask"),
    option("--checkpoint", default="demo", help="demo, a directory or a hub id (default: demo)"),
    option("--revision", metavar="COMMIT", help="commit of a hub id"),
    option(
        "--max-new-tokens",
        type=positive_int,
        default=128,
        metavar="N",
        help="most tokens of the answer (default: 128)",
    ),
    option("--temperature", type=float, default=0.0, help="0 (default) is greedy"),
    option("--top-k", type=int, default=0, metavar="K", help="0 (default) is off"),
    option("--top-p", type=float, default=1.0, metavar="P", help="1 (default) is off"),
    option("--seed", type=int, default=0, help="of what is drawn (default: 0)"),
)


def execute(args: argparse.Namespace, output: Output) -> int:
    """Ask, print the answer."""
    from dsvl_pipeline import extras, hub
    from dsvl_pipeline.model.end_of_sequence import read_end_of_sequence
    from dsvl_pipeline.processor.processor import Processor

    extras.check_model()
    sampling = _sampling(args)
    directory = hub.resolve(args.checkpoint, args.revision)
    processor = Processor.from_pretrained(directory)
    if warning := read_end_of_sequence(directory).warning:
        output.note(f"({warning})")
    images = [_image(uri, processor, output) for uri in args.images]
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": args.prompt}]
    messages = [{"role": "user", "content": parts}]
    try:
        request = processor.request("the prompt", messages, images, sampling)
    except RowError as error:
        raise ConfigError(str(error)) from error
    answer = _answer(directory, request)
    if answer.error is not None:
        raise ConfigError(answer.error.message)
    value = {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_completion_tokens": len(answer.completion_ids),
    }
    output.result(value, answer.text)
    if answer.finish_reason == "length":
        output.note(f"(cut after {amount(args.max_new_tokens, 'token')}: --max-new-tokens)")
    return 0


def _sampling(args: argparse.Namespace) -> SamplingParams:
    from dsvl_pipeline.records import SamplingParams

    try:
        return SamplingParams(
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _image(uri: str, processor: Processor, output: Output) -> ImageInput:
    from dsvl_pipeline.processor.decode import decode_frame
    from dsvl_pipeline.store import objects

    try:
        with named_by_user():
            frame = decode_frame(objects.read(uri))
    except RowError as error:
        raise ConfigError(f"{uri}: {error}") from error
    image = processor.image(frame.image)
    if frame.num_frames > 1 and frame.holds != "views":
        output.note(f"({_others(uri, frame)})")
    return image


def _answer(directory: Path, request: Request) -> Completion:
    import torch

    from dsvl_pipeline.engine.engine import ModelEngine
    from dsvl_pipeline.records import EngineConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = ModelEngine.from_checkpoint(
        directory, EngineConfig(max_num_sequences=1), dtype="auto", device=device
    )
    try:
        (completion,) = engine.generate([request])
    finally:
        engine.close()
    return completion


def _others(uri: str, frame: Frame) -> str:
    """Say that a file holds more than what is asked about."""
    found = f"{one_line(uri)} holds {frame.num_frames:,} {frame.holds} and the first one is asked"
    if frame.holds == "pages":
        found += "; dsvl run gives a row for each, see input.images and input.frames"
    return found
