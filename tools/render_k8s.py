"""What ``k8s/`` holds of the renderer's output, written anew.

Use:  python -m tools.render_k8s
after a change of ``configs/`` or ``dsvl_pipeline/kuberay/``; a test compares.
"""

from __future__ import annotations

from pathlib import Path

from dsvl_pipeline.job.reading import load_job
from dsvl_pipeline.kuberay import render, schedule

ROOT = Path(__file__).resolve().parents[1]
JOBS = {"caption": "k8s/base", "documents": "k8s/base", "reprocess": "k8s/schedule"}
"""Where the RayJob of each file of ``configs/`` goes."""
DEV = "k8s/overlays/dev"  # has a job file of its own


def rendered() -> dict[str, str]:
    """Give each file's text by its place below the project's root."""
    files = {}
    for name, folder in JOBS.items():
        source = ROOT / "configs" / f"{name}.yaml"
        job = load_job(source)
        manifest = render.rayjob(job, config=job.name, script=name)
        files[f"{folder}/rayjob-{name}.yaml"] = _made("rayjob", f"configs/{name}.yaml", [manifest])
        # Kustomize reads only what lies below it, and makes the ConfigMap of this name from it.
        files[f"{folder}/job-{name}.yaml"] = source.read_text(encoding="utf-8")
    job = load_job(ROOT / "configs" / "reprocess.yaml")
    by_clock = schedule.cronjob(job, "0 2 * * *", "Etc/UTC", config=f"{job.name}-rayjob")
    files["k8s/schedule/cronjob.yaml"] = _made("cronjob", "configs/reprocess.yaml", by_clock)
    demo = load_job(ROOT / DEV / "job.yaml")
    manifest = render.rayjob(demo, config=demo.name, script=render.script_of(demo))
    files[f"{DEV}/rayjob-demo.yaml"] = _made("rayjob", f"{DEV}/job.yaml", [manifest])
    return files


def _made(template: str, source: str, manifests: list[render.Manifest]) -> str:
    return (
        "# Made by `python -m tools.render_k8s` from "
        f"dsvl_pipeline/kuberay/{template}.yaml and\n"
        f"# {source}; change those, or patch this with kustomize.\n"
    ) + render.dump(manifests)


def main() -> None:
    """Write them all."""
    for place, text in rendered().items():
        (ROOT / place).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / place).write_text(text, encoding="utf-8")
        print(place)


if __name__ == "__main__":
    main()
