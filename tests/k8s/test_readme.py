"""k8s/README.md tells of what is there."""

from __future__ import annotations

import re
import shlex

import yaml

from dsvl_pipeline.cli import parser
from tests.k8s.kustomize import K8S
from tests.k8s.policy import SECRETS_MADE_BY_HAND
from tests.k8s.schemas import KUBERAY, KUBERNETES

README = (K8S / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
BUILDS = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}


def test_it_names_every_directory() -> None:
    """In its table, and none that is not there."""
    table = README.partition("| directory | holds |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    assert {name for cell in cells for name in re.findall(r"`(.+?)`", cell)} == BUILDS


def test_its_commands_are_of_things_that_exist() -> None:
    """Directories to apply, and subcommands of ours."""
    applied = {words[words.index("-k") + 1] for words in COMMANDS if "-k" in words}
    assert applied == {"k8s/base/platform", "k8s/overlays/dev"}
    ours = {words[1] for words in COMMANDS if words[0] == "dsvl"}
    assert ours <= parser.COMMANDS.keys()
    assert len(ours) > 3


def test_its_versions_are_those_that_were_checked() -> None:
    """Of the operator and of Kubernetes."""
    (install,) = [words for words in COMMANDS if words[:2] == ["helm", "install"]]
    assert f"kuberay-v{install[install.index('--version') + 1]}" == KUBERAY
    assert f"Kubernetes {KUBERNETES}" in README


def test_it_makes_what_is_made_by_hand() -> None:
    """The Secret that pods name, and the image that the demo wants."""
    made = {words[4] for words in COMMANDS if words[:3] == ["kubectl", "create", "secret"]}
    assert made == SECRETS_MADE_BY_HAND
    overlay = yaml.safe_load((K8S / "overlays/dev/kustomization.yaml").read_text(encoding="utf-8"))
    (image,) = overlay["images"]
    built = {
        words[words.index("--tag") + 1]
        for words in COMMANDS
        if words[0] == "docker" and "--tag" in words
    }
    assert f"{image['newName']}:{image['newTag']}" in built
