"""A stage of synthesis as data, and the state of a run that each stage hands to the next.

pipeline.py lists the stages in order; job.py runs them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts, StagePace
from gve_ray.store import Store
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import Separation
from gve_ray.synthesis.ingest import INGEST_SCHEMA, ingest_fingerprint


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline.

    name: its name in run.json, in rejects.lance and in the report. unit: what its counts are of:
    videos, captions or pairs; None for a stage that decides nothing and therefore has no counts.
    reads, writes: the data that it needs and adds. run: called with the run and this stage in the
    driver; returns the counts (their seconds are set by the caller), or None without a unit.
    worker: the class that the stage's actors instantiate (see `gve_ray.stage.run_stage`).
    worker_args: arguments of the worker in addition to those from `run`. resources: the stage's pool
    of actors, or the name of the pool in `config.resources`. Without worker and resources, the
    driver does the work.
    """

    name: str
    unit: str | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    run: "Callable[[SynthesisRun, Stage], StageCounts | None]"
    worker: type = NoneType
    worker_args: Mapping[str, Any] = field(default_factory=dict)
    resources: str | StageResources | None = None


@dataclass(kw_only=True)
class SynthesisRun:
    """The state of one run.

    manifest: columns video_id (unique), uri, caption (null where there is none). captions: cleaned
    raw captions by video id. videos: the videos that have passed so far, sorted by id, with the
    columns that filters use. consistency: cosines by video id. mismatched: cosines of videos
    with captions of others; separation: of the former from the latter. rejected: rows of `REJECT_SCHEMA` by
    stage, until they are committed. answered: counts of the composed prompts by stage. pairs:
    training pairs by task. paces: of the stages that have run rows on actors in this run.
    """

    config: SynthesisConfig
    manifest: pa.Table
    captions: dict[str, str] = field(default_factory=dict)
    videos: pa.Table = field(default_factory=lambda: pa.table({"video_id": pa.array([], pa.string())}))
    consistency: dict[str, float] = field(default_factory=dict)
    mismatched: Sequence[float] = ()
    separation: Separation | None = None
    rejected: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    answered: dict[str, StageCounts] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    paces: dict[str, StagePace] = field(default_factory=dict)

    @cached_property
    def assets(self) -> Store:
        return Store(f"{self.config.output}/assets.lance", ASSET_SCHEMA)

    @cached_property
    def rejects(self) -> Store:
        return Store(f"{self.config.output}/rejects.lance", REJECT_SCHEMA)

    @cached_property
    def annotations(self) -> Store:
        return Store(f"{self.config.output}/annotations.lance", ANNOTATION_SCHEMA)

    @cached_property
    def decoded(self) -> Store:
        return decoded_store(self.config)

    def pool(self, stage: Stage) -> StageResources:
        """Return the pool of actors of a stage that has one."""
        pool = stage.resources
        return pool if isinstance(pool, StageResources) else getattr(self.config.resources, str(pool))

    def timed(self, stage: Stage, counts: StageCounts) -> StageCounts:
        """Remember the pace of a stage that has run on actors. Returns its counts."""
        if counts.pace is not None:
            self.paces[stage.name] = counts.pace
        return counts

    def reject(self, stage: Stage, rejects: Mapping[str, Reject]) -> StageCounts:
        """Reject videos by id; the others of `videos` stay. Returns the stage's counts."""
        before = self.videos.num_rows
        gone = pa.array(list(rejects), pa.string())
        self.videos = self.videos.filter(pc.invert(pc.is_in(self.videos["video_id"], value_set=gone)))
        return self.record(stage, before, rejects)

    def record(self, stage: Stage, n_in: int, rejects: Mapping[str, Reject]) -> StageCounts:
        """Remember a stage's rejects for the commit. Returns its counts."""
        unit = str(stage.unit).removesuffix("s")
        self.rejected[stage.name] = [
            reject.row(video_id, stage=stage.name, unit=unit) for video_id, reject in rejects.items()
        ]
        return StageCounts(
            name=stage.name, n_in=n_in, n_out=n_in - len(rejects), n_rejected=len(rejects), seconds=0.0
        )


def work_folder(config: SynthesisConfig) -> str:
    """Return the folder of decoded and scored videos, without a trailing slash."""
    return (config.work or f"{config.output}/work").rstrip("/")


def decoded_store(config: SynthesisConfig) -> Store:
    """Return the store of decoded videos (`INGEST_SCHEMA`), which still has those that filters reject."""
    name = f"ingest-{ingest_fingerprint(config.media, config.seed)[:16]}"
    return Store(f"{work_folder(config)}/{name}.lance", INGEST_SCHEMA)


def load_class(name: str) -> type:
    """Import a class by "module:Class" from the environment or the current folder.

    Raises ImportError, AttributeError or TypeError with what is wrong.
    """
    here = str(Path.cwd())
    if here not in sys.path:  # at the end, so that a file there does not hide an installed module
        sys.path.append(here)
    worker = resolve_name(name)
    if not isinstance(worker, type) or not any("__call__" in vars(base) for base in worker.__mro__):
        raise TypeError(f"{name} is not a class whose instances can be called with a list of rows")
    return worker
