"""A process for what may hang, crash or eat memory, so that it can be killed."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dsvl_pipeline.sandbox.frames import head_of, whole_frame

START_TIMEOUT_S = 60.0


class Child:
    """A process that runs one of our scripts, and what it is told and answers.

    Both directions carry frames (`sandbox.frames`); the script's first one says that it is
    ready. It finds this process's packages and environment, and ends with its standard input.
    """

    def __init__(self, script: Path, *arguments: str) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        self.process = subprocess.Popen(
            # -P: its own directory must not shadow the standard library.
            [sys.executable, "-P", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the driver, which then lets rows finish
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._commands, self._answers = self.process.stdin, self.process.stdout
        for pipe in (self._commands, self._answers):
            os.set_blocking(pipe.fileno(), False)
        try:
            self._write_and_read([], START_TIMEOUT_S)
        except (EOFError, TimeoutError):
            raise RuntimeError(
                f"the process of {script.name} did not start: {self.end()}"
            ) from None

    def exchange(
        self, header: dict[str, Any], payload: bytes, limit_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Send a command and wait for its answer.

        Raises:
            TimeoutError: No whole answer in time.
            EOFError: The process ended (also BrokenPipeError).
        """
        return self._write_and_read([head_of(header, payload), payload], limit_s)

    def end(self) -> str:
        """Kill the process and say how it had ended, or that it was still running."""
        status = self.process.poll()
        self.process.kill()
        self.process.wait()
        self._commands.close()
        self._answers.close()
        self._log.seek(0)
        last_words = self._log.read().decode(errors="replace").strip().rpartition("\n")[2]
        self._log.close()
        if status is None:
            # The pipe closes a moment before the exit status can be had.
            status = self.process.returncode
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"{how}: {last_words}" if last_words else how

    def _write_and_read(
        self, outgoing: list[bytes], limit_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Write and read at once: a child that hangs while it is written to must not hang us."""
        deadline = time.monotonic() + limit_s
        to_write = [memoryview(part) for part in outgoing if part]
        incoming = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            if to_write:
                selector.register(self._commands, selectors.EVENT_WRITE)
            while (frame := whole_frame(incoming)) is None:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fileobj is self._answers:
                        read = os.read(key.fd, 1 << 20)
                        if not read:
                            raise EOFError
                        incoming += read
                    else:
                        to_write[0] = to_write[0][os.write(key.fd, to_write[0]) :]
                        if not to_write[0]:
                            del to_write[0]
                        if not to_write:
                            selector.unregister(self._commands)
        return frame
