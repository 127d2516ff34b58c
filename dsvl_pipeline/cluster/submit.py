"""A job on a Ray cluster that runs already, through the job API of its head."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import requests
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

import dsvl_pipeline
from dsvl_pipeline.cluster.connect import check_reachable
from dsvl_pipeline.cluster.private_ray import log_errors_only
from dsvl_pipeline.errors import ConfigError, RunStoppedError

_POLL_S = 1.0
_START_S = 60.0  # a head answers before its own agent does
_SILENCE_S = 300.0
_FAILURES = (RuntimeError, OSError, requests.RequestException, ClientError)


class RayHead:
    """The job API of a Ray cluster's head.

    Args:
        address: ``http://HEAD:8265``. None is what Ray's own tools take: ``RAY_API_SERVER_ADDRESS``
            or ``RAY_ADDRESS``, else the cluster on this machine.

    Raises:
        ConfigError: Nobody answers there, or it wants a token that is not ours.
    """

    def __init__(self, address: str | None = None) -> None:
        # They tell of every upload, and warn of the demo checkpoint's size.
        logging.getLogger("ray.dashboard").setLevel(logging.WARNING)
        log_errors_only("packaging")
        variables = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
        found = [address, *map(os.environ.get, variables)]
        self._named = next(filter(None, found), "this machine")
        try:
            if not self._named.startswith("http"):
                check_reachable(self._named)
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise ConfigError(
                f"the Ray head at {self._named} did not accept our token: {error}; set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the cluster's"
            ) from error
        except (*_FAILURES, ValueError) as error:
            raise ConfigError(
                f"no Ray head answers at {self._named}: {error}; give --address "
                "http://HEAD:8265 (the port of its dashboard), or start one with `ray start --head`"
            ) from error

    def submit(self, name: str, job_text: str, arguments: list[str]) -> str:
        """Start ``dsvl run`` there, with this version of the package, and return the job's id.

        Environment variables, those with credentials too, are the cluster's own.

        Args:
            name: Begins the id.
            job_text: The job file.
            arguments: For ``dsvl run``; they go through a shell and must hold nothing of a user's.

        Raises:
            ConfigError: The head refused; nothing was started.
        """
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "job.yaml").write_text(job_text, encoding="utf-8")
            # Driver and workers run what was submitted, whatever the cluster has.
            package = str(Path(dsvl_pipeline.__file__).parent)
            end_s = time.monotonic() + _START_S
            while True:
                try:
                    return self._client.submit_job(
                        entrypoint=" ".join([*COMMAND, *arguments]),
                        submission_id=f"{name}-{uuid.uuid4().hex[:8]}",
                        runtime_env={"working_dir": folder, "py_modules": [package]},
                    )
                except _FAILURES as error:
                    is_starting = "No available agent" in str(error)
                    if not is_starting or time.monotonic() > end_s:
                        raise ConfigError(
                            f"the Ray head at {self._named} did not take the job: {error}"
                        ) from error

    def follow(self, job_id: str, write: Callable[[str], None]) -> int:
        """Follow a job's output until it has ended; return its exit code.

        Args:
            job_id: From `submit`.
            write: Takes pieces of text as they come.

        Raises:
            RunStoppedError: It was stopped, its driver was lost, or the head is gone.
        """
        asyncio.run(self._tail(job_id, write))
        silent_since_s = time.monotonic()
        while True:
            try:
                found = self._client.get_job_info(job_id)
            except _FAILURES as error:
                if time.monotonic() - silent_since_s > _SILENCE_S:
                    _lost(job_id, f"its head has not answered for {_SILENCE_S:g} s: {error}", error)
            else:
                if found.status.is_terminal():
                    break
                silent_since_s = time.monotonic()
            time.sleep(_POLL_S)
        if found.status == JobStatus.SUCCEEDED:
            return 0
        if found.status == JobStatus.STOPPED or found.driver_exit_code is None:
            _lost(job_id, found.message or f"it ended as {found.status}")
        # Killed by a signal: no code of ours.
        return found.driver_exit_code if 0 < found.driver_exit_code <= 3 else 3

    async def _tail(self, job_id: str, write: Callable[[str], None]) -> None:
        try:
            async for text in self._client.tail_job_logs(job_id):
                write(text)
        except _FAILURES as error:
            write(f"dsvl: the job's output is lost from here on ({error}); waiting for its end\n")


COMMAND = ["python", "-m", "dsvl_pipeline", "run", "--config", "job.yaml"]
"""What a submitted job runs, in a directory that holds the job file."""


def _lost(job_id: str, why: str, cause: Exception | None = None) -> NoReturn:
    raise RunStoppedError(
        f"Ray job {job_id}: {why}; what was committed is safe, submit it again to go on"
    ) from cause
