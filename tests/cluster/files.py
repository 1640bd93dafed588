"""Shared by the tests of cluster/: load its files, and parse commands as their programs do."""

import copy
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from gve_ray.registry import JOBS

ROOT = Path(__file__).resolve().parent.parent.parent
CLUSTER = ROOT / "cluster"
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
IN_IMAGE = "/opt/gve_ray/"  # WORKDIR of both Dockerfiles
SHARED = "/shared"
KUBERAY = sorted(path.name for path in (CLUSTER / "kuberay").glob("*.yaml"))


def documents(name: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a file below cluster/."""
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def document(name: str) -> dict[str, Any]:
    (single,) = documents(name)
    return single


def lock_of(path: Path) -> dict[str, str]:
    """Return the versions in a lock file by package name."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def job_of(command: Sequence[str]) -> tuple[str, Any] | None:
    """Return job and config of `gve VERB ...` or `python .../jobs/X.py ...`, or None for another
    command.

    The parser of the job reads the config and exits at the first argument that it does not know.
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


def ray_options(words: Sequence[str]) -> dict[str, Any]:
    """Parse a `ray` or `serve` command with its own parser, and return the options. Raises
    click.UsageError.
    """
    from ray.scripts.scripts import cli as ray_cli
    from ray.serve.scripts import cli as serve_cli

    command: click.Command = {"ray": ray_cli, "serve": serve_cli}[words[0]]
    args, context = list(words[1:]), None
    while isinstance(command, click.Group):
        context = click.Context(command, parent=context)
        _, subcommand, args = command.resolve_command(context, args)
        assert subcommand is not None
        command = subcommand
    return command.make_context(command.name, args, parent=context).params


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of a cluster config and validate it, as `ray up` does. Raises what Ray
    raises.
    """
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
    """Return (file name, object) of all objects of KubeRay."""
    return [
        (name, kube_object)
        for name in KUBERAY
        for kube_object in documents(f"kuberay/{name}")
        if kube_object["apiVersion"].startswith("ray.io/")
    ]


def ray_cluster(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return spec.get("rayClusterConfig", spec)


def kuberay_job(job: str) -> Any:
    """Return the config of a RayJob's entrypoint."""
    spec = document(f"kuberay/{job}.yaml")["spec"]
    parsed = job_of(shlex.split(spec["entrypoint"]))
    assert parsed is not None
    assert parsed[0] == job
    return parsed[1]
