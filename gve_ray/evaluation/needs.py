"""What an evaluation needs before it begins: data sets, models, metrics, folders and workers."""

from dataclasses import replace
from functools import partial

from gve_ray.embedder import EmbedderSettings
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.data.eval_sets import find_eval_sets
from gve_ray.evaluation.report.page import check_baselines
from gve_ray.evaluation.scores import metrics
from gve_ray.evaluation.training_videos import open_training
from gve_ray.inputs.manifest import video_uris
from gve_ray.job import PreflightError
from gve_ray.preflight import Embedder, Input, Needs, absolute, model_workers


def needs_of(config: EvaluationJobConfig) -> Needs:
    """Return what the config needs. One pool of workers serves all models, one model after the other."""
    settings = EmbedderSettings(**config.sequence_settings)
    training = {
        "contamination.training" + (f"[{number}]" if number else ""): source
        for number, source in enumerate(config.contamination.sources)
    }
    folders = {"output": config.output, "cache": config.cache}
    paths = {**folders, "root": config.root, **training}
    paths |= {f"data.{data.name}.folder": data.folder for data in config.data}
    embedders = [
        Embedder(option=f"models.{model.name}", model=model, settings=settings) for model in config.models
    ]
    inputs = _data_sets(config)
    for option, source in training.items():
        is_store = source.rstrip("/").endswith(".lance")
        inputs.append(
            Input(option=option, uri=source, list_files=None if is_store else partial(video_uris, source))
        )
    return Needs(
        job=config.job,
        workers=[model_workers("resources", config.resources, embedders)],
        paths={option: path for option, path in paths.items() if path is not None},
        inputs=inputs,
        outputs={option: absolute(path) for option, path in folders.items() if path is not None},
        embedders=embedders,
        rules=lambda: _check(config),
    )


def _data_sets(config: EvaluationJobConfig) -> list[Input]:
    """Return the folders of the data sets; listing the files of `root` says why it has none."""
    inputs, eval_sets = [], list(config.data)
    try:
        eval_sets = find_eval_sets(config)
    except PreflightError:
        if config.root is not None:
            inputs.append(Input(option="root", uri=config.root, list_files=lambda: _below_root(config)))
    return inputs + [
        Input(option=f"data.{source.name}.folder", uri=absolute(source.folder)) for source in eval_sets
    ]


def _below_root(config: EvaluationJobConfig) -> list[str]:
    return [source.folder for source in find_eval_sets(replace(config, data=()))]


def _check(config: EvaluationJobConfig) -> None:
    """Check the training set, baselines and metrics. Raises PreflightError or ValueError."""
    open_training(config.contamination)
    check_baselines(config)
    for metric in [*config.metrics, *(data.metric for data in config.data if data.metric)]:
        metrics.per_query(metric, {}, {})
