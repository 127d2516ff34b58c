"""Prove the Dockerfile where no Docker is: take its own steps in a chroot, and try what they made.

Each stage is a directory. The base is what debootstrap makes of the Debian release that ``FROM``
names, which is how that image is made; `RUN` runs in a chroot of its own mount namespace, `COPY`
sees only what `.dockerignore` lets through. The result is then used as KubeRay uses an image: as
its user, without a network, from the installed package.

Needs: root, debootstrap and iproute2 (Debian packages), a Debian mirror, pip's indexes. Minutes.
Use:   make image-check
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
USED_AS_KUBERAY_DOES = Path(__file__).with_name("image_use.sh")
_MIRROR = "http://deb.debian.org/debian"
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of a Dockerfile, its continued lines joined."""

    line: int
    name: str
    value: str


@dataclass(slots=True, kw_only=True)
class Stage:
    """A stage's file system and settings, as far as it was built."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    user: str = "0:0"
    folder: str = "/"


def read_dockerfile(text: str) -> list[Instruction]:
    """Split a Dockerfile into its instructions; comments and empty lines are left out."""
    found, joined, first = [], "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        first = first if joined else number
        joined += line.strip().removesuffix("\\")
        if not line.endswith("\\"):
            name, _, value = joined.partition(" ")
            found.append(Instruction(first, name.upper(), value.strip()))
            joined = ""
    return found


def stages_of(instructions: Sequence[Instruction]) -> dict[str, list[Instruction]]:
    """The instructions by the name of their stage, each beginning with its ``FROM``."""
    stages: dict[str, list[Instruction]] = {}
    for instruction in instructions:
        if instruction.name == "FROM":
            stages[instruction.value.split()[2]] = current = []
        current.append(instruction)
    return stages


def context_of(source: Path, target: Path) -> None:
    """Copy what `.dockerignore` lets through; it must begin with ``*`` and name what may pass."""
    lines = (source / ".dockerignore").read_text().splitlines()
    everything, *patterns = [line for line in lines if line and not line.startswith("#")]
    if everything != "*":
        raise ValueError(f".dockerignore begins with {everything!r}; it must leave out '*' first")
    ignored = shutil.ignore_patterns(*[p.removeprefix("**/") for p in patterns if p[0] != "!"])
    for name in [pattern[1:] for pattern in patterns if pattern[0] == "!"]:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy2(source / name, target / name)


class Builder:
    """Builds stages below a folder, each once."""

    def __init__(self, dockerfile: Path, work: Path, arguments: Mapping[str, str]) -> None:
        self._instructions = stages_of(read_dockerfile(dockerfile.read_text()))
        self._work = work
        self._arguments = arguments
        self._environment, self._binds = package_sources()
        self._stages: dict[str, Stage] = {}
        self._context = work / "context"
        self._context.mkdir()
        context_of(dockerfile.parent, self._context)

    def build(self, name: str) -> Stage:
        """Give a stage, built with those it needs.

        Raises:
            subprocess.CalledProcessError: A step failed.
            ValueError: An instruction is none that this script knows.
        """
        if name not in self._stages:
            begin, *steps = self._instructions[name]
            stage = self._begin(name, begin.value.split()[0])
            for step in steps:
                since_s = time.monotonic()
                print(f"{name}:{step.line} {step.name} {step.value[:100]}", flush=True)
                self._take(stage, step)
                print(f"    {time.monotonic() - since_s:.1f} s", flush=True)
            self._stages[name] = stage
        return self._stages[name]

    def _begin(self, name: str, image: str) -> Stage:
        root = self._work / name
        if image in self._instructions:
            base = self.build(image)
            subprocess.run(["cp", "--archive", "--reflink=auto", base.root, root], check=True)
            settings = {"environment": dict(base.environment), "shell": base.shell}
            return Stage(root=root, user=base.user, folder=base.folder, **settings)  # type: ignore[arg-type]
        match = re.match(r"debian:([a-z]+)-\d{8}-slim@sha256:[0-9a-f]{64}$", image)
        if match is None:
            raise ValueError(f"FROM {image}: name a dated slim image of Debian with its digest")
        command = ["debootstrap", "--variant=minbase", match[1], str(root), _MIRROR]
        print(shlex.join(command), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if (root / "etc/apt/sources.list").exists():  # the image has its security updates as well
            with (root / "etc/apt/sources.list").open("a") as sources:
                sources.write(f"deb {_MIRROR}-security {match[1]}-security main\n")
        return Stage(root=root)

    def _take(self, stage: Stage, step: Instruction) -> None:
        match step.name:
            case "RUN":
                self._run(stage, step.value)
            case "COPY":
                self._copy(stage, step.value)
            case "ENV":
                for pair in shlex.split(step.value):
                    name, _, value = pair.partition("=")
                    stage.environment[name] = _expand(value, stage.environment)
            case "ARG":
                name, _, default = step.value.partition("=")
                stage.arguments[name] = self._arguments.get(name, default)
            case "SHELL":
                stage.shell = ast.literal_eval(step.value)
            case "USER":
                stage.user = step.value
            case "WORKDIR":
                stage.folder = step.value
                (stage.root / step.value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "CMD" | "LABEL":
                pass
            case _:
                raise ValueError(
                    f"line {step.line}: {step.name} is unknown; teach it to {__file__}"
                )

    def _run(self, stage: Stage, value: str) -> None:
        mounts = [(Path("/etc/resolv.conf"), "/etc/resolv.conf")]
        while value.startswith("--mount="):
            option, _, value = value.partition(" ")
            said = dict(pair.split("=") for pair in option.removeprefix("--mount=").split(","))
            if said.pop("type") != "bind":
                raise ValueError(f"{option}: only bind mounts are known")
            root = self.build(said["from"]).root if "from" in said else self._context
            mounts.append((root / said["source"].lstrip("/"), said["target"]))
            value = value.strip()
        environment = stage.arguments | stage.environment
        if value.startswith("pip "):
            environment = self._environment | environment
            mounts += [(path, str(path)) for path in self._binds]
        with ExitStack() as stack:
            for source, target in mounts:
                _bind(stack, source, stage.root / target.lstrip("/"))
            run_in(stage, [*stage.shell, value], environment)

    def _copy(self, stage: Stage, value: str) -> None:
        *sources, target = value.split()
        if any(word.startswith("--") for word in sources):
            raise ValueError(f"COPY {value}: options are unknown to this script")
        place = stage.root / stage.folder.lstrip("/") / target
        for source in sources:
            found = self._context / source
            if not found.exists():
                raise ValueError(f"COPY {value}: .dockerignore leaves out {source}, or it is gone")
            if found.is_dir():
                shutil.copytree(found, place, symlinks=True)
            else:
                is_folder = target.endswith("/") or target == "."
                (place if is_folder else place.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, place)


def run_in(
    stage: Stage, command: Sequence[str], environment: Mapping[str, str], *, is_alone: bool = False
) -> None:
    """Run a command in a stage's file system as its user.

    Args:
        stage: Where, and as whom.
        command: Found on the environment's ``PATH``.
        environment: All of it, save ``HOME``.
        is_alone: With processes and a network of its own, as in a pod: no port is taken, nothing
            outlives it, and nothing can be fetched that is not in the image.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    user, _, group = stage.user.partition(":")
    mount, chroot = shlex.join(_mount("proc", stage.root / "proc")), shlex.quote(str(stage.root))
    begin = f"{mount} && exec chroot --userspec={user}:{group or user} {chroot}"
    if is_alone:
        begin = f"ip link set lo up && {begin}"
    here = f'/bin/sh -c \'cd "$0" && exec "$@"\' {shlex.quote(stage.folder)} {shlex.join(command)}'
    spaces = ["unshare", "--pid", "--fork", "--kill-child", *(["--net"] if is_alone else [])]
    with ExitStack() as stack:
        for place in ("dev/shm", "tmp"):
            (stage.root / place).mkdir(exist_ok=True)
            subprocess.run(_mount("tmpfs", stage.root / place), check=True)
            _at_the_end(stack, "umount", "--lazy", str(stage.root / place))
        _at_the_end(stack, "umount", "--lazy", str(stage.root / "proc"))
        home = "/root" if user == "0" else "/home/dsvl"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        subprocess.run(
            [*spaces, "/bin/sh", "-c", f"{begin} {here}"],
            check=True,
            env={"PATH": path, "HOME": home, **environment},
        )


def _mount(kind: str, place: Path) -> list[str]:
    return ["mount", "-t", kind, kind, str(place)]


def _at_the_end(stack: ExitStack, *command: str) -> None:
    stack.callback(lambda: subprocess.run(command, check=True))


def package_sources() -> tuple[dict[str, str], list[Path]]:
    """What pip is told on this machine, as variables, and the local paths these name."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    environment, paths = {}, []
    for line in said.stdout.splitlines():
        key, _, value = line.partition("=")
        value = ast.literal_eval(value)
        environment["PIP_" + key.split(".")[-1].upper().replace("-", "_")] = value
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.exists():
                paths.append(path)
    # An index of files names files beside it.
    binds = {path.parent if path.name == "simple" else path for path in paths}
    return environment, sorted(binds)


def _bind(stack: ExitStack, source: Path, target: Path) -> None:
    """Mount a file or folder read-only, and leave no trace of it."""
    if not target.exists():
        made = target
        while not made.parent.exists():
            made = made.parent
        if source.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        stack.callback(lambda: shutil.rmtree(made) if made.is_dir() else made.unlink())
    subprocess.run(["mount", "--bind", source, target], check=True)
    _at_the_end(stack, "umount", "--lazy", str(target))
    subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)


def _expand(value: str, environment: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: environment.get(match[1], ""), value)


def main() -> None:
    """Build a target and use it; the exit code says whether all of it went well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("image_check: needs root and debootstrap; on Debian: apt-get install debootstrap")
    if "DSVL_IMAGE_CHECK" not in os.environ:  # mounts of this process are nobody else's
        os.environ["DSVL_IMAGE_CHECK"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
    arguments = dict(pair.split("=", 1) for pair in options.build_arg)
    with tempfile.TemporaryDirectory(prefix="image-", ignore_cleanup_errors=True) as work:
        builder = Builder(ROOT / "Dockerfile", Path(work), arguments)
        stage = builder.build(options.target)
        used = subprocess.run(["du", "-sh", stage.root], check=True, capture_output=True, text=True)
        print(f"{options.target}: {used.stdout.split()[0]}", flush=True)
        shutil.copy2(USED_AS_KUBERAY_DOES, stage.root / "use.sh")
        (stage.root / "etc/hosts").write_text("127.0.0.1 localhost\n")  # as the kubelet does
        run_in(stage, ["/bin/bash", "/use.sh"], stage.environment, is_alone=True)
    print("image_check: ok")


if __name__ == "__main__":
    main()
