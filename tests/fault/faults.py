"""The faults: each disturbs one run, and says which exit codes are right.

Each is a function of a scene; it starts drivers and may leave the run unfinished, as the fault
would. `FAULTS` gives each its name and the stores on which it makes sense.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from dsvl_pipeline.errors import DsvlError
from dsvl_pipeline.store import objects
from dsvl_pipeline.table.log import read_snapshot
from dsvl_pipeline.table.repair import repair
from dsvl_pipeline.table.vacuum import vacuum
from tests.fault.campaign import Scene
from tests.fault.cluster import kill_worker, wait_until
from tests.s3 import Rule

ENGINE = r"MapWorker\(.*Generate"
TASK = r"ray::(MapBatches|StreamingRepartition|write_part)"
SHORT_LEASE_S = 3.0


def small_store_faults(scene: Scene) -> None:
    """Nothing but what every scene has."""
    scene.ended(scene.start(), 0)


def lost_answers(scene: Scene) -> None:
    """Whatever is written, the driver often does not hear that it was."""
    scene.server.rules.insert(
        0, Rule(method="PUT", path="_dsvl", action="reset_after", count=-1, chance=0.4)
    )
    scene.ended(scene.start(), 0)


def outage(scene: Scene) -> None:
    """The store refuses everything for a while, longer or shorter than the client tries again."""
    driver = scene.start()
    scene.pause()
    rule = Rule(method="GET|PUT|HEAD|DELETE", path="", action="slow_down", count=-1)
    scene.server.rules.insert(0, rule)
    wait_until(lambda: not driver.is_running(), scene.draw.choice((3.0, 30.0)))
    scene.server.rules.remove(rule)
    scene.ended(driver, 0, 1, 3)


def kill_engines(scene: Scene) -> None:
    """SIGKILL of the engine's process, once or more."""
    driver = scene.start()
    for _ in range(scene.draw.randint(1, 2)):
        wait_until(lambda: scene.cluster.workers(ENGINE) or not driver.is_running(), 60)
        time.sleep(scene.draw.uniform(0.0, 1.5))
        for pid in scene.cluster.workers(ENGINE):
            kill_worker(pid)
    scene.ended(driver, 0)


def kill_tasks(scene: Scene) -> None:
    """SIGKILL of workers in the middle of reading, preprocessing and writing."""
    driver = scene.start()
    for _ in range(scene.draw.randint(1, 4)):
        time.sleep(scene.draw.uniform(0.0, 0.5))
        wait_until(lambda: scene.cluster.workers(TASK) or not driver.is_running(), 60)
        for pid in scene.cluster.workers(TASK)[:1]:
            kill_worker(pid)
    scene.ended(driver, 0)


def kill_driver(scene: Scene) -> None:
    """SIGKILL of the driver, once or twice; the workers find out by themselves."""
    for _ in range(scene.draw.randint(1, 2)):
        driver = scene.start()
        scene.pause()
        driver.kill(signal.SIGKILL)
        scene.ended(driver, -signal.SIGKILL, 0)


def terminate_driver(scene: Scene) -> None:
    """SIGTERM, as a node that is drained sends it."""
    driver = scene.start()
    scene.pause()
    driver.kill(signal.SIGTERM)
    # The signal may come before Python has begun to listen.
    scene.ended(driver, 3, 0, -signal.SIGTERM)


def kill_node(scene: Scene) -> None:
    """A whole node vanishes, with what its workers did and its object store held."""
    node = scene.cluster.add_node()
    driver = scene.start()
    scene.pause()
    scene.cluster.kill_node(node)
    scene.ended(driver, 0)


def two_drivers(scene: Scene) -> None:
    """The same command twice at once: one does the work, the other says so or finds it done."""
    first = scene.start()
    time.sleep(scene.draw.choice((0.0, scene.draw.uniform(0.0, scene.typical_s))))
    second = scene.start()
    codes = [scene.ended(first, 0, 3), scene.ended(second, 0, 3)]
    assert 0 in codes, f"both gave up: {codes}"
    scene.exit_codes.sort(reverse=True)


def sleeping_driver(scene: Scene) -> None:
    """A driver stops for longer than its lease, is followed, and wakes up."""
    sleeper = scene.start(lease_s=SHORT_LEASE_S)
    scene.pause()
    sleeper.kill(signal.SIGSTOP)
    try:
        time.sleep(SHORT_LEASE_S + 0.5)  # until then it counts as alive, on the same machine
        follower = scene.start()
        time.sleep(scene.draw.uniform(0.0, 2.0 * SHORT_LEASE_S))
    finally:
        sleeper.kill(signal.SIGCONT)
    scene.ended(sleeper, 0, 3)
    scene.ended(follower, 0, 3)


def clock_jumps(scene: Scene) -> None:
    """The clock of a driver is wrong and jumps; its successor's is wrong otherwise."""
    for _ in range(scene.draw.randint(1, 2)):
        clock = scene.folder / "clock"
        _set_wrong(clock, scene.draw)
        driver = scene.start(clock=clock)
        scene.pause()
        _set_wrong(clock, scene.draw)
        if scene.draw.random() < 0.5:
            scene.pause()
            driver.kill(signal.SIGKILL)
        scene.ended(driver, -signal.SIGKILL, 0)


def full_disk(scene: Scene) -> None:
    """The table's disk has too little room; then it gets more."""
    place = Path(scene.table)
    place.mkdir(parents=True, exist_ok=True)
    held = {path.relative_to(place): path.read_bytes() for path in place.rglob("*.*")}
    kib = 4 * scene.draw.randint(4, 30) + sum(len(body) // 1024 + 8 for body in held.values())
    _mount(place, "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs")
    try:
        for name, body in held.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(body)
        scene.ended(scene.start(), 0, 3)
        _mount(place, "-o", "remount,size=64m")
        scene.run_to_a_good_end()
        shutil.copytree(place, scene.folder / "copy", symlinks=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    # What lay under the mount is what was there before.
    shutil.rmtree(place)
    shutil.move(scene.folder / "copy", place)


def lost_part(scene: Scene) -> None:
    """A committed part is deleted or cut; `repair` drops it, the next run computes its rows."""
    scene.run_to_a_good_end()
    path = scene.draw.choice(sorted(read_snapshot(scene.table).parts))
    uri = objects.join(scene.table, path)
    if scene.draw.random() < 0.5:
        objects.delete([uri])
    else:
        objects.put(uri, objects.read(uri)[:-1])
    scene.ended(scene.start(), 3)
    assert [damage.part.path for damage in repair(scene.table).dropped] == [path]


def vacuum_beside(scene: Scene) -> None:
    """Vacuums without regard for age while a run is at work, after one that was killed."""
    killed = scene.start()
    scene.pause()
    killed.kill(signal.SIGKILL)
    scene.ended(killed, -signal.SIGKILL, 0)
    driver = scene.start()
    while driver.is_running():
        with contextlib.suppress(DsvlError):  # no table yet, or the store's faults
            vacuum(scene.table, grace_s=-3600)
        time.sleep(scene.draw.uniform(0.0, 0.5))
    # A vacuum that found nobody at work may have taken the lease just as the run began.
    scene.ended(driver, 0, 3)


def _mount(place: Path, *options: str) -> None:
    command = ["mount", *options, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, f"{command}: {done.stderr}"


def _set_wrong(clock: Path, draw: random.Random) -> None:
    seconds = draw.choice((-86400, -3600, -70, 0, 70, 3600, 86400))
    clock.with_suffix(".new").write_text(str(seconds))
    clock.with_suffix(".new").replace(clock)  # a driver that reads it finds the old or the new


def missing(fault: str) -> str | None:
    """Say what this machine lacks for a fault; None if it can be played."""
    if fault == "full_disk" and os.geteuid() != 0:
        return "needs root, to mount a small tmpfs"
    return None


FAULTS: dict[str, tuple[Callable[[Scene], None], tuple[str, ...]]] = {
    "small_store_faults": (small_store_faults, ("s3",)),
    "lost_answers": (lost_answers, ("s3",)),
    "outage": (outage, ("s3",)),
    "kill_engines": (kill_engines, ("local", "s3")),
    "kill_tasks": (kill_tasks, ("local", "s3")),
    "kill_driver": (kill_driver, ("local", "s3")),
    "terminate_driver": (terminate_driver, ("local", "s3")),
    "kill_node": (kill_node, ("local", "s3")),
    "two_drivers": (two_drivers, ("local", "s3")),
    "sleeping_driver": (sleeping_driver, ("local", "s3")),
    "clock_jumps": (clock_jumps, ("local", "s3")),
    "full_disk": (full_disk, ("local",)),
    "lost_part": (lost_part, ("local", "s3")),
    "vacuum_beside": (vacuum_beside, ("local", "s3")),
}
