"""What the tests of cluster/ share: its files as data, and commands read by those who would run them."""

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from gve_ray.registry import JOBS

ROOT = Path(__file__).resolve().parent.parent.parent
CLUSTER = ROOT / "cluster"
README = (CLUSTER / "README.md").read_text()
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
IN_IMAGE = "/opt/gve_ray/"  # WORKDIR of both
SHARED = "/shared"
KUBERAY = sorted(path.name for path in (CLUSTER / "kuberay").glob("*.yaml"))


def documents(name: str) -> list[dict[str, Any]]:
    """The YAML documents of a file below cluster/."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def document(name: str) -> dict[str, Any]:
    (found,) = documents(name)
    return found


def lock_of(path: Path) -> dict[str, str]:
    """Name -> version."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def job_of(command: Sequence[str]) -> tuple[str, Any] | None:
    """Job and config of `gve VERB ...` or `python .../jobs/X.py ...`; None for another command.

    The config is read by the job's own parser, which ends the program at the first word that it does not know.
    """
    words = list(command)
    if words[:2] == ["gve", "doctor"]:
        del words[1]
    if words[0] == "gve" and words[1] in JOBS:
        job = words[1]
    elif words[0] == "python" and Path(words[1]).parent.name == "jobs":
        job = Path(words[1]).stem
        assert (ROOT / words[1].removeprefix(IN_IMAGE)).is_file(), words[1]
    else:
        return None
    args = [word for word in words[2:] if word != "--print_config"]
    return job, JOBS[job].read_config(args, prog=job)


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Dockerfile, lines that go on joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (CLUSTER / name).read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def of_kind(name: str, kind: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == kind]


def ray_options(words: Sequence[str]) -> dict[str, Any]:
    """Options of a `ray` or `serve` command, by its own parser. Raises click.UsageError."""
    from ray.scripts.scripts import cli as ray_cli
    from ray.serve.scripts import cli as serve_cli

    command: click.Command = {"ray": ray_cli, "serve": serve_cli}[words[0]]
    args, context = list(words[1:]), None
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        _, found, args = command.resolve_command(context, args)
        assert found is not None
        command = found
    return command.make_context(command.name, args, parent=context).params


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `ray up` completes it before it asks the cloud anything. Raises what Ray raises."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled: dict[str, Any] = prepare_config(copy.deepcopy(dict(config)))
    validate_config(filled)
    return filled


def serve_files() -> dict[str, dict[str, Any]]:
    return {
        "serve.yaml": document("serve.yaml"),
        "kuberay/serve.yaml": yaml.safe_load(document("kuberay/serve.yaml")["spec"]["serveConfigV2"]),
    }


def ray_objects() -> list[tuple[str, dict[str, Any]]]:
    """(file, document) of KubeRay's kinds."""
    return [
        (name, one)
        for name in KUBERAY
        for one in documents(f"kuberay/{name}")
        if one["apiVersion"].startswith("ray.io/")
    ]


def ray_cluster(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return spec.get("rayClusterConfig", spec)


def kuberay_job(job: str) -> Any:
    """The config of a RayJob's entrypoint."""
    spec = document(f"kuberay/{job}.yaml")["spec"]
    found = job_of(shlex.split(spec["entrypoint"]))
    assert found is not None
    assert found[0] == job
    return found[1]
