"""From a checkpoint on local disk to the first answer, by phase.

    python -m benchmarks.startup [directory] [--random] [--device cuda] [--quantization fp8]

The phases: importing the package (torch included); loading weights; taking memory for keys and
values and starting the engine; the first answer, with whatever is compiled on its way; a second
answer, which says what of the first was the work itself. ``--random`` first writes a checkpoint of
the 7B's shape with random weights into the directory (15 GB), if none is there. Run it twice: the
first time Triton compiles, the second it finds its cache; and the disk's cache is warm.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

START_S = time.perf_counter()
NUM_SHARDS = 4


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", help="the demo checkpoint by default")
    parser.add_argument("--random", action="store_true", help="write random weights there before")
    parser.add_argument("--device", help="cuda where there is one")
    parser.add_argument("--quantization", default="none", choices=["none", "fp8"])
    options = parser.parse_args()

    # Imported here, so that the time it takes is a phase of its own.
    import torch

    from benchmarks.results import gpu_versions, write_results
    from dsvl_pipeline import hub
    from dsvl_pipeline.engine.engine import ModelEngine
    from dsvl_pipeline.model.checkpoint import load_model
    from dsvl_pipeline.records import EngineConfig

    seconds = {"import": time.perf_counter() - START_S}
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    is_cuda = torch.device(device).type == "cuda"
    directory = options.directory or hub.resolve(hub.DEMO)
    if options.random and not (directory / "config.json").exists():
        write_random(directory)

    clock = time.perf_counter()
    if is_cuda:
        torch.empty(1, device=device)
    seconds["device"], clock = time.perf_counter() - clock, time.perf_counter()

    def timed_load(*arguments: Any, **named: Any) -> Any:
        begun_s = time.perf_counter()
        model = load_model(*arguments, **named)
        if is_cuda:
            torch.cuda.synchronize()
        seconds["load"] = time.perf_counter() - begun_s
        return model

    # from_checkpoint is one call; this tells its parts apart.
    vars(sys.modules[ModelEngine.__module__])["load_model"] = timed_load
    fields = EngineConfig.__dataclass_fields__
    config = EngineConfig(
        **({"quantization": options.quantization} if "quantization" in fields else {})
    )
    engine = ModelEngine.from_checkpoint(directory, config, dtype="auto", device=device)
    seconds["memory"] = time.perf_counter() - clock - seconds["load"]
    try:
        for phase in ("first answer", "second answer"):
            clock = time.perf_counter()
            (completion,) = engine.generate([make_request(directory, phase)])
            seconds[phase] = time.perf_counter() - clock
            if completion.error is not None:
                raise SystemExit(f"{phase}: {completion.error}")
    finally:
        engine.close()
    seconds["to the first answer"] = sum(seconds.values()) - seconds["second answer"]

    num_bytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    for phase, value in seconds.items():
        print(f"{phase:20} {value:8.2f} s", flush=True)
    print(f"{num_bytes / 1e9:.2f} GB of weights, {num_bytes / 1e9 / seconds['load']:.2f} GB/s")
    name = torch.cuda.get_device_name().split()[-1].lower() if is_cuda else None
    write_results(
        f"startup-{directory.name}" + ("-fp8" if options.quantization == "fp8" else ""),
        {"seconds": seconds, "weights_bytes": num_bytes},
        device=name,
        gpu=gpu_versions() if is_cuda else None,
    )


def make_request(directory: Path, name: str) -> Any:
    """One picture of noise, 48 tokens of text around it, eight tokens to answer."""
    import numpy as np

    from dsvl_pipeline.model.config import read_model_config
    from dsvl_pipeline.records import ImageInput, Request, SamplingParams

    model = read_model_config(directory)
    noise = np.random.default_rng(len(name))

    def square(side: int) -> Any:
        return noise.integers(0, 256, (side, side, 3), dtype=np.uint8)

    text = np.full(24, model.image_token_id + 1, dtype=np.int32)
    places = np.full(model.num_image_tokens, model.image_token_id, dtype=np.int32)
    picture = ImageInput(
        digest=noise.bytes(16),
        high_res=None if model.high_res is None else square(model.high_res.image_size_px),
        low_res=square(model.low_res.image_size_px),
    )
    return Request(
        request_id=name,
        prompt_ids=np.concatenate([text, places, text]),
        images=(picture,),
        sampling=SamplingParams(max_new_tokens=8, ignore_eos=True),
    )


def write_random(directory: Path) -> None:
    """Write the 7B's shape with random bf16 weights in shards, and the demo's tokenizer."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.shapes import FULL, read_shape, write_configs
    from dsvl_pipeline import hub
    from dsvl_pipeline.model.checkpoint import build_empty, list_targets
    from dsvl_pipeline.model.names import dialect_names

    directory.mkdir(parents=True, exist_ok=True)
    demo = hub.resolve(hub.DEMO)
    for name in ("tokenizer.json", "generation_config.json"):
        (directory / name).write_bytes((demo / name).read_bytes())
    names = dialect_names(["model.language_model.embed_tokens.weight"], is_hybrid=True)
    targets = dict(list_targets(build_empty(read_shape(FULL).model), names))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight_map = {}
    for number in range(NUM_SHARDS):
        shard = f"model-{number + 1:05d}-of-{NUM_SHARDS:05d}.safetensors"
        tensors = {
            name: torch.empty(targets[name].shape, dtype=torch.bfloat16, device=device)
            .normal_(0.0, 0.02)
            .cpu()
            for name in list(targets)[number::NUM_SHARDS]
        }
        save_file(tensors, directory / shard)
        weight_map.update(dict.fromkeys(tensors, shard))
        print(f"written: {directory / shard}", flush=True)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    write_configs(directory, FULL)  # last: with it the checkpoint is whole


if __name__ == "__main__":
    main()
