"""A stage of synthesis as data, and the state of a run that each stage hands to the next.

The videos of a run may come in parts (stream.py). A `SynthesisRun` is the state of one part, and its
`shared` is what all parts have in common. pipeline.py lists the stages in order; job.py runs them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts, StageError, StagePace, StageRunner
from gve_ray.stage.named import load_named
from gve_ray.store import Store
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import Separation, separation
from gve_ray.synthesis.cut import threshold_of
from gve_ray.synthesis.dedup import KeptVideos
from gve_ray.synthesis.ingest import INGEST_SCHEMA, ingest_fingerprint
from gve_ray.synthesis.semantic import KeptVectors
from gve_ray.synthesis.shots import LISTED_SCHEMA, PARENT_SCHEMA, parents_fingerprint, parents_of
from gve_ray.synthesis.spending import SharedLedger


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline.

    name: its name in run.json, in rejects.lance and in the report. unit: what its counts are of:
    videos, captions or pairs; None for a stage that decides nothing and therefore has no counts.
    reads, writes: the data that it needs and adds. run: called with the run and this stage in the
    driver; returns the counts (their seconds are set by the caller), or None without a unit.
    worker: the class that the stage's actors instantiate (see `gve_ray.stage.run_stage`).
    worker_args: arguments of the worker in addition to those from `open`. resources: the stage's pool
    of actors, or the name of the pool in `config.resources`. open: returns a runner of the actors, or
    None if the config does not need it. Without worker, resources and open, the driver does the work.
    in_order: the parts of a run go through it one at a time, in their order. is_cumulative: its counts
    are of all parts so far, not of one. is_light: its actors mostly wait for storage.
    """

    name: str
    unit: str | None
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    run: "Callable[[SynthesisRun, Stage], StageCounts | None]"
    worker: type = NoneType
    worker_args: Mapping[str, Any] = field(default_factory=dict)
    resources: str | StageResources | None = None
    open: "Callable[[SynthesisRun, Stage], StageRunner | None] | None" = None
    in_order: bool = False
    is_cumulative: bool = False
    is_light: bool = False


class SharedState:
    """What all parts of a run have in common: stores, actors, and what earlier parts and runs have left.

    manifest: of all parts. at_once: the actors of all stages live at the same time.
    """

    def __init__(self, config: SynthesisConfig, manifest: pa.Table, *, at_once: bool = False) -> None:
        self.config, self.manifest, self.at_once = config, manifest, at_once
        self.kept_videos, self.kept_vectors = KeptVideos(), KeptVectors()
        self.assembled: list[Any] = []  # `assemble.Assembled` of each early set, or of the whole
        self.pairs: dict[str, int] = {}  # by task
        # By part: the cosines of videos with their own captions, and with those of others. An array takes 8 bytes
        # a number, a list 32.
        self.cosines: dict[int, tuple[Sequence[float], Sequence[float]]] = {}
        self.content: dict[str, dict[int, Sequence[float]]] = {}  # scores by filter and part
        self.paces: dict[str, StagePace] = {}
        self.assets = Store(f"{config.output}/assets.lance", ASSET_SCHEMA)
        self.rejects = Store(f"{config.output}/rejects.lance", REJECT_SCHEMA)
        self.annotations = Store(f"{config.output}/annotations.lance", ANNOTATION_SCHEMA)
        self.decoded = decoded_store(config)
        # By stage, the stores of the work folder; numbers in them are scores of videos.
        self.score_stores: dict[str, Store] = {"integrity": self.decoded}
        self.parents = parents_store(config)
        self.shots: dict[int, pa.Table] = {}  # by part: rows of `shots.LISTED_SCHEMA`
        self.ledger: SharedLedger | None = None  # of a captioner behind an endpoint
        self._runners: dict[str, StageRunner | None] = {}

    @cached_property
    def ids(self) -> pa.Array:
        """The ids of the videos of all parts, in the manifest."""
        return self.manifest["video_id"].combine_chunks()

    @cached_property
    def earlier_assets(self) -> pa.Array:
        """The ids of the videos that earlier runs have written to assets.lance."""
        return self.assets.table(["video_id"])["video_id"].combine_chunks()

    @cached_property
    def earlier_rejects(self) -> dict[str, pa.Array]:
        """The ids of the videos that earlier runs have rejected, by stage."""
        rows = self.rejects.table(["stage", "video_id"])
        return {
            name: rows.filter(pc.equal(rows["stage"], name))["video_id"].combine_chunks()
            for name in pc.unique(rows["stage"]).to_pylist()
        }

    @property
    def mismatched(self) -> list[float]:
        """The cosines of all videos so far with captions of others."""
        return [cosine for _, others in list(self.cosines.values()) for cosine in others]

    def videos(self) -> pa.Table:
        """Return video_id and uri of all videos, sorted by id; shots are in the place of the long ones split so far."""
        columns = ["video_id", "uri"]
        shots = pa.concat_tables(list(self.shots.values())) if self.shots else LISTED_SCHEMA.empty_table()
        is_split = pc.is_in(self.manifest["video_id"], value_set=pc.unique(shots["parent_id"]))
        whole = self.manifest.filter(pc.invert(is_split))
        return pa.concat_tables([whole.select(columns), shots.select(columns)]).sort_by("video_id")

    def split_counts(self) -> dict[str, int] | None:
        """Return the number of long videos so far, and of their shots; None if long videos are not split."""
        if not self.config.shots.is_on:
            return None
        videos = sum(pc.count_distinct(shots["parent_id"]).as_py() for shots in list(self.shots.values()))
        return {"videos": videos, "shots": sum(shots.num_rows for shots in list(self.shots.values()))}

    def separation(self) -> Separation | None:
        """Return how far the cosines of all videos so far are from those with captions of others."""
        given = [cosine for own, _ in list(self.cosines.values()) for cosine in own]
        if not given:
            return None
        return separation(given, self.mismatched, threshold_of(self.config.quality.consistency, given))

    def content_scores(self, name: str) -> list[float]:
        """Return the scores of all videos so far that a content filter has judged."""
        return [score for scores in list(self.content.get(name, {}).values()) for score in scores]

    def read_earlier(self) -> None:
        """Read what earlier runs have left; to be called before this run commits anything."""
        _ = self.earlier_assets, self.earlier_rejects

    def open(self, run: "SynthesisRun", stage: Stage) -> StageRunner | None:
        """Return the runner of a stage's actors; open it if it is not open. None if the stage needs none."""
        if stage.name not in self._runners:
            runner = stage.open(run, stage) if stage.open else None
            self._runners[stage.name] = runner.__enter__() if runner else None
        return self._runners[stage.name]

    def close(self, stage: Stage) -> None:
        """End the actors of a stage, which no part needs any more, and tidy its stores, which nothing reads."""
        if runner := self._runners.pop(stage.name, None):
            runner.__exit__(None, None, None)

    def pause(self, stage: Stage) -> None:
        """End the actors of a stage until the next part needs them."""
        if runner := self._runners.get(stage.name):
            runner.stop()

    def fail(self, error: StageError) -> None:
        """Make all stages raise this error where their actors work, and end the actors."""
        for runner in self._runners.values():
            if runner is not None:
                runner.fail(error)
                runner.stop()


_ALONE: Any = object()  # marks a run without other parts
_NOT_SPLIT: Any = object()  # marks one whose videos are those of the manifest


@dataclass(kw_only=True)
class SynthesisRun:
    """The state of one part of a run.

    manifest: columns video_id (unique), uri, caption (null where there is none). listed: the videos to
    decode; those of the manifest, until the long ones are replaced by their shots (`shots.LISTED_SCHEMA`).
    part: its number, from 0, of `parts`. captions: cleaned raw captions by video id. videos: the videos
    that have passed so far, sorted by id, with the columns that filters use. consistency: cosines by video
    id. content: scores of content filters, by filter and video id. boxes: of the videos whose borders are
    cropped. rejected: rows of `REJECT_SCHEMA` by stage, until they are committed. answered: counts of the
    composed prompts by stage.
    """

    config: SynthesisConfig
    manifest: pa.Table
    listed: pa.Table = field(default_factory=lambda: _NOT_SPLIT)
    part: int = 0
    parts: int = 1
    shared: SharedState = field(default_factory=lambda: _ALONE)
    captions: dict[str, str] = field(default_factory=dict)
    videos: pa.Table = field(default_factory=lambda: pa.table({"video_id": pa.array([], pa.string())}))
    consistency: dict[str, float] = field(default_factory=dict)
    content: dict[str, dict[str, float]] = field(default_factory=dict)
    boxes: dict[str, Sequence[int]] = field(default_factory=dict)
    rejected: dict[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    answered: dict[str, StageCounts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.listed is _NOT_SPLIT:
            self.listed = self.manifest
        if self.shared is _ALONE:
            self.shared = SharedState(self.config, self.manifest)

    @property
    def assets(self) -> Store:
        return self.shared.assets

    @property
    def rejects(self) -> Store:
        return self.shared.rejects

    @property
    def annotations(self) -> Store:
        return self.shared.annotations

    @property
    def decoded(self) -> Store:
        return self.shared.decoded

    @property
    def ids(self) -> pa.Array:
        """The ids of the part's videos, among them those of shots."""
        return self.listed["video_id"].combine_chunks()

    def pool(self, stage: Stage) -> StageResources:
        """Return the pool of actors of a stage that has one.

        While the actors of other stages live as well, those of a light stage are few and reserve nothing.
        """
        pool = stage.resources
        pool = pool if isinstance(pool, StageResources) else getattr(self.config.resources, str(pool))
        if stage.is_light and self.shared.at_once:
            return replace(pool, actors=min(pool.count or 1, 2), max_actors=0, num_cpus=0.0, memory=0)
        return pool

    def run_rows(self, stage: Stage, pending: pa.Table) -> StageCounts:
        """Run rows on the actors of a stage. Returns its counts, and remembers its pace."""
        runner = self.shared.open(self, stage)
        assert runner is not None, f"stage {stage.name}: has no actors"
        label = f"{stage.name}, part {self.part + 1} of {self.parts}" if self.parts > 1 else stage.name
        counts = runner.run(pending, part=self.part, label=label)
        if counts.pace is not None:
            paces = self.shared.paces
            earlier = paces.get(stage.name)
            paces[stage.name] = earlier.with_part(counts.pace) if earlier else counts.pace
        return counts

    def of_part(self, keys: pa.Array) -> set[str]:
        """Return those keys that are videos of this part or shots of one; for the first part, also those of none."""
        parents = parents_of(keys, self.shared.ids)
        mine = pc.is_in(parents, value_set=self.manifest["video_id"].combine_chunks())
        if self.part == 0:
            mine = pc.or_(mine, pc.invert(pc.is_in(parents, value_set=self.shared.ids)))
        return set(keys.filter(mine).to_pylist())

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
    name = f"ingest-{ingest_fingerprint(config.media, config.seed, config.shots)[:16]}"
    return Store(f"{work_folder(config)}/{name}.lance", INGEST_SCHEMA)


def parents_store(config: SynthesisConfig) -> Store:
    """Return the store of the spans of each video (`PARENT_SCHEMA`)."""
    name = f"shots-{parents_fingerprint(config.shots, config.media)[:16]}"
    return Store(f"{work_folder(config)}/{name}.lance", PARENT_SCHEMA)


def load_class(name: str) -> type:
    """Import a class by "module:Class" from the environment or the current folder.

    Raises ImportError, AttributeError or TypeError with what is wrong.
    """
    worker = load_named(name)
    if not isinstance(worker, type) or not any("__call__" in vars(base) for base in worker.__mro__):
        raise TypeError(f"{name} is not a class whose instances can be called with a list of rows")
    return worker
