"""A job by the clock: a CronJob that creates the job's RayJob, and the right to do so."""

from __future__ import annotations

import re
from datetime import datetime
from importlib import resources
from itertools import islice
from types import ModuleType
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml

from dsvl_pipeline import extras
from dsvl_pipeline.errors import ConfigError
from dsvl_pipeline.job.config import JobConfig
from dsvl_pipeline.kuberay import render
from dsvl_pipeline.kuberay.render import Manifest

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")


def starts(cron: str, time_zone: str, after: datetime, *, count: int = 3) -> list[datetime]:
    """Return the next starts of a schedule.

    Args:
        cron: Five fields as Kubernetes takes them (minute, hour, day, month, weekday), or
            ``@hourly``, ``@daily`` and the like.
        time_zone: Of the IANA data base, such as ``Europe/Berlin``.
        after: With a time zone of its own.
        count: How many.

    Raises:
        ConfigError: One of the two is none, the schedule never comes, or cronsim is missing.
    """
    cronsim = _load_cronsim()
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"--time-zone {time_zone!r} is no time zone; give a name of the IANA data base, such "
            "as Etc/UTC or Europe/Berlin"
        ) from error
    fields = _MACROS.get(cron, cron).split()
    try:
        # What else cron dialects know, Kubernetes does not: seconds, L, W, #, ?.
        if len(fields) != 5 or not all(map(_FIELD.fullmatch, fields)) or fields[2].isalpha():
            raise cronsim.CronSimError("not five fields of numbers, names and * , - /")
        found = list(islice(cronsim.CronSim(" ".join(fields), after.astimezone(zone)), count))
    except cronsim.CronSimError as error:
        raise ConfigError(
            f"--cron {cron!r} is no schedule ({error}); give minute, hour, day of the month, "
            'month and weekday, such as "0 2 * * *" for every night at two'
        ) from error
    if not found:
        raise ConfigError(f"--cron {cron!r} never comes; is there such a day in that month?")
    return found


def _load_cronsim() -> ModuleType:
    try:
        import cronsim
    except ImportError as error:
        raise ConfigError(extras.missing("cronsim", "kubernetes", "a schedule")) from error
    return cronsim


def cronjob(job: JobConfig, cron: str, time_zone: str, *, config: str) -> list[Manifest]:
    """Render the CronJob and its service account, role and role binding.

    Args:
        job: Gives name and image.
        cron: From a user, checked by `starts`.
        time_zone: Likewise.
        config: Name of the ConfigMap that holds the RayJob as ``rayjob.yaml``.
    """
    name, account = render.check_name("CronJob", job.name), f"{job.name}-schedule"
    text = resources.files(__package__).joinpath("cronjob.yaml").read_text(encoding="utf-8")
    user, role, binding, by_clock = rendered = list(yaml.safe_load_all(text))
    for manifest in (user, role, binding):
        manifest["metadata"]["name"] = account
    for manifest in rendered:
        manifest["metadata"]["labels"][render.INSTANCE] = name
    role["rules"][1]["resourceNames"] = [render.check_name("RayJob", job.name)]
    binding["roleRef"]["name"] = binding["subjects"][0]["name"] = account

    by_clock["metadata"]["name"] = name
    by_clock["spec"] |= {"schedule": cron, "timeZone": time_zone}
    template = by_clock["spec"]["jobTemplate"]["spec"]["template"]
    template["metadata"]["labels"][render.INSTANCE] = name
    template["spec"]["serviceAccountName"] = account
    template["spec"]["containers"][0]["image"] = job.kubernetes.image
    template["spec"]["volumes"][0]["configMap"]["name"] = config
    return rendered


def manifests(job: JobConfig, cron: str, time_zone: str) -> list[Manifest]:
    """Render all that a scheduled job needs, in the order of its creation."""
    config = render.config_map(job)
    rayjob = render.rayjob(job, config=config["metadata"]["name"], script="reprocess")
    held = render.named_by_content(f"{job.name}-rayjob", job.name, rayjob=render.dump([rayjob]))
    by_clock = cronjob(job, cron, time_zone, config=held["metadata"]["name"])
    return render.placed([config, held, *by_clock], job)
