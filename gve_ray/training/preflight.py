"""What can be known to go wrong before training begins: its paths, models, data sets and resources."""

from gve_ray.doctor import Needs, Read, Weights, Workers, absolute, weights_of
from gve_ray.job import PreflightError, check_path, demands_of
from gve_ray.training.config import TrainingJobConfig
from gve_ray.training.mixture import check_sources
from gve_ray.training.trackers import check_trackers


def check(config: TrainingJobConfig) -> None:
    """All that needs no cluster. Raises PreflightError."""
    check_path("output", config.output)
    for weights in _weights(config):
        weights.check()
    if config.assets is not None:
        check_path("assets", config.assets)
    for one in config.data:
        check_path(f"data.{one.name}.uri", one.uri)
    try:
        check_trackers(config.trackers)
        check_sources(config.data)
    except ValueError as error:
        raise PreflightError(str(error)) from error


def needs_of(config: TrainingJobConfig) -> Needs:
    """What training needs of a cluster: its ranks, each with the feed beside it, and what they read and write."""
    needs = config.resources
    reads = [Read(option=f"data.{one.name}.uri", uri=one.uri) for one in config.data]
    reads += [Read(option=f"data.{one.name}.root", uri=one.root) for one in config.data if one.root]
    if config.assets is not None:
        reads.append(Read(option="assets", uri=config.assets))
    ranks = Workers(
        option="resources",
        count=needs.min_workers or needs.workers,
        demands=demands_of(
            num_cpus=needs.num_cpus + needs.feed_workers,
            num_gpus=needs.num_gpus,
            accelerator_type=needs.accelerator_type,
        ),
        loads=_weights(config),
        count_option="min_workers" if needs.min_workers else "workers",
        wait_for_nodes=needs.wait_for_nodes,
    )
    return Needs(
        job=config.job,
        check=lambda: check(config),
        workers=[ranks],
        reads=reads,
        writes={"output": absolute(config.output)},
    )


def _weights(config: TrainingJobConfig) -> list[Weights]:
    prober = config.prober
    found = [Weights(option="model", name=config.model, revision=config.revision)]
    if prober.model is not None:
        found += weights_of("prober", prober.model, prober.adapter, revision=prober.revision)
    elif prober.adapter is not None:
        found.append(Weights(option="prober.adapter", name=prober.adapter, file="adapter_config.json"))
    return found
