"""How a driver's end becomes an exit code, also where the driver could not say one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
from dsvl_pipeline.cli.supervise import supervised
def command():
    print(os.getpid(), flush=True)
    {body}
sys.exit(supervised(command))
"""


def start(body: str) -> tuple[subprocess.Popen[str], int]:
    """Start a supervised command; give the supervisor and the command's process id."""
    program = PROGRAM.format(body=body)
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    return supervisor, int(supervisor.stdout.readline())


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("return 2", 2, ""),
        ("import atexit; atexit.register(os._exit, 7); return 0", 0, ""),
        ("os._exit(1)", 3, "ended without a word (exit code 1), as Ray ends it when its raylet"),
        ("os._exit(0)", 3, "ended without a word (exit code 0)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 3, "ended by SIGKILL; the kernel does that where"),
        ("os.abort()", 3, "ended by SIGABRT; what was committed is safe"),
    ],
)
def test_only_what_was_said_counts(body: str, code: int, said: str) -> None:
    """Ray's own way to end a process has the exit code of a run in which many rows failed."""
    supervisor, _ = start(body)
    _, errors = supervisor.communicate(timeout=900)
    assert supervisor.returncode == code
    assert said in errors
    assert ("what was committed is safe" in errors) == (code == 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    """Who stops a run sees the process that was started, and not its child."""
    supervisor, _ = start(
        f"signal.signal({number.value}, lambda *_: sys.exit(0)); print('ready', flush=True)\n"
        "    try: time.sleep(60)\n"
        "    except SystemExit: return 3"
    )
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == "ready\n"
    supervisor.send_signal(number)
    supervisor.communicate(timeout=900)
    assert supervisor.returncode == 3


def test_a_killed_supervisor_takes_the_command_along() -> None:
    """Else the same command again would find its own ghost at work on the table."""
    supervisor, pid = start("time.sleep(60)")
    supervisor.kill()
    supervisor.communicate(timeout=900)
    end_s = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < end_s, "the command outlived its supervisor"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c_of_a_terminal_comes_once() -> None:
    """A terminal sends it to parent and child alike; a second one would end a run at once."""
    import pty

    master, slave = pty.openpty()
    program = PROGRAM.format(
        body="seen = []; signal.signal(signal.SIGINT, lambda *_: seen.append(1))\n"
        "    print('ready', flush=True); time.sleep(1); time.sleep(0.5); return len(seen)"
    )
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, fcntl, termios\nos.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            + program,
        ],
        stdin=slave,
        stdout=subprocess.PIPE,
        text=True,
    )
    os.close(slave)
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline()
    assert supervisor.stdout.readline() == "ready\n"
    os.write(master, b"\x03")
    supervisor.communicate(timeout=900)
    os.close(master)
    assert supervisor.returncode == 1
