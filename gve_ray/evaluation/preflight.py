"""What can be known to go wrong before an evaluation begins: its paths, models, metrics and resources."""

from gve_ray.doctor import Needs, Read, absolute, pool_of
from gve_ray.embedder import EmbedderSettings
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.contamination import open_training
from gve_ray.evaluation.data.eval_sets import find_eval_sets as find_sources
from gve_ray.evaluation.report.page import check_baselines
from gve_ray.evaluation.scores import metrics
from gve_ray.inputs.model import check_embedder, loads_of
from gve_ray.job import PreflightError, check_path


def check(config: EvaluationJobConfig) -> None:
    """All that needs no cluster, but for the data sets, which `find_sources` looks for. Raises PreflightError."""
    paths = {"output": config.output, "cache": config.cache, "root": config.root}
    paths["contamination.training"] = config.contamination.training
    for option, value in (paths | {f"data.{one.name}.folder": one.folder for one in config.data}).items():
        if value is not None:
            check_path(option, value)
    open_training(config.contamination)
    check_baselines(config)
    try:
        settings = settings_of(config)
        for metric in [*config.metrics, *(one.metric for one in config.data if one.metric)]:
            metrics.per_query(metric, {}, {})
        for model in config.models:
            check_embedder(f"models.{model.name}", model, settings)
    except ValueError as error:
        raise PreflightError(str(error)) from error


def settings_of(config: EvaluationJobConfig) -> EmbedderSettings:
    """What all models embed with. Raises ValueError for settings that no model can have."""
    return EmbedderSettings(
        frames=config.frames,
        max_pixels=config.max_pixels,
        min_pixels=config.min_pixels,
        max_tokens=config.max_tokens,
    )


def needs_of(config: EvaluationJobConfig) -> Needs:
    """What an evaluation needs of a cluster: one pool for its models, one after the other."""

    def check_all() -> None:
        check(config)
        find_sources(config)

    try:
        sources = find_sources(config)
    except PreflightError:  # which `check` tells
        sources = []
    reads = [Read(option=f"data.{one.name}.folder", uri=absolute(one.folder)) for one in sources]
    if config.contamination.training is not None:
        reads.append(Read(option="contamination.training", uri=config.contamination.training))
    folders = {"output": config.output, "cache": config.cache}
    models = [one for model in config.models for one in loads_of(f"models.{model.name}", model)]
    return Needs(
        job=config.job,
        check=check_all,
        workers=[pool_of("resources", config.resources, models)],
        reads=reads,
        writes={name: absolute(folder) for name, folder in folders.items() if folder is not None},
    )
