"""Train the demo checkpoint, a segment at a time, on one device or several.

torchrun --nproc_per_node=4 -m tools.demo_checkpoint.train --state DIR --seconds 500
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from dsvl_pipeline.model.config import read_model_config
from dsvl_pipeline.model.image_config import read_image_config
from tools.demo_checkpoint import shape, state
from tools.demo_checkpoint.batches import LEVELS, NO_TARGET, Batches
from tools.demo_checkpoint.develop import develop
from tools.demo_checkpoint.exam import Exam
from tools.demo_checkpoint.glyphs import SIZES_PX, faces, glyphs
from tools.demo_checkpoint.optimizer import Optimizer
from tools.demo_checkpoint.reader import Reader, answer_loss, naming_loss
from tools.demo_checkpoint.state import Progress

_SKILL_TO_ADVANCE = 0.85
_MOST_STEPS_AT_LEVEL = 700
_STEPS_BETWEEN_TALKS = 10
_WARM_UP_STEPS = 150


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, train, save."""
    options = _options(arguments)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    started = time.monotonic()
    torch.set_num_threads(max(1, min(4, torch.get_num_threads())))
    for face in faces():  # before the workers are forked, so that they share them
        for size in SIZES_PX:
            for is_reduced in (False, True):
                glyphs(face, size, is_reduced)
    saved = state.peek(options.state)
    progress = saved or Progress(seed=options.seed)
    level = multiprocessing.Value("i", progress.level)
    batches = Batches(
        size=options.batch_size,
        seed=progress.seed,
        rank=rank,
        first=progress.num_steps,
        level=_Level(level),
    )
    if torch.cuda.is_available():  # before the loader's thread pins memory for this device
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # Before NCCL has threads that a fork would copy half of.
    supply = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=count(),
            num_workers=options.workers,
            prefetch_factor=4 if options.workers else None,
            multiprocessing_context="fork" if options.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
    )
    trainer = Trainer(options, progress, level, rank, world, started)
    trainer.run(supply)
    if world > 1:
        dist.destroy_process_group()


class _Level:
    """The level as the workers see it."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> int:
        return int(self._value.value)


class Trainer:
    """One rank of a training."""

    def __init__(
        self,
        options: argparse.Namespace,
        progress: Progress,
        level: Any,
        rank: int,
        world: int,
        started: float,
    ) -> None:
        self.options, self.progress, self.level = options, progress, level
        self.rank, self.world, self.started = rank, world, started
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.talk: Any = None
        if world > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            self.talk = dist.new_group(backend="gloo")  # talking must not wait for the device
        with tempfile.TemporaryDirectory() as directory:
            shape.write(Path(directory))
            config = read_model_config(Path(directory))
            self.image_config = read_image_config(Path(directory))
        self.reader = Reader(config, seed=progress.seed).to(self.device)
        self.optimizer = Optimizer(self.reader)
        state.load(options.state, self.optimizer)
        self.exam = Exam(self.image_config, rank=rank, size=options.exam_size)
        torch.manual_seed(progress.seed + 1000 * progress.num_steps + rank)
        torch._dynamo.config.suppress_errors = True  # what does not compile still runs
        is_fast = self.device.type == "cuda" and not options.eager
        compiled = torch.compile if is_fast else lambda function, **_: function
        self.develop = compiled(develop, dynamic=False)
        self.image_tokens = compiled(self.reader.image_tokens, dynamic=False)
        self.logits = compiled(self.reader.logits, dynamic=False)
        self.names = compiled(self.reader.names, dynamic=False)
        self.answer_loss = compiled(answer_loss, dynamic=False)
        self.naming_loss = compiled(naming_loss, dynamic=False)
        self.spent = progress.seconds

    def run(self, supply: Iterator[dict[str, Tensor]]) -> None:
        """Take steps until the time is over; save now and then, and at the end."""
        options, progress = self.options, self.progress
        self._say(
            f"{len(faces())} faces, {self.world} x {options.batch_size} pictures a step, from step "
            f"{progress.num_steps}, level {progress.level}, ready after {self._elapsed():.0f} s"
        )
        window = _Window(self.device)
        since_print, since_exam, since_save = time.monotonic(), time.monotonic(), time.monotonic()
        plan = self._talk(False, False)
        while not plan["stop"]:
            waiting = time.monotonic()
            batch = next(supply)
            window.waited += time.monotonic() - waiting
            batch = {
                name: value.to(self.device, non_blocking=True) for name, value in batch.items()
            }
            self._step(batch, plan["lr"], window)
            if progress.num_steps >= options.max_steps:
                break
            if progress.num_steps % _STEPS_BETWEEN_TALKS:
                continue
            now = time.monotonic()
            if now - since_print > options.print_seconds or progress.num_steps < 40:
                since_print = now
                self._report(window, plan["lr"])
                window = _Window(self.device)
            is_exam = now - since_exam > options.exam_seconds
            is_save = now - since_save > options.save_seconds
            plan = self._talk(is_exam, is_save)
            if plan["exam"]:
                self._examine()
                since_exam = time.monotonic()
            if plan["save"]:
                self._save()
                since_save = time.monotonic()
        self._report(window, plan["lr"])
        self._save()
        self._examine()
        self._say(f"ended after {self._elapsed():.0f} s")

    def _step(self, batch: dict[str, Tensor], lr: float, window: _Window) -> None:
        answer = batch["answer"]
        with torch.no_grad():
            low_res, high_res = self.develop(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            image_tokens = self.image_tokens(low_res, high_res)
            logits = self.logits(image_tokens, batch["prompt"], answer)
            names = self.names(image_tokens)
        said, named = self.answer_loss(logits, answer), self.naming_loss(names, batch["slots"])
        (said + self.options.naming_weight * named).backward()
        if self.world > 1:
            dist.all_reduce(self.optimizer.gradients)
            self.optimizer.gradients.div_(self.world)
        progress = self.progress
        warm = min(1.0, (progress.num_steps + 1) / _WARM_UP_STEPS)
        norm = self.optimizer.step(lr * warm, max_norm=1.0)
        progress.num_steps += 1
        progress.num_pages += self.world * answer.shape[0]
        if progress.num_steps % 5 == 0:
            window.add(said, named, norm, logits, answer, names, batch["slots"])
        window.num_pages += self.world * answer.shape[0]

    def _report(self, window: _Window, lr: float) -> None:
        """Print what the steps since the last line were like, and judge the skill by it."""
        progress = self.progress
        found = window.means()
        if found is None:
            return
        progress.skill = found["skill"]
        took = time.monotonic() - window.started
        self._say(
            f"step {progress.num_steps} level {progress.level} pages {progress.num_pages / 1e6:.3f}"
            f" M, {window.num_pages / took:.0f}/s, waiting {100 * window.waited / took:.0f} %, lr "
            f"{lr:.2e}, loss {found['said']:.3f} right {100 * found['skill']:.1f} %, cells "
            f"{found['named']:.3f} right {100 * found['cells']:.1f} %, norm {found['norm']:.2f}"
        )

    def _talk(self, is_exam: bool, is_save: bool) -> dict[str, Any]:
        """Agree on what comes next; the first rank decides."""
        options, progress = self.options, self.progress
        left = options.seconds - self._elapsed()
        lr = options.lr
        if options.anneal_seconds:
            lr *= min(1.0, max(0.01, left / options.anneal_seconds))
        if self.rank == 0:
            progress.steps_at_level += _STEPS_BETWEEN_TALKS
            is_over = progress.steps_at_level >= _MOST_STEPS_AT_LEVEL
            if (progress.skill > _SKILL_TO_ADVANCE or is_over) and progress.level + 1 < len(LEVELS):
                progress.level += 1
                progress.steps_at_level, progress.skill = 0, 0.0
        plan = [
            {
                "stop": left <= 0,
                "exam": is_exam,
                "save": is_save,
                "lr": lr,
                "level": progress.level,
            }
        ]
        if self.world > 1:
            dist.broadcast_object_list(plan, src=0, group=self.talk)
        progress.level = plan[0]["level"]
        self.level.value = progress.level
        return plan[0]

    def _examine(self) -> None:
        """Let every rank answer its own questions, and print the sum."""
        if not self.options.exam_size:
            return
        began = time.monotonic()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            counts = self.exam.sit(self.reader, self.device)
        if self.world > 1:
            dist.all_reduce(counts)
        edits, characters, right, captions, short_edits, short_characters = counts.tolist()
        self._say(
            f"== held out: characters wrong {100 * edits / characters:.2f} % of {characters:.0f} "
            f"(single lines {100 * short_edits / max(1, short_characters):.2f} %), captions right "
            f"{100 * right / captions:.1f} % of {captions:.0f}; {time.monotonic() - began:.0f} s"
        )
        if self.rank == 0:
            print(self.exam.example, flush=True)

    def _save(self) -> None:
        if self.rank == 0:
            self.progress.seconds = self.spent + self._elapsed()
            state.save(self.options.state, self.optimizer, self.progress)

    def _elapsed(self) -> float:
        return time.monotonic() - self.started

    def _say(self, text: str) -> None:
        if self.rank == 0:
            print(f"{self._elapsed():4.0f} s  {text}", flush=True)


class _Window:
    """Means over some steps, kept on the device so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.started, self.waited, self.num_pages = time.monotonic(), 0.0, 0
        self._sums = torch.zeros(7, device=device)
        self._num_steps = 0

    @torch.no_grad()
    def add(
        self,
        said: Tensor,
        named: Tensor,
        norm: Tensor,
        logits: Tensor,
        answer: Tensor,
        names: Tensor,
        slots: Tensor,
    ) -> None:
        is_token, is_held = answer != NO_TARGET, slots > 0
        tokens_right = ((logits.argmax(-1) == answer) & is_token).sum()
        cells_right = ((names.argmax(-1) == slots) & is_held).sum()
        values = (said, named, norm, tokens_right, is_token.sum(), cells_right, is_held.sum())
        self._sums += torch.stack([value.float() for value in values])
        self._num_steps += 1

    def means(self) -> dict[str, float] | None:
        """None where too few steps were taken to tell."""
        if not self._num_steps:
            return None
        said, named, norm, tokens_right, tokens, cells_right, cells = self._sums.tolist()
        steps = self._num_steps
        return {
            "said": said / steps,
            "named": named / steps,
            "norm": norm / steps,
            "skill": tokens_right / max(1.0, tokens),
            "cells": cells_right / max(1.0, cells),
        }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools.demo_checkpoint.train", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="where to go on from and save")
    parser.add_argument("--seconds", type=float, default=500, help="time in all, start included")
    parser.add_argument("--anneal-seconds", type=float, default=0, help="lower the rate at the end")
    parser.add_argument("--batch-size", type=int, default=128, help="pictures of a rank and step")
    parser.add_argument("--workers", type=int, default=10, help="processes that draw, of a rank")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--naming-weight", type=float, default=1.0, help="of the cells' loss")
    parser.add_argument("--seed", type=int, default=1, help="of a new training")
    parser.add_argument("--max-steps", type=int, default=1 << 40, help="stop there at the latest")
    parser.add_argument("--print-seconds", type=float, default=10)
    parser.add_argument("--exam-seconds", type=float, default=90)
    parser.add_argument("--exam-size", type=int, default=32, help="pages and scenes of a rank")
    parser.add_argument("--save-seconds", type=float, default=150)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
