"""``dsvl generate``: one answer, without Ray."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from dsvl_pipeline.cli.arguments import named_by_user, positive_int
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.wording import amount

if TYPE_CHECKING:
    from dsvl_pipeline.processor.decode import Frame

HELP = "answer one prompt about some images, or none, without Ray"
EPILOG = """\
examples:
  dsvl generate photo.jpg --prompt "Describe the image."
  dsvl generate before.png after.png --prompt "What changed?" --checkpoint /models/dsvl-7b
  dsvl generate --prompt "Say hello." --temperature 0.7 --seed 3

The answer goes to standard output, what there is to say about it to standard error.
exit codes: 0 answered; 2 image, prompt or checkpoint is wrong; 3 the engine could not go on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="path or s3:// URI, in order")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="what to ask")
    parser.add_argument(
        "--checkpoint", default="demo", help="demo, a directory or a hub id (default: demo)"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="commit of a hub id")
    parser.add_argument("--max-new-tokens", type=positive_int, default=128, metavar="N")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 (default) is off")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 (default) is off")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(command=execute)


def execute(args: argparse.Namespace) -> int:
    """Ask, print the answer."""
    from dsvl_pipeline import extras, hub
    from dsvl_pipeline.errors import ConfigError, RowError
    from dsvl_pipeline.model.generation_defaults import read_generation_config
    from dsvl_pipeline.processor.decode import decode_frame
    from dsvl_pipeline.processor.processor import Processor
    from dsvl_pipeline.records import EngineConfig, SamplingParams
    from dsvl_pipeline.store import objects

    extras.check_model()
    try:
        sampling = SamplingParams(
            max_new_tokens=args.max_new_tokens,
            temperature=args.temperature,
            top_k=args.top_k,
            top_p=args.top_p,
            seed=args.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    directory = hub.resolve(args.checkpoint, args.revision)
    processor = Processor.from_pretrained(directory)
    if warning := read_generation_config(directory).warning:
        print(f"({warning})", file=sys.stderr)
    images = []
    for uri in args.images:
        try:
            with named_by_user():
                frame = decode_frame(objects.read(uri))
        except RowError as error:
            raise ConfigError(f"{uri}: {error}") from error
        images.append(processor.image(frame.image))
        if frame.num_frames > 1 and frame.holds != "views":
            print(f"({_others(uri, frame)})", file=sys.stderr)
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": args.prompt}]
    try:
        request = processor.request(
            "the prompt", [{"role": "user", "content": parts}], images, sampling
        )
    except RowError as error:
        raise ConfigError(str(error)) from error

    import torch

    from dsvl_pipeline.engine.engine import ModelEngine

    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine = ModelEngine.from_checkpoint(
        directory, EngineConfig(max_num_sequences=1), dtype="auto", device=device
    )
    try:
        (completion,) = engine.generate([request])
    finally:
        engine.close()
    if completion.error is not None:
        raise ConfigError(completion.error.message)
    print(completion.text)
    if completion.finish_reason == "length":
        print(
            f"(cut after {amount(args.max_new_tokens, 'token')}: --max-new-tokens)", file=sys.stderr
        )
    return 0


def _others(uri: str, frame: Frame) -> str:
    """Say that a file holds more than what is asked about."""
    found = f"{one_line(uri)} holds {frame.num_frames:,} {frame.holds} and the first one is asked"
    if frame.holds == "pages":
        found += "; dsvl run gives a row for each, see input.images and input.frames"
    return found
