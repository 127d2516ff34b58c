"""Norm, activation and quantisation kernels against the torch operations that they replace.

On a GPU (``-m gpu``), or on a CPU in Triton's interpreter: ``TRITON_INTERPRET=1`` and triton.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from dsvl_pipeline.ops import backend
from dsvl_pipeline.ops.activation import silu_mul
from dsvl_pipeline.ops.image_norms import add_layer_norm
from dsvl_pipeline.ops.linear import project
from dsvl_pipeline.ops.norms import add_rms_norm, rms_norm
from dsvl_pipeline.ops.quantize import Quantized, quantize_rows
from tests.ops.kernels import INTERPRETER_WARNS

# the interpreter's; on a GPU the exponential of a large gate is infinite without a word
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")

IS_INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# as in the models, a power of two and not, one column, and widths that end inside a block
WIDTHS = (4096, 11008, 2048, 5632, 1, 33, 100, 1025)

FEW_ROWS_SHAPES = [(1008, 80), (256, 64), (272, 16)]
if not IS_INTERPRETING:  # it would take minutes
    FEW_ROWS_SHAPES += [(4096, 4096), (11008, 4096), (256, 12288)]


@pytest.fixture(
    params=[*(["cpu"] if IS_INTERPRETING else []), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> str:
    """Where kernels run."""
    name: str = request.param
    return name


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call an operation without kernels."""

    def call(function: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        with monkeypatch.context() as patch:
            for name in ("_can_launch", "_is_interpreting"):
                patch.setattr(backend, name, lambda: False)
            return function(*args, **settings)

    return call


def random(*shape: int, dtype: torch.dtype, device: str, seed: int = 0) -> Tensor:
    """Values around 1, the same on every device, in rows of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, generator=generator)
    if len(shape) == 2:
        rows *= torch.logspace(-2, 1, shape[0])[:, None]
    return rows.to(device, dtype)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    """Equal up to sums in another order: few values may round the other way, none far.

    4 eps: two or three roundings one after another. 2 %: the intermediate roundings of torch's
    operations are to be kept; without them a quarter of the values differs.
    """
    assert found.dtype == wanted.dtype
    eps = torch.finfo(wanted.dtype).eps
    if wanted.dtype == torch.float32:
        # Nothing is rounded in between, but a GPU's fast exponential and division are off by bits.
        torch.testing.assert_close(found, wanted, rtol=16 * eps, atol=16 * eps * 1e-3)
        return
    torch.testing.assert_close(found, wanted, rtol=4 * eps, atol=4 * eps * 1e-3)
    if wanted.dtype == torch.bfloat16 and not wanted.is_cuda:  # the interpreter cuts off
        return
    assert (found != wanted).double().mean() < 0.02


def assert_same_quantized(found: Quantized, wanted: Quantized) -> None:
    """Scales up to rounding; values at most one step of e4m3 away, and few of them."""
    assert found.values.dtype == torch.float8_e4m3fn
    assert found.dtype == wanted.dtype
    eps = torch.finfo(wanted.dtype).eps
    torch.testing.assert_close(found.scale, wanted.scale, rtol=4 * eps, atol=0)
    values, wanted_values = found.values.float(), wanted.values.float()
    is_near = torch.isclose(values, wanted_values, rtol=0.125, atol=2**-9)  # 3 bits; the least step
    if not wanted.scale.is_cuda:
        # the interpreter loses the carry of a mantissa that is rounded up to the next power of two
        is_near |= torch.isclose(values, wanted_values / 2, rtol=0.125, atol=2**-9)
        assert is_near.all()
        return
    assert is_near.all()
    assert (values != wanted_values).double().mean() < 0.02


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(device: str, width: int, dtype: torch.dtype, reference: Callable[..., Any]) -> None:
    """Plain, behind an addition, and on to e4m3; the sum itself to the bit."""
    x, delta = (random(5, width, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    args = random(width, dtype=dtype, device=device), 1e-6
    assert_same(rms_norm(x, *args), reference(rms_norm, x, *args))
    total, normed = add_rms_norm(x, delta, *args)
    wanted_total, wanted = reference(add_rms_norm, x, delta, *args)
    if not IS_INTERPRETING:
        assert torch.equal(total, wanted_total)
    assert_same(total, wanted_total)
    assert_same(normed, wanted)
    assert_same_quantized(
        rms_norm(x, *args, quantize=True), reference(rms_norm, x, *args, quantize=True)
    )
    total, quantized = add_rms_norm(x, delta, *args, quantize=True)
    assert_same(total, wanted_total)
    assert_same_quantized(quantized, reference(add_rms_norm, x, delta, *args, quantize=True)[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_gated_activation(
    device: str, width: int, dtype: torch.dtype, reference: Callable[..., Any]
) -> None:
    """Rows of 11008 take the two parts of the quantising kernel."""
    gate_up = random(5, 2 * width, dtype=dtype, device=device)
    assert_same(silu_mul(gate_up), reference(silu_mul, gate_up))
    assert_same_quantized(
        silu_mul(gate_up, quantize=True), reference(silu_mul, gate_up, quantize=True)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_quantized_rows(
    device: str, width: int, dtype: torch.dtype, reference: Callable[..., Any]
) -> None:
    """Alone: nothing comes before that could round differently."""
    x = random(5, width, dtype=dtype, device=device)
    found, wanted = quantize_rows(x), reference(quantize_rows, x)
    assert torch.equal(found.scale, wanted.scale)
    if device == "cuda":
        assert torch.equal(found.values.float(), wanted.values.float())
    assert_same_quantized(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [768, 33])
@pytest.mark.parametrize("has_delta", [False, True])
@pytest.mark.parametrize(
    ("grid", "before", "after"),
    [(3, None, None), (4, None, 3), (4, 3, None), (4, 3, 3), (4, 3, 2), (3, 3, 5)],
)
def test_layer_norm_of_patches(
    device: str,
    width: int,
    dtype: torch.dtype,
    has_delta: bool,
    grid: int,
    before: int | None,
    after: int | None,
    reference: Callable[..., Any],
) -> None:
    """In and out of windows that fit the grid, and that need padding: whose rows stay zeros."""
    x = random(2, grid, grid, width, dtype=dtype, device=device) + 1  # a mean to be removed
    delta = None
    if has_delta:
        edge = before or 1
        count = -(-grid // edge)
        shape = (2 * count * count, edge, edge, width) if before else x.shape
        delta = random(*shape, dtype=dtype, device=device, seed=1)
    weight, bias = (random(width, dtype=dtype, device=device, seed=seed) for seed in (2, 3))
    args: tuple[Any, ...] = (x, delta, weight, bias, 1e-6)
    windows = {"window_before": before if has_delta else None, "window_after": after}
    total, normed = add_layer_norm(*args, **windows)
    wanted_total, wanted = reference(add_layer_norm, *args, **windows)
    assert_same(total, wanted_total)
    assert normed.shape == wanted.shape
    # values around 1: their roundings, and in float32 the error of sums in another order
    tolerance = max(4 * torch.finfo(dtype).eps, 5e-6)
    torch.testing.assert_close(normed, wanted, rtol=tolerance, atol=tolerance)
    is_padding = (wanted == 0).all(-1)
    assert torch.equal((normed == 0).all(-1), is_padding)
    if after:
        assert bool(is_padding.any()) == (grid % after != 0)


def test_rows_without_values_and_no_rows(device: str) -> None:
    """Zeros stay zeros (not 0 / 0), and an empty step launches nothing."""
    zeros = torch.zeros(3, 64, device=device)
    for found in (
        quantize_rows(zeros),
        rms_norm(zeros, zeros[0], 1e-6, quantize=True),
        silu_mul(zeros, quantize=True),
    ):
        assert not found.values.float().any()
        assert found.scale.isfinite().all()
    nothing = zeros[:0]
    assert rms_norm(nothing, zeros[0], 1e-6).shape == (0, 64)
    assert silu_mul(nothing).shape == (0, 32)
    assert quantize_rows(nothing).scale.shape == (0, 1)


def test_rows_may_lie_apart(device: str, reference: Callable[..., Any]) -> None:
    """Columns of a wider matrix: no copy is needed to norm or gate them."""
    wide = random(4, 300, dtype=torch.float32, device=device)
    x, delta, weight = wide[:, :100], wide[:, 150:250], wide[0, :100]
    assert_same(rms_norm(x, weight, 1e-6), reference(rms_norm, x, weight, 1e-6))
    for found, wanted in zip(
        add_rms_norm(x, delta, weight, 1e-6),
        reference(add_rms_norm, x, delta, weight, 1e-6),
        strict=True,
    ):
        assert_same(found, wanted)
    assert_same(silu_mul(x), reference(silu_mul, x))
    assert_same_quantized(silu_mul(x, quantize=True), reference(silu_mul, x, quantize=True))
    assert_same_quantized(quantize_rows(x), reference(quantize_rows, x))


@pytest.mark.gpu
def test_rows_beyond_two_to_the_31_values(reference: Callable[..., Any]) -> None:
    """A large prefill's gates: offsets no longer fit 32 bits."""
    gate_up = torch.randn(100_000, 22016, dtype=torch.bfloat16, device="cuda")
    for start in (0, 97_541, 99_990):  # 97542 * 22016 > 2 ** 31
        rows = slice(start, start + 10)
        assert_same(silu_mul(gate_up)[rows], reference(silu_mul, gate_up[rows]))
        assert_same_quantized(
            silu_mul(gate_up, quantize=True).rows(torch.arange(start, start + 10, device="cuda")),
            reference(silu_mul, gate_up[rows], quantize=True),
        )


@pytest.fixture
def _gpu_seed() -> None:
    torch.manual_seed(0)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_seed")
@pytest.mark.parametrize("num_rows", [1, 2, 3, 15, 16, 17, 100, 129, 256, 1000])
@pytest.mark.parametrize(("K", "N"), [(4096, 12288), (11008, 4096), (256, 1024), (64, 48)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_quantized_product(num_rows: int, K: int, N: int, has_bias: bool) -> None:
    """Any number of rows, against the float64 product of the same eight-bit values.

    Relative to the norm of all, 1 %: bf16 rounds by up to 0.4 %, and sums kept to 14 bits add to
    that the more the longer they are.
    """
    x = torch.randn(num_rows, K, dtype=torch.bfloat16, device="cuda")
    weight = quantize_rows(torch.randn(N, K, dtype=torch.bfloat16, device="cuda"))
    bias = torch.randn(N, dtype=torch.bfloat16, device="cuda") * K**0.5 if has_bias else None
    rows = quantize_rows(x)
    wanted = (rows.values.double() * rows.scale) @ (weight.values.double() * weight.scale).t()
    if bias is not None:
        wanted += bias
    found = project(rows, weight.values, bias, weight.scale)
    assert found.dtype == torch.bfloat16
    assert float((found - wanted).norm() / wanted.norm()) < 0.01
    assert torch.equal(found, project(x, weight.values, bias, weight.scale))


@INTERPRETER_WARNS
@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("K", "N"), FEW_ROWS_SHAPES)
@pytest.mark.parametrize("num_rows", [1, 7, 32, 33, 64, 65, 128])
def test_product_of_few_rows(
    device: str,
    num_rows: int,
    K: int,
    N: int,
    has_bias: bool,
    num_parts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Widths that end inside a block, tiles in one part and in two; again and again the same."""
    from dsvl_pipeline.ops.kernels import linear as few_rows

    monkeypatch.setattr(few_rows, "_num_parts", lambda *_: num_parts)
    x = quantize_rows(random(num_rows, K, dtype=torch.bfloat16, device=device))
    weight = quantize_rows(random(N, K, dtype=torch.bfloat16, device=device, seed=1))
    bias = random(N, dtype=torch.bfloat16, device=device, seed=2) if has_bias else None
    wanted = (x.values.double() * x.scale) @ (weight.values.double() * weight.scale).t()
    if bias is not None:
        wanted += bias
    args = (x.values, x.scale, weight.values, weight.scale, bias, torch.bfloat16)
    found = few_rows.project_few_rows(*args)
    error = (found.double() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert float(error.max()) < 0.01
    for _ in range(3):
        assert torch.equal(few_rows.project_few_rows(*args), found)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_seed")
def test_products_of_few_rows_on_two_streams_and_in_graphs() -> None:
    """Programs that share a tile count each other: never those of another product."""
    weight = quantize_rows(torch.randn(4096, 11008, dtype=torch.bfloat16, device="cuda"))
    inputs = [torch.randn(40, 11008, dtype=torch.bfloat16, device="cuda") for _ in range(4)]

    def run(x: Tensor) -> Tensor:
        return project(x, weight.values, None, weight.scale)

    wanted = [run(x) for x in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    found: list[Tensor] = []
    for _ in range(20):
        for stream, x in zip(streams * 2, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(run(x))
    torch.cuda.synchronize()
    for number, result in enumerate(found):
        assert torch.equal(result, wanted[number % 4])
    # Captured on a stream that has seen no product yet, and replayed with other rows each time.
    x, graph = inputs[0].clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        result = run(x)
    for rows, right in zip(inputs, wanted, strict=True):
        x.copy_(rows)
        graph.replay()
        assert torch.equal(result, right)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_seed")
def test_a_part_of_a_quantized_weight_gives_its_part_of_the_outputs() -> None:
    """The last layer multiplies with the rows of queries, and with those of keys and values."""
    x = torch.randn(37, 256, dtype=torch.bfloat16, device="cuda")
    weight = quantize_rows(torch.randn(768, 256, dtype=torch.bfloat16, device="cuda"))
    whole = project(x, weight.values, None, weight.scale)
    for part in (slice(0, 256), slice(256, 768), slice(16, 48)):
        found = project(x, weight.values[part], None, weight.scale[part])
        # one bf16 step: another number of outputs may sum in another order
        torch.testing.assert_close(found, whole[:, part], rtol=2**-6, atol=0.05)


@pytest.mark.gpu
@pytest.mark.usefixtures("_gpu_seed")
def test_a_quantized_layer_can_be_captured() -> None:
    """A decode step's graph holds norm, product and activation; nothing may wait for the host."""
    x = torch.randn(64, 256, dtype=torch.bfloat16, device="cuda")
    gain = torch.ones(256, dtype=torch.bfloat16, device="cuda")
    up = quantize_rows(torch.randn(1024, 256, dtype=torch.bfloat16, device="cuda"))
    down = quantize_rows(torch.randn(256, 512, dtype=torch.bfloat16, device="cuda"))

    def run() -> Tensor:
        total, normed = add_rms_norm(x, x, gain, 1e-6, quantize=True)
        inner = silu_mul(project(normed, up.values, None, up.scale), quantize=True)
        return total + project(inner, down.values, None, down.scale)

    wanted = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    graph.replay()
    assert torch.equal(found, wanted)
