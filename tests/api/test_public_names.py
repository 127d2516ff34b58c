"""What ``import dsvl_pipeline`` offers, and what it costs."""

import subprocess
import sys

import pytest

import dsvl_pipeline
from dsvl_pipeline.engine.engine import ModelEngine

CLASSES = [
    f"DeepseekVL{family}{kind}"
    for family in ("", "Hybrid")
    for kind in (
        *("Config", "Processor", "ImageProcessor"),
        *("Model", "PreTrainedModel", "ForConditionalGeneration"),
    )
]

AUTO = ["AutoConfig", "AutoImageProcessor", "AutoModel", "AutoProcessor"]
AUTO += ["AutoModelForImageTextToText"]


def test_the_names_of_the_reference_documentation_are_there() -> None:
    """Its usage examples run with only the import changed."""
    for name in CLASSES:
        assert getattr(dsvl_pipeline, name).__name__ == name
    assert dsvl_pipeline.Engine is ModelEngine
    assert dsvl_pipeline.JobConfig.__name__ == "JobConfig"
    assert callable(dsvl_pipeline.read_table)
    assert callable(dsvl_pipeline.run_job)
    assert callable(dsvl_pipeline.load_job)
    functions = {"iter_batches", "load_job", "pipeline", "read_table", "run_job"}
    functions |= {"register_with_transformers", *AUTO}
    with_pillow = {f"{name}Pil" for name in CLASSES if name.endswith("ImageProcessor")}
    for name in with_pillow:
        assert getattr(dsvl_pipeline, name) is getattr(dsvl_pipeline, name.removesuffix("Pil"))
    others = {"Engine", "GenerationConfig", "JobConfig", *functions}
    assert {*CLASSES, *with_pillow, *others} == {*dsvl_pipeline.__all__}
    assert {*dsvl_pipeline.__all__} <= {*dir(dsvl_pipeline)}


def test_unknown_names_are_attribute_errors() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="'dsvl_pipeline' has no attribute 'Deepseek'"):
        _ = dsvl_pipeline.Deepseek


def test_importing_the_package_loads_neither_torch_nor_ray() -> None:
    """Drivers, CPU workers and the command line start in a moment."""
    program = (
        "import sys, dsvl_pipeline;"
        "heavy = {'torch', 'ray', 'transformers', 'PIL', 'numpy', 'pyarrow'};"
        "print(heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
