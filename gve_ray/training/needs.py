"""What training needs before it begins: data, models, a folder, trackers and workers."""

from dataclasses import replace

from gve_ray.preflight import Embedder, Input, Needs, absolute, weights_of, workers_of
from gve_ray.training.config import CPUS_OF_A_RANK, TrainingJobConfig
from gve_ray.training.mixture import check_sources
from gve_ray.training.trackers import check_trackers


def needs_of(config: TrainingJobConfig) -> Needs:
    """Return what the config needs."""
    resources = config.resources
    helpers = _helpers_of(config)
    sources = {f"data.{source.name}": source for source in config.data}
    if config.validation.eval_steps is not None:
        sources |= {f"validation.data.{source.name}": source for source in config.validation.data}
    data = {f"{option}.uri": source.uri for option, source in sources.items()}
    roots = {f"{option}.root": source.root for option, source in sources.items() if source.root}
    if config.validation.eval_steps is not None and config.validation.root is not None:
        roots["validation.root"] = config.validation.root
    assets = {"assets": config.assets} if config.assets is not None else {}
    loads = [
        *weights_of("", config, dtype=config.dtype, dtype_option="dtype"),
        *(weights for helper in helpers for weights in helper.weights),
    ]
    ranks = workers_of("resources", resources, loads, large=True, most_cpus=CPUS_OF_A_RANK)
    if resources.min_workers:
        ranks = replace(ranks, count=resources.min_workers, count_option="min_workers")
    return Needs(
        job=config.job,
        workers=[ranks],
        paths={"output": config.output, **assets, **data},
        inputs=[Input(option=option, uri=uri) for option, uri in {**data, **roots, **assets}.items()],
        outputs={"output": absolute(config.output)},
        rules=lambda: _check(config),
    )


def _helpers_of(config: TrainingJobConfig) -> list[Embedder]:
    """Return the prober of the first epoch and the teacher, as far as the config names them."""
    return [
        Embedder(option=option, model=replace(model, dtype=model.dtype or config.dtype), settings=None)
        for option, helper in (("prober", config.prober), ("distillation", config.distillation))
        if helper.model is not None
        for model in [helper.named(option)]
    ]


def _check(config: TrainingJobConfig) -> None:
    """Check trackers, helper models and data sources. Raises ValueError and PreflightError."""
    check_trackers(config.trackers)
    for helper in _helpers_of(config):
        helper.check()
    check_sources(config.data)
    if config.validation.eval_steps is not None:
        check_sources(config.validation.data)
