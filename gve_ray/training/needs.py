"""What training needs before it begins: data, models, a folder, trackers and workers."""

from gve_ray.preflight import Input, Needs, Weights, Workers, absolute, demands_of, weights_of
from gve_ray.training.config import TrainingJobConfig
from gve_ray.training.mixture import check_sources
from gve_ray.training.trackers import check_trackers


def needs_of(config: TrainingJobConfig) -> Needs:
    """Return what the config needs. Each rank reserves the CPUs of its feed workers too."""
    resources = config.resources
    data = {f"data.{source.name}.uri": source.uri for source in config.data}
    roots = {f"data.{source.name}.root": source.root for source in config.data if source.root}
    assets = {"assets": config.assets} if config.assets is not None else {}
    ranks = Workers(
        option="resources",
        count=resources.min_workers or resources.workers,
        demands=demands_of(
            num_cpus=resources.num_cpus + resources.feed_workers,
            num_gpus=resources.num_gpus,
            accelerator_type=resources.accelerator_type,
        ),
        loads=_weights(config),
        count_option="min_workers" if resources.min_workers else "workers",
        wait_for_nodes=resources.wait_for_nodes,
    )
    return Needs(
        job=config.job,
        workers=[ranks],
        paths={"output": config.output, **assets, **data},
        inputs=[Input(option=option, uri=uri) for option, uri in {**data, **roots, **assets}.items()],
        outputs={"output": absolute(config.output)},
        rules=lambda: _check(config),
    )


def _check(config: TrainingJobConfig) -> None:
    """Check trackers and data sources. Raises ValueError."""
    check_trackers(config.trackers)
    check_sources(config.data)


def _weights(config: TrainingJobConfig) -> list[Weights]:
    prober = config.prober
    weights = [Weights(option="model", name=config.model, revision=config.revision)]
    if prober.model is not None:
        weights += weights_of("prober", prober.model, prober.adapter, revision=prober.revision)
    elif prober.adapter is not None:
        weights.append(Weights(option="prober.adapter", name=prober.adapter, file="adapter_config.json"))
    return weights
