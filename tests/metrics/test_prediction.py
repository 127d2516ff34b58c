"""What a run will take: arithmetic first, then a real sample against the run that follows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from dsvl_pipeline.job.sections import ClusterConfig
from dsvl_pipeline.run.prediction import Measured, predict, spread
from dsvl_pipeline.run.preview import preview
from dsvl_pipeline.run.run import run_job
from tests.jobs import fake_job, parse, write_manifest


def measured(**changes: object) -> Measured:
    """100 rows by two engines: 10 s until they were up, then 20 s."""
    usual = {"source": "a test", "rows": 100, "inputs": 100, "seconds": 30.0, "replicas": 2}
    usual |= {"num_shards": 1}
    usual |= {"engine": {"up_s": 40.0, "decode_s": 30.0, "new_tokens": 500.0}}
    return Measured(**{**usual, **changes})  # type: ignore[arg-type]


def test_rows_take_engine_time_and_shards_take_a_start() -> None:
    """1,000 rows are 400 engine seconds: 100 s of four engines, and two starts of 10 s."""
    cluster = ClusterConfig(price_per_gpu_hour=3.0, currency="EUR")
    found = predict(measured(), num_inputs=1000, num_shards=2, replicas=4, cluster=cluster)
    assert (found.rows, found.new_tokens) == (1000, 5000)
    assert found.seconds == pytest.approx(120)
    assert found.gpu_busy == pytest.approx(0.75)
    assert found.gpu_hours == pytest.approx(4 * 120 / 3600)
    assert found.price == pytest.approx(0.4)
    assert found.currency == "EUR"


def test_a_run_predicts_itself() -> None:
    """The same rows, shards and engines again take the same time."""
    one = measured(num_shards=3, seconds=50.0)
    found = predict(one, num_inputs=100, num_shards=3, replicas=2, cluster=ClusterConfig())
    assert found.seconds == pytest.approx(50.0)
    assert found.price is None


def test_documents_have_the_pages_that_measured_ones_had() -> None:
    """Nobody knows how many pages a document has before it is opened."""
    one = measured(inputs=10)
    found = predict(one, num_inputs=50, num_shards=1, replicas=2, cluster=ClusterConfig())
    assert found.rows == 500
    assert found.seconds == pytest.approx(10 + 50 * 4 / 2)


def test_a_sample_is_spread_over_the_rows() -> None:
    """The first rows of an input are often alike."""
    rows = pa.table({"n": list(range(100))})
    assert spread(rows, 4)["n"].to_pylist() == [0, 25, 50, 75]
    assert spread(rows, 200).num_rows == 100
    assert spread(rows, 0).num_rows == 0


@pytest.mark.parametrize(
    "wrong", [{"price_per_gpu_hour": 0}, {"price_per_gpu_hour": "inf"}, {"currency": "euro"}]
)
def test_a_price_is_a_number_above_nothing(wrong: dict[str, object]) -> None:
    """In a currency by its three letters."""
    with pytest.raises(ValidationError):
        ClusterConfig.model_validate(wrong)


@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
def test_a_plan_predicts_from_a_sample_and_then_from_the_last_run(tmp_path: Path) -> None:
    """Nothing is written by the sample; after a run, its own figures are what counts."""
    source = write_manifest(str(tmp_path / "in"), 120)
    values = fake_job(source, str(tmp_path / "out"), mean_delay_s=0.1)
    values["cluster"] |= {"price_per_gpu_hour": 2.0}
    assert preview(parse(values)).prediction is None
    sampled = preview(parse(values), sample=40).prediction
    assert sampled is not None
    assert "a sample of 40 rows" in sampled.source
    assert sampled.rows == 120
    assert not (tmp_path / "out").exists()
    summary = run_job(parse(values))
    # Not compared with the run's own time: on a shared machine either may take many times as long.
    assert sampled.price == pytest.approx(2.0 * sampled.seconds / 3600)
    assert sampled.seconds > 0.1  # one row takes as long
    assert sampled.new_tokens == pytest.approx(summary.engine["new_tokens"], rel=0.5)
    assert summary.price == pytest.approx(2.0 * summary.seconds / 3600, rel=0.01)
    assert preview(parse(values)).prediction is None  # nothing is to run
    again = preview(parse(values), fresh=True).prediction
    assert again is not None
    assert summary.run_id in again.source
    assert again.seconds == pytest.approx(summary.seconds, rel=0.2)
    assert again.price == pytest.approx(2.0 * again.seconds / 3600)
