"""What can be known to go wrong before any work is done: paths, models, resources.

Each check raises `PreflightError` that names the thing, its value and the fix.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gve_ray.config import StageResources, SynthesisConfig, resolve_model

UPLOADED_FOLDER = "working_dir_files"  # Ray unpacks a job's --working-dir below a folder of this name


class PreflightError(RuntimeError):
    """The job cannot run as configured; nothing has been written."""


def check_paths(config: SynthesisConfig) -> None:
    """Refuse relative paths inside a Ray job's uploaded working directory: it is deleted with the job."""
    here = Path.cwd()
    if UPLOADED_FOLDER not in here.parts:
        return
    for name, value in (("input", config.input), ("output", config.output)):
        if "://" not in value and not Path(value).is_absolute():
            raise PreflightError(
                f"{name}={value!r}: relative to the job's uploaded copy of the working directory ({here}), "
                f'which is deleted with the job; give an absolute path or a URI, e.g. --{name} "$PWD/{value}"'
            )


def check_models(config: SynthesisConfig) -> None:
    """Every model that the config names is a folder with a model in it, or can be had from the hub."""
    captioner, embedder = config.captioner, config.quality.consistency
    _check_model("captioner.model", captioner.model, captioner.revision, "config.json")
    if embedder.model is not None:
        _check_model("quality.consistency.model", embedder.model, embedder.revision, "config.json")
        if embedder.adapter is not None:
            _check_model("quality.consistency.adapter", embedder.adapter, None, "adapter_config.json")


def _check_model(option: str, name: str, revision: str | None, file: str) -> None:
    try:
        folder = Path(resolve_model(name)).expanduser()
    except FileNotFoundError as error:
        raise PreflightError(f"{option}: {error}") from error
    if folder.is_dir():
        if not (folder / file).is_file():
            raise PreflightError(
                f"{option}={name!r}: the folder {folder} has no {file}; point it to a model in the "
                "Hugging Face layout"
            )
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PreflightError(f"{option}={name!r}: no such folder; name a model folder or a hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(name, file, revision=revision)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise PreflightError(
            f"{option}={name!r} (revision {revision or 'main'}): not a folder here, not in the Hugging Face "
            f"cache, and the hub did not give it ({type(error).__name__}: {_first_line(error)}); "
            "check the name, log in if it is gated, or name a local folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def check_resources(config: SynthesisConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every stage's actors fit on the cluster; Ray itself would wait for ever for what is not there.

    nodes: one mapping of resources a live node, e.g. {"CPU": 8.0, "GPU": 1.0, "memory": 6.4e10}.
    """
    wanted = {"media": config.resources.media, "captioner": config.resources.captioner}
    if config.quality.consistency.model is not None:
        wanted["consistency"] = config.resources.consistency
    for stage, needs in wanted.items():
        if needs.wait_for_nodes:
            continue
        fit = sum(_actors_on(node, needs) for node in nodes)
        if fit >= needs.actors:
            continue
        demands = _demands(needs)
        have = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in demands)
        each = ", ".join(f"{amount:g} {kind}" for kind, amount in demands.items())
        fix = f"set --resources.{stage}.actors {fit}" if fit else f"lower --resources.{stage}.num_*"
        raise PreflightError(
            f"resources.{stage}: needs {needs.actors} x ({each}), cluster has {have} in {len(nodes)} nodes"
            f", which is room for {fit}: add nodes, {fix}, or set --resources.{stage}.wait_for_nodes true "
            "on an autoscaling cluster"
        )


def _demands(needs: StageResources) -> dict[str, float]:
    asked = {"CPU": needs.num_cpus, "GPU": needs.num_gpus, "memory": float(needs.memory)}
    return {kind: amount for kind, amount in asked.items() if amount > 0}


def _actors_on(node: Mapping[str, Any], needs: StageResources) -> int:
    """How many actors one node holds; an actor cannot be split over nodes."""
    demands = _demands(needs)
    if not demands:
        return needs.actors
    return min(math.floor(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in demands.items())


def live_nodes() -> list[dict[str, Any]]:
    """Resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
