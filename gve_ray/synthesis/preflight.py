"""What can be known to go wrong before synthesis begins: its paths, models and resources."""

from collections.abc import Mapping, Sequence
from typing import Any

from gve_ray.config import SynthesisConfig
from gve_ray.job import check_fit, check_model, check_path


def check_paths(config: SynthesisConfig) -> None:
    """Refuse paths that are gone when the job ends."""
    check_path("input", config.input)
    check_path("output", config.output)


def check_models(config: SynthesisConfig) -> None:
    """Every model that the config names is a folder with a model in it, or can be had from the hub."""
    captioner, embedder = config.captioner, config.quality.consistency
    check_model("captioner.model", captioner.model, captioner.revision)
    if embedder.model is not None:
        check_model("quality.consistency.model", embedder.model, embedder.revision)
        if embedder.adapter is not None:
            check_model("quality.consistency.adapter", embedder.adapter, None, "adapter_config.json")


def check_resources(config: SynthesisConfig, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every stage's actors fit on the cluster. nodes: one mapping of resources a live node."""
    wanted = {"media": config.resources.media, "captioner": config.resources.captioner}
    if config.quality.consistency.model is not None:
        wanted["consistency"] = config.resources.consistency
    for stage, needs in wanted.items():
        if not needs.wait_for_nodes:
            demands = {"CPU": needs.num_cpus, "GPU": needs.num_gpus, "memory": float(needs.memory)}
            check_fit(f"resources.{stage}", needs.actors, demands, nodes, count_option="actors")
