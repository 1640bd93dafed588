"""Finds the data sets of a run and reads them with prompts, metrics and fingerprints."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.data.annotations import load_annotations
from gve_ray.evaluation.data.data_errors import DataError
from gve_ray.evaluation.data.dataset_folder import is_file, is_folder
from gve_ray.evaluation.data.labelled_videos import load_classes
from gve_ray.evaluation.data.layouts import check_media, load, load_mteb
from gve_ray.evaluation.data.mmeb import MMEB, find_mmeb, load_mmeb
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.data.uvrb import UVRB, find_data_sets
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.job import PreflightError
from gve_ray.media.picture.folder import FRAMES_PER_SECOND
from gve_ray.schema import Item
from gve_ray.store import fingerprint

log = logging.getLogger(__name__)

DEFAULT_METRIC = "hit@1"


@dataclass(frozen=True, kw_only=True)
class EvalSet:
    """A data set ready for evaluation: queries with their prompt, and fingerprints of all items.

    is_classification: `data.has_labels`. folder_fps: pictures a second of videos that are folders of frames.
    """

    data: RetrievalSet
    metric: str
    queries: list[Item]
    query_keys: list[str]
    corpus_keys: list[str]
    is_classification: bool = False
    folder_fps: float = FRAMES_PER_SECOND

    @property
    def revision(self) -> str:
        """sha256 (hex) of all that scores depend on: items, prompt, relevance, candidates, metric."""
        data = self.data
        return fingerprint(
            {
                "queries": list(zip(data.query_ids, self.query_keys, strict=True)),
                "corpus": list(zip(data.corpus_ids, self.corpus_keys, strict=True)),
                "positives": {name: sorted(ids) for name, ids in data.positives.items()},
                "candidates": data.candidates,
                "metric": self.metric,
            }
        )


def find_eval_sets(config: EvaluationJobConfig) -> list[DataConfig]:
    """The data sets of a config, those in `root` first. Raises PreflightError if there are none."""
    try:
        return _find_eval_sets(config)
    except (OSError, ValueError, ImportError) as error:
        raise PreflightError(f"root={config.root!r}, data: cannot be read: {error}") from error


def _find_eval_sets(config: EvaluationJobConfig) -> list[DataConfig]:
    named = {dataset.name for dataset in config.data}
    below: list[DataConfig] = []
    if config.root is not None:
        below = [DataConfig(name=name, folder=path) for name, path in find_data_sets(config.root).items()]
        below += [DataConfig(name=name, folder=config.root, format="mmeb") for name in find_mmeb(config.root)]
        below = [dataset for dataset in below if dataset.name not in named]
        if not below:
            raise PreflightError(
                f"root={config.root!r}: holds no data set of UVRB or MMEB-V2; name the folder that contains "
                f"{', '.join(UVRB)}, or MMEB-V2's video-tasks"
            )
    for dataset in config.data:
        if dataset.format == "mmeb" and dataset.name not in MMEB:
            raise PreflightError(
                f"data.{dataset.name}.format=mmeb: not a video data set of MMEB-V2; use a name of {', '.join(MMEB)}"
            )
        if not (is_folder(dataset.folder) or (dataset.format == "classes" and is_file(dataset.folder))):
            raise PreflightError(f"data.{dataset.name}.folder={dataset.folder!r}: no such folder")
        if dataset.annotations and not is_file(dataset.annotations):
            raise PreflightError(f"data.{dataset.name}.annotations={dataset.annotations!r}: no such file")
    return [*below, *config.data]


def open_eval_sets(configs: Sequence[DataConfig], index: ItemIndex) -> list[EvalSet]:
    """Read the data sets and fingerprint their items. Only queries get the prompt.

    Without one in the config or in UVRB, queries keep the instructions with which they were read.
    """
    opened = []
    for config in configs:
        data = read(config)
        if data.skipped:
            log.warning("%s: %d errors, the first: %s", config.name, len(data.skipped), data.skipped[0])
        spec = UVRB.get(config.name)
        prompt = config.prompt if config.prompt is not None else (spec.prompt if spec else None)
        queries = data.queries
        if prompt is not None:
            queries = [replace(item, instruction=prompt or None) for item in queries]
        opened.append(
            EvalSet(
                data=data,
                metric=config.metric or (spec.metric if spec else DEFAULT_METRIC),
                queries=queries,
                query_keys=index.keys(queries, config.folder_fps),
                corpus_keys=index.keys(data.corpus, config.folder_fps),
                folder_fps=config.folder_fps,
                is_classification=data.has_labels,
            )
        )
    sizes = sum(len(each.queries) for each in opened), sum(len(each.data.corpus) for each in opened)
    log.info("data sets: %d, with %d queries and %d items", len(opened), *sizes)
    return opened


def read(config: DataConfig) -> RetrievalSet:
    """Read a data set in its format; the errors found in it are in `skipped`."""
    if config.format == "mteb":
        data = load_mteb(config.folder, name=config.name, split=config.split)
    elif config.format == "classes":
        data = load_classes(config.folder, name=config.name, template=config.template)
    elif config.format == "mmeb":
        data = load_mmeb(config.folder, name=config.name)
    elif config.annotations is not None:
        data = load_annotations(
            config.annotations,
            format=config.format,
            videos=config.folder,
            name=config.name,
            split=config.split,
        )
    else:
        data = load(config.folder, name=config.name)
    return data


def check(config: EvaluationJobConfig) -> str:
    """Read and decode all data sets; raises PreflightError with one line per error."""
    datasets = find_eval_sets(config)
    errors: list[DataError] = []
    for dataset in datasets:
        data = read(dataset)
        workers = config.resources.count or os.cpu_count() or 1
        errors += data.skipped + check_media(data, frames=config.frames, workers=workers)
    if errors:
        lines = "\n".join(map(str, errors))
        raise PreflightError(f"{len(errors)} errors in {len(datasets)} data sets\n{lines}")
    return f"no errors in {len(datasets)} data sets ({', '.join(dataset.name for dataset in datasets)})"
