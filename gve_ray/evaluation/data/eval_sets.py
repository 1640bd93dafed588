"""Which data sets a run is over, read with the prompt, metric and fingerprints that they are asked with."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.data.dataset_folder import is_file, is_folder
from gve_ray.evaluation.data.labelled_videos import load_classes
from gve_ray.evaluation.data.layouts import Fault, RetrievalSet, check_media, load, load_mteb
from gve_ray.evaluation.data.uvrb import UVRB
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.job import PreflightError
from gve_ray.schema import Item
from gve_ray.store import fingerprint

log = logging.getLogger(__name__)

DEFAULT_METRIC = "hit@1"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as it is asked: queries with their prompt, and the fingerprints of all its items.

    is_classification: the corpus are the labels, of which each query has one.
    """

    data: RetrievalSet
    metric: str
    queries: list[Item]
    query_keys: list[str]
    corpus_keys: list[str]
    is_classification: bool = False

    @property
    def revision(self) -> str:
        """sha256 (hex) of all that scores hang on: ids, contents, prompt, judgements, candidate lists, metric."""
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


def find_sources(config: EvaluationJobConfig) -> list[DataConfig]:
    """The data sets of a config, those below `root` first. Raises PreflightError where there are none."""
    try:
        return _find_sources(config)
    except (OSError, ValueError, ImportError) as error:
        raise PreflightError(f"root={config.root!r}, data: cannot be read: {error}") from error


def _find_sources(config: EvaluationJobConfig) -> list[DataConfig]:
    named = {one.name for one in config.data}
    below: list[DataConfig] = []
    if config.root is not None:
        root = config.root.rstrip("/")
        folders = {name: f"{root}/{name}" for name in UVRB if name not in named}
        below = [DataConfig(name=name, folder=one) for name, one in folders.items() if is_folder(one)]
        if not below:
            raise PreflightError(
                f"root={config.root!r}: holds no data set of UVRB; name the folder that has "
                f"{', '.join(UVRB)} in it"
            )
    for one in config.data:
        if not (is_folder(one.folder) or (one.format == "classes" and is_file(one.folder))):
            raise PreflightError(f"data.{one.name}.folder={one.folder!r}: no such folder")
    return [*below, *config.data]


def open_sources(sources: Sequence[DataConfig], index: ItemIndex) -> list[Source]:
    """Read the data sets and fingerprint their items. The prompt goes to the query side only."""
    opened = []
    for source in sources:
        data = read(source)
        spec = UVRB.get(source.name)
        prompt = source.prompt if source.prompt is not None else (spec.prompt if spec else None)
        queries = [replace(item, instruction=prompt or None) for item in data.queries]
        opened.append(
            Source(
                data=data,
                metric=source.metric or (spec.metric if spec else DEFAULT_METRIC),
                queries=queries,
                query_keys=index.keys(queries),
                corpus_keys=index.keys(data.corpus),
                is_classification=source.format == "classes",
            )
        )
    return opened


def read(source: DataConfig) -> RetrievalSet:
    """A data set in its format; what is wrong with it is in `skipped`."""
    if source.format == "mteb":
        data = load_mteb(source.folder, name=source.name, split=source.split)
    elif source.format == "classes":
        data = load_classes(source.folder, name=source.name, template=source.template)
    else:
        data = load(source.folder, name=source.name)
    counts = len(data.queries), len(data.corpus), len(data.skipped)
    log.info("%s: %d queries, %d items, %d faults", source.name, *counts)
    return data


def check(config: EvaluationJobConfig) -> str:
    """Read and decode all data sets and embed nothing. Raises PreflightError with one line a fault."""
    sources = find_sources(config)
    faults: list[Fault] = []
    for source in sources:
        data = read(source)
        workers = max(1, config.resources.actors)
        faults += data.skipped + check_media(data, frames=config.frames, workers=workers)
    if faults:
        told = "\n".join(map(str, faults))
        raise PreflightError(f"faults in {len(sources)} data sets: {len(faults)}\n{told}")
    return f"faults in {len(sources)} data sets: none ({', '.join(source.name for source in sources)})"
