"""The data of safetensors files to their places in memory: mapped for a CPU, staged for a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dsvl_pipeline.errors import CheckpointError
from dsvl_pipeline.hub import weight_files
from dsvl_pipeline.model.tensors import StoredTensor

# Enough to keep a local disk and the bus busy; their product is all the host memory that it takes.
_NUM_THREADS = 8
_STAGE_BYTES = 32 << 20

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}

_Item = TypeVar("_Item")

# Writes the stored tensor of a name into a contiguous tensor of as many elements.
Read = Callable[[str, StoredTensor, Tensor], None]


def is_mapped(device: torch.device) -> bool:
    """Return whether files are mapped into memory, which on a CPU saves the copy into a buffer.

    A GPU's driver would copy mapped memory through a buffer of its own, one thread at a time and a
    few pages ahead of a cold disk.
    """
    return device.type == "cpu"


def for_each(do: Callable[[_Item], None], items: Iterable[_Item], device: torch.device) -> None:
    """Call a function with every item: in order for a CPU, in several threads for a GPU.

    Reading and copying need no GIL. What fails first is raised, and nothing new is begun.
    """
    if is_mapped(device):
        for item in items:
            do(item)
        return

    is_inference = torch.is_inference_mode_enabled()

    def do_alike(item: _Item) -> None:
        with torch.inference_mode(is_inference):  # each thread has a mode of its own as well
            do(item)

    def begin() -> None:
        if device.type == "cuda":  # each thread has a current device of its own
            torch.cuda.set_device(device)

    pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="dsvl-load", initializer=begin)
    try:
        for future in [pool.submit(do_alike, item) for item in items]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def open_files(files: Iterable[Path], device: torch.device) -> Iterator[Read]:
    """Give a function that reads tensors of these files; any thread may call it.

    Raises:
        CheckpointError: A file cannot be read, or its header contradicts itself. So does the
            function.
    """
    with ExitStack() as stack:
        tensors = {}
        for file in files:
            with _named(file):  # also what is read past the library has had its header checked
                opened = safe_open(file, framework="pt", device="cpu")
                tensors[file] = stack.enter_context(opened)

        def read_mapped(name: str, stored: StoredTensor, out: Tensor) -> None:
            with _named(stored.file):
                out.copy_(tensors[stored.file].get_tensor(name).view(out.shape))

        yield read_mapped if is_mapped(device) else _Stages(device).read


def read_all(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Read all tensors of a checkpoint, one after the other.

    Raises:
        CheckpointError: A file is missing or cannot be read.
    """
    for file in weight_files(directory):
        with _named(file), safe_open(file, framework="pt", device="cpu") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                yield name, tensors.get_tensor(name)


class _Stages:
    """Read through one buffer per thread, pinned so that a GPU fetches from it by itself."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._local = threading.local()

    def read(self, name: str, stored: StoredTensor, out: Tensor) -> None:
        dtype = _DTYPES[stored.dtype]
        if stored.num_bytes != out.numel() * dtype.itemsize:
            raise CheckpointError(
                f"{stored.file}: '{name}' has {stored.num_bytes} bytes, but its shape asks for "
                f"{out.numel() * dtype.itemsize}; fetch the file again"
            )
        flat = out.view(-1)
        step = _STAGE_BYTES // dtype.itemsize
        with _named(stored.file), stored.file.open("rb", buffering=0) as file:
            file.seek(stored.start)
            for first in range(0, len(flat), step):
                part = flat[first : first + step]
                stage = self._stage()[: part.numel() * dtype.itemsize]
                _read_exactly(file.readinto, stage)
                # Conversion, if any, is the device's work.
                part.copy_(stage.view(dtype).to(self._device, non_blocking=True))
                if self._device.type == "cuda":  # wait before the buffer is written again
                    torch.cuda.current_stream().record_event().synchronize()

    def _stage(self) -> Tensor:
        """This thread's buffer, ``uint8[_STAGE_BYTES]``."""
        if not hasattr(self._local, "stage"):
            is_pinned = self._device.type == "cuda"
            self._local.stage = torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=is_pinned)
        stage: Tensor = self._local.stage
        return stage


def _read_exactly(readinto: Callable[[memoryview], int | None], stage: Tensor) -> None:
    view = stage.numpy().data
    while view:
        num_read = readinto(view)
        if not num_read:
            raise OSError(f"it ends {len(view)} bytes early")
        view = view[num_read:]


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}; fetch it again") from error
