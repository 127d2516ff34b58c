"""``dsvl init``: example jobs to start from, and the pictures of the demo."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from dsvl_pipeline.cli.options import option
from dsvl_pipeline.cli.output import Output
from dsvl_pipeline.cli.text import one_line
from dsvl_pipeline.errors import ConfigError

EXAMPLES = """\
dsvl init                                        # into this directory
dsvl init jobs && cd jobs && dsvl run demo.yaml  # the demo, from a directory of its own"""
NOTES = """\
It writes commented job files, their JSON schema, and the samples that the demo reads. No file is
replaced; one that is there already, and the same, is left as it is."""
EXIT_CODES = {
    0: "written",
    2: "another file of such a name is there; nothing was written",
    3: "the directory cannot be written",
}
OPTIONS = (option("directory", nargs="?", default=".", metavar="DIR", help="where (default: .)"),)

_PACKAGE = Path(__file__).resolve().parents[1]
_SAMPLES = "dsvl_pipeline/demo/samples"


def execute(args: argparse.Namespace, output: Output) -> int:
    """Write the files, say what to do next."""
    directory = Path(args.directory)
    files = {directory / name: body for name, body in examples().items()}
    for path, body in files.items():
        if path.exists() and not (path.is_file() and path.read_bytes() == body):
            raise ConfigError(
                f"{path} exists and is another file; nothing was written: give another directory, "
                "dsvl init DIR"
            )
    for path, body in files.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
    jobs = [path.name for path in files if path.suffix == ".yaml"]
    lines = [f"{len(files)} files in {one_line(args.directory)}: {', '.join(jobs)}, ..."]
    enter = "" if args.directory == "." else f"cd {one_line(args.directory)} && "
    lines.append(f"next: {enter}dsvl run demo.yaml")
    output.result({"directory": args.directory, "files": [str(path) for path in files]}, lines)
    return 0


def examples() -> dict[str, bytes]:
    """Return what is written: by name, below the directory."""
    folder = _PACKAGE / "examples"
    if not folder.is_dir():  # a source tree; only a wheel has them within the package
        folder = _PACKAGE.parent / "configs"
    found = {
        path.name: _at_home(path.read_text(encoding="utf-8")).encode()
        for path in sorted(folder.iterdir())
    }
    samples = sorted((_PACKAGE / "demo" / "samples").iterdir())
    return found | {f"samples/{path.name}": path.read_bytes() for path in samples}


def _at_home(text: str) -> str:
    """Let an example name what is beside it, and no file of a source tree."""
    lines = [line for line in text.splitlines(keepends=True) if "python jobs/" not in line]
    text = "".join(lines).replace(_SAMPLES, "samples").replace("configs/", "")
    return re.sub(r"make demo +or +", "", text)
