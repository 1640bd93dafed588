"""The mixture: every data set of a run as one `PairSet` a task, with how it is drawn.

UVRD is one entry (a folder of seven tasks); any other data set in the pair schema, or one that convert.py
reads, is another. Each becomes tasks of its own, since a batch holds one data set (paper section 5).
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from gve_ray.inputs.table import FORMS, is_table
from gve_ray.schema import Task
from gve_ray.store.runfolder import filesystem
from gve_ray.training.config import BATCH_SIZES, HARD_NEGATIVES, DataSetConfig
from gve_ray.training.convert import convert, task_of
from gve_ray.training.pairs import PairSet, freeze, rows_of_parts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MixtureTask:
    """One task of the mixture. batch_size: pairs a rank and step. negatives: hard negatives a query.

    brings_negatives: whether its pairs come with some, so that they need not be mined.
    """

    pairs: PairSet
    weight: float
    batch_size: int
    negatives: int
    brings_negatives: bool


def load_mixture(
    configs: Sequence[DataSetConfig], folder: str | os.PathLike[str], *, seed: int
) -> dict[str, MixtureTask]:
    """Copy every data set into Arrow files under `folder` (local) and open them, keyed by task name.

    Raises ValueError on two sets of one name, a task that a folder does not have, and a set without pairs.
    """
    found: dict[str, MixtureTask] = {}
    for config in configs:
        for name, task, path in _frozen(config, Path(folder)):
            if name in found:
                raise ValueError(f"data: two sets are called {name!r}; give them names of their own")
            pairs = PairSet(path, name=name, task=task, sample=config.sample, seed=seed)
            found[name] = MixtureTask(
                pairs=pairs,
                weight=config.weight,
                batch_size=BATCH_SIZES[task] if config.batch_size is None else config.batch_size,
                negatives=HARD_NEGATIVES[task] if config.negatives is None else config.negatives,
                brings_negatives=pairs.has_negatives(),
            )
            log.info("%s: %d pairs", name, len(pairs))
    if not found:
        raise ValueError("data=[]: a mixture needs at least one data set")
    return found


def check_sources(configs: Sequence[DataSetConfig]) -> None:
    """Raises ValueError for a data set that is not there, or that lacks a task asked for. Reads no pairs."""
    for config in configs:
        try:
            if config.format == "pairs":
                _tasks(config, *filesystem(config.uri))
            elif not is_table(config.uri):
                raise ValueError(
                    f"data.{config.name}.uri={config.uri}: no such file, or none that ends in {FORMS}"
                )
        except OSError as error:
            raise ValueError(f"data.{config.name}.uri={config.uri}: cannot be read ({error})") from error


def _frozen(config: DataSetConfig, folder: Path) -> list[tuple[str, Task, Path]]:
    """Name, task and Arrow file of each task of one data set."""
    if config.format != "pairs":
        path = folder / f"{config.name}.arrow"
        counts = freeze(convert(config), path)
        if counts.n_skipped:
            log.warning("%s: %d lines without text or target left out", config.name, counts.n_skipped)
        return [(config.name, task_of(config.format), path)]
    files, root = filesystem(config.uri)
    out = []
    for task in _tasks(config, files, root):
        name = f"{config.name}-{task.value}"
        path = folder / f"{name}.arrow"
        freeze(rows_of_parts(files, _parts(files, root, task)), path)
        out.append((name, task, path))
    return out


def _tasks(config: DataSetConfig, files: fs.FileSystem, root: str) -> list[Task]:
    """The tasks to read: those asked for, each of which must be there, or all that are."""
    there = [task for task in Task if _parts(files, root, task)]
    if not there:
        raise ValueError(
            f"data.{config.name}.uri={config.uri}: no task=*/part-*.parquet in it; give the uvrd folder that "
            "jobs/synthesize.py wrote"
        )
    wanted = [Task(task) for task in config.tasks] or there
    if missing := [task.value for task in wanted if task not in there]:
        raise ValueError(
            f"data.{config.name}: no pairs for {', '.join(missing)}; {config.uri} has "
            f"{', '.join(task.value for task in there)}. Drop the task, or synthesize pairs for it"
        )
    return wanted


def _parts(files: fs.FileSystem, root: str, task: Task) -> list[str]:
    """Parquet files of one task, by name; a leading dot marks one that is not whole."""
    selector = fs.FileSelector(f"{root}/task={task.value}", allow_not_found=True)
    names = [info.path for info in files.get_file_info(selector) if info.base_name.startswith("part-")]
    return sorted(name for name in names if name.endswith(".parquet"))
