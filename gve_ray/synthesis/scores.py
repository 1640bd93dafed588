"""Write scores.parquet: for every video of a run, whether it was kept, and all scores that filters computed.

    write_scores(run)       # in the driver, after each part

The file has a row for each video of the manifest, so kept and rejected videos together are the input; the
shots of a long video have its place.
Scores come from the stores of the work folder, which also have those of rejected videos, and from the
rejects. A video has no score of a stage that it did not reach.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem, write_atomically
from gve_ray.synthesis.annotate import PARTS
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.cut import threshold_of
from gve_ray.synthesis.stages import SharedState, SynthesisRun

SCORES_FILE = "scores.parquet"
VERDICT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("kept", pa.bool_()),  # null while the video is not decided
        ("stage", pa.string()),  # that rejected it; null if it was kept
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score by which a stage rejects videos.

    stage: its name. option: the option with the threshold, dotted. rejects: which scores it rejects, those
    below the threshold, up to it (included) or above it. title, note: of its chart in the report.
    only_rejected: the videos that pass have no such score.
    """

    stage: str
    option: str
    rejects: Literal["below", "up to", "above"]
    title: str
    note: str
    only_rejected: bool = False

    def is_rejected(self, values: np.ndarray, threshold: float) -> np.ndarray:
        """Return which scores a threshold rejects, bool [n]; never NaN."""
        if self.rejects == "below":
            return values < threshold
        return values <= threshold if self.rejects == "up to" else values > threshold

    def is_stricter(self, threshold: float | None, other: float | None) -> bool:
        """Return whether the other threshold may reject scores that this one accepts. None rejects nothing."""
        if threshold is None or other is None:
            return other is not None
        return other < threshold if self.rejects == "above" else other > threshold


_CONTENT: Sequence[tuple[str, Literal["below", "above"], str, str]] = (
    ("text_overlay", "above", "Text overlay", "share of the picture"),
    ("borders", "above", "Borders", "share of the picture"),
    ("blur", "above", "Blur", "of the sharpest edges, in pixels"),
    ("darkness", "above", "Darkness", "of the brightest parts"),
    ("slideshow", "above", "Slideshow", "share of stills with cuts"),
    ("nsfw", "above", "Not safe for work", "score of the worst frame"),
    ("aesthetic", "below", "Aesthetic score", "mean of the frames"),
)
# By the name of the score in stores and in rejects.
SCORES: Mapping[str, Score] = {
    "distance": Score(
        stage="duplicates",
        option="quality.near_duplicate_threshold",
        rejects="up to",
        title="Distance of copies",
        note="from the video that was kept; exact copies have 0",
        only_rejected=True,
    ),
    "motion": Score(
        stage="dynamics",
        option="quality.motion_threshold",
        rejects="below",
        title="Motion",
        note="videos below the cut are static",
    ),
    **{
        name: Score(
            stage=name,
            option=f"quality.content.{name}.threshold",
            rejects=rejects,
            title=title,
            note=f"{note}; videos {rejects} the cut are rejected",
        )
        for name, rejects, title, note in _CONTENT
    },
    "consistency": Score(
        stage="consistency",
        option="quality.consistency.threshold",
        rejects="below",
        title="Caption and video",
        note="cosine; pairs below the cut are rejected",
    ),
    "semantic_duplicates": Score(
        stage="semantic_duplicates",
        option="quality.semantic_duplicate_threshold",
        rejects="above",
        title="Semantic duplicates",
        note="highest cosine with an earlier video; videos above the cut are rejected",
        only_rejected=True,
    ),
}


def cut_of(name: str, config: SynthesisConfig, values: Sequence[float]) -> float | None:
    """Return the threshold of a score in a config; None if nothing is rejected by it.

    values: the scores of which a percentile is taken if the config gives one.
    """
    if name == "consistency":
        consistency = config.quality.consistency
        return None if consistency.model is None else threshold_of(consistency, values)
    if SCORES[name].option.startswith("quality.content."):
        content = config.quality.content
        cut = content.cuts.get(name)
        is_cropped = name == "borders" and content.borders.action == "crop"
        return (
            None
            if cut is None or is_cropped
            else threshold_of(cut, values, above=SCORES[name].rejects == "above")
        )
    return cast(float | None, reduce(getattr, SCORES[name].option.split("."), cast(Any, config)))


def write_scores(run: SynthesisRun) -> None:
    """Write scores.parquet into the output folder of a run, in place of an earlier one."""
    sink = pa.BufferOutputStream()
    pq.write_table(score_table(run.shared), sink, compression="zstd")
    files, root = filesystem(run.config.output)
    write_atomically(files, f"{root}/{SCORES_FILE}", sink.getvalue())


def score_table(shared: SharedState) -> pa.Table:
    """Return one row per video, sorted by id: `VERDICT_SCHEMA`, then a column for each score."""
    videos = shared.videos().combine_chunks()
    ids = videos["video_id"].combine_chunks()
    rejects = _rejected_videos(shared.rejects)
    at = pc.index_in(ids, value_set=rejects["video_id"].combine_chunks())
    annotated = shared.annotations.table(["video_id"])["video_id"].combine_chunks()
    undecided = pa.scalar(None, pa.bool_())
    kept = pc.if_else(pc.is_in(ids, value_set=annotated), True, undecided)
    columns: dict[str, pa.Array] = {
        "video_id": ids,
        "uri": videos["uri"].combine_chunks(),
        "kept": pc.if_else(pc.is_valid(at), False, kept),
        "stage": rejects["stage"].combine_chunks().take(at),
        "reason": rejects["reason"].combine_chunks().take(at),
    }
    for store in shared.score_stores.values():
        for name, stored in _stored(store, ids):
            columns.setdefault(name, stored)
    for name, column in _measured(rejects):
        _add(columns, name, column.take(at))
    return pa.table(columns)


def _add(columns: dict[str, pa.Array], name: str, values: pa.Array) -> None:
    """Add a column of rejects; if there is one of the same name and kind, values fill its gaps."""
    present = columns.get(name)
    if present is None:
        columns[name] = values
    elif name not in VERDICT_SCHEMA.names and pa.types.is_floating(values.type):
        columns[name] = pc.coalesce(present, values.cast(present.type, safe=False))
    else:
        columns[f"rejected_{name}"] = values


def _rejected_videos(rejects: Store) -> pa.Table:
    """Return the rejects of stages after which the video is gone; after the others, it stays."""
    stay = ", ".join(f"'{stage}'" for stage in ("rectify", *PARTS))
    return rejects.table(["video_id", "stage", "reason", "scores"], f"stage not in ({stay})")


def _stored(store: Store, ids: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Yield (name, values) of each numeric column of a store, with a value or null for each of `ids`."""
    names = [field.name for field in store.schema if _is_number(field.type)]
    schema = pa.schema([store.schema.field(name) for name in (store.key, *names)])
    rows = pa.Table.from_batches(store.select(ids, schema.names), schema)
    at = pc.index_in(ids, value_set=rows[store.key].combine_chunks())
    for name in names:
        yield name, rows[name].combine_chunks().take(at)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _measured(rejects: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    """Yield (name, values) of each score in the rejects that is a number (float64) or a text."""
    values: dict[str, list[float | str | None]] = {}
    for row, text in enumerate(rejects["scores"].to_pylist()):
        for name, value in json.loads(text or "{}").items():
            if isinstance(value, int | float | str):
                column = values.setdefault(name, [])
                column += [None] * (row - len(column))
                column.append(value)
    for name, column in sorted(values.items()):
        column += [None] * (rejects.num_rows - len(column))
        if any(isinstance(value, str) for value in column):
            yield name, pa.array([None if value is None else str(value) for value in column], pa.string())
        else:
            yield name, pa.array([None if value is None else float(value) for value in column], pa.float64())
