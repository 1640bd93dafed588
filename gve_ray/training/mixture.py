"""Load the mixture of a run: one `DataSet` per task of each entry, with its weight and batch size.

UVRD is one entry, a folder of seven tasks, and becomes seven data sets. Other entries are folders in the
pair schema, or files in one of the formats of formats.py. Data sets are not merged, because a batch holds
pairs of a single one (arXiv:2510.27571, section 5).
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from pyarrow import fs

from gve_ray.schema import UVRD_PAIRS, Task
from gve_ray.store.runfolder import filesystem
from gve_ray.training.config import BATCH_SIZES, HARD_NEGATIVES, DataSetConfig
from gve_ray.training.convert import convert
from gve_ray.training.curriculum import DataSetSize
from gve_ray.training.pairs import PairSet, freeze, rows_of_parts
from gve_ray.training.readers.reader import task_of
from gve_ray.training.records import check_source

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One data set of the mixture: pairs of one task.

    batch_size: pairs per rank and step. negatives: hard negatives per query. brings_negatives: whether the
    data set has hard negatives, so that they need not be mined.
    """

    pairs: PairSet
    weight: float
    batch_size: int
    negatives: int
    brings_negatives: bool

    @property
    def size(self) -> DataSetSize:
        """What a curriculum needs to know about it."""
        return DataSetSize(
            format=self.pairs.task, pairs=len(self.pairs), weight=self.weight, batch_size=self.batch_size
        )


def load_mixture(
    configs: Sequence[DataSetConfig], folder: str | os.PathLike[str], *, seed: int
) -> dict[str, DataSet]:
    """Copy every entry to Arrow files under the local `folder` and open them as data sets. Return these by name.

    Raises ValueError for two data sets with one name, a task that a folder lacks, or a data set without pairs.
    """
    datasets: dict[str, DataSet] = {}
    for config in configs:
        for name, task, path in _frozen(config, Path(folder)):
            if name in datasets:
                raise ValueError(f"data: two data sets are called {name!r}; give them different names")
            pairs = PairSet(path, name=name, task=task, sample=config.sample, seed=seed)
            datasets[name] = DataSet(
                pairs=pairs,
                weight=config.weight,
                batch_size=batch_size_of(config, task),
                negatives=HARD_NEGATIVES[task] if config.negatives is None else config.negatives,
                brings_negatives=pairs.has_negatives(),
            )
            log.info("%s: %d pairs", name, len(pairs))
    if not datasets:
        raise ValueError("data=[]: a mixture needs at least one data set")
    return datasets


def check_sources(configs: Sequence[DataSetConfig]) -> None:
    """Raise ValueError for a data set that does not exist or lacks a requested task. No pairs are read."""
    for config in configs:
        try:
            if config.format == "pairs":
                _tasks(config, *filesystem(config.uri))
            else:
                check_source(config)
        except OSError as error:
            raise ValueError(f"data.{config.name}.uri={config.uri}: cannot be read ({error})") from error


def named_tasks(config: DataSetConfig) -> dict[str, Task]:
    """Return the tasks of a data set by their names in the mixture; those of UVRD if the data do not exist."""
    if config.format != "pairs":
        return {config.name: task_of(config)}
    try:
        tasks = _tasks(config, *filesystem(config.uri))
    except (ValueError, OSError):
        tasks = [Task(task) for task in config.tasks] or list(UVRD_PAIRS)
    return {f"{config.name}-{task.value}": task for task in tasks}


def count_pairs(config: DataSetConfig) -> dict[str, int] | None:
    """Return the number of pairs of each task of a data set, by name; None if the data do not exist.

    Raises ValueError or OSError if the data exist and cannot be read.
    """
    if config.format == "pairs":
        try:
            files, root = filesystem(config.uri)
            if files.get_file_info(root).type == fs.FileType.NotFound:
                return None
        except OSError:
            return None
        counts = {
            f"{config.name}-{task.value}": sum(_rows(files, path) for path in _parts(files, root, task))
            for task in _tasks(config, files, root)
        }
    else:
        try:
            check_source(config)
        except (ValueError, OSError):
            return None
        counts = {config.name: sum(row is not None for row in convert(config))}
    return {name: min(pairs, config.sample or pairs) for name, pairs in counts.items()}


def batch_size_of(config: DataSetConfig, task: Task) -> int:
    """Return the pairs per rank and step of a data set, by default those of Table 7."""
    return BATCH_SIZES[task] if config.batch_size is None else config.batch_size


def _rows(files: fs.FileSystem, path: str) -> int:
    with files.open_input_file(path) as source:
        return int(pq.ParquetFile(source).metadata.num_rows)


def _frozen(config: DataSetConfig, folder: Path) -> list[tuple[str, Task, Path]]:
    """Copy one data set to Arrow files; return the name, task and file of each of its tasks."""
    if config.format != "pairs":
        path = folder / f"{config.name}.arrow"
        if n_skipped := freeze(convert(config), path):
            log.warning("%s: skipped %d rows that make no %s pair", config.name, n_skipped, task_of(config))
        return [(config.name, task_of(config), path)]
    files, root = filesystem(config.uri)
    out = []
    for task in _tasks(config, files, root):
        name = f"{config.name}-{task.value}"
        path = folder / f"{name}.arrow"
        freeze(rows_of_parts(files, _parts(files, root, task)), path)
        out.append((name, task, path))
    return out


def _tasks(config: DataSetConfig, files: fs.FileSystem, root: str) -> list[Task]:
    """Return the tasks to read: those of the config, which must all exist, or else all that exist."""
    available = [task for task in Task if _parts(files, root, task)]
    if not available:
        raise ValueError(
            f"data.{config.name}.uri={config.uri}: no task=*/part-*.parquet in it; give the uvrd folder that "
            "jobs/synthesize.py wrote"
        )
    requested = [Task(task) for task in config.tasks] or available
    if missing := [task.value for task in requested if task not in available]:
        raise ValueError(
            f"data.{config.name}: no pairs for {', '.join(missing)}; {config.uri} has "
            f"{', '.join(task.value for task in available)}. Drop the task, or synthesize pairs for it"
        )
    return requested


def _parts(files: fs.FileSystem, root: str, task: Task) -> list[str]:
    """Return the Parquet files of one task by name. Unfinished files start with a dot and are ignored."""
    selector = fs.FileSelector(f"{root}/task={task.value}", allow_not_found=True)
    names = [info.path for info in files.get_file_info(selector) if info.base_name.startswith("part-")]
    return sorted(name for name in names if name.endswith(".parquet"))
