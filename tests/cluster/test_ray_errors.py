"""What broke must be in the message, not what Ray thinks about it."""

from __future__ import annotations

from typing import Any

import pytest
from ray.data.exceptions import SystemException
from ray.exceptions import ActorDiedError, NodeDiedError, RayError, RayTaskError

from dsvl_pipeline.cluster.ray_errors import explained
from dsvl_pipeline.errors import AccessError, RunStoppedError, StorageError
from dsvl_pipeline.run import run
from tests.jobs import fake_job, parse

TRACEBACK = """\
ray::_map_task() (pid=1, ip=127.0.0.1)
  File "preprocess.py", line 70, in read_work
ValueError: https://user:secret@host/a is not ours
The worker process may have run out of memory; see docs.ray.io"""


def test_an_error_of_ours_comes_out_as_it_is() -> None:
    """Its class holds the exit code; the cause is looked at before what Ray chained to it."""
    error = RayTaskError("read_work", "", StorageError("the store is away"))
    error.__cause__ = SystemException()
    found = explained(error)
    assert type(found) is StorageError
    assert str(found) == "the store is away"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RayTaskError("f", TRACEBACK, OSError(28, "no space left")), "OSError: [Errno 28] no s"),
        (ActorDiedError(RayTaskError("f", TRACEBACK, ValueError())), "ValueError: https://"),
        (NodeDiedError("the node went away\nhint"), "NodeDiedError: the node went away;"),
    ],
)
def test_other_errors_show_their_class_and_message(error: RayError, said: str) -> None:
    """On one line, without Ray's hints and without credentials."""
    error.__cause__ = SystemException()
    found = explained(error)
    assert isinstance(found, RunStoppedError)
    assert said in str(found)
    assert "\n" not in str(found)
    assert "secret" not in str(found)
    assert "docs.ray.io" not in str(found)


@pytest.mark.parametrize("where", ["prepare", "_run_shards"])
def test_a_token_that_expires_under_way_is_no_wrong_job(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Code 2 says that nothing was started, and nobody would look for what was committed."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AccessError("put s3://b/t: ExpiredToken")

    for name in ("prepare", "_run_shards"):
        monkeypatch.setattr(run, name, refuse if name == where else lambda *_, **__: None)
    with pytest.raises((AccessError, RunStoppedError), match="ExpiredToken") as caught:
        run.run_job(parse(fake_job({"images": "x/*.jpg"}, "out")))
    is_early = where == "prepare"
    assert caught.value.exit_code == (2 if is_early else 3)
    assert ("what was committed is safe" in str(caught.value)) != is_early
