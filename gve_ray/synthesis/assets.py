"""The stages that filter videos, and the one that writes what passed to assets.lance.

The expensive steps (decoding, embedding, filters of the user) write stores in a work folder. Each
store's name contains a fingerprint of the settings that determine its rows, so with the same work
folder a new threshold or a longer manifest decodes no video again. What the filters decide is
recomputed from these stores on every run.
"""

import logging
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts, StageError, StageRunner
from gve_ray.store import Store, StoreError, fingerprint
from gve_ray.synthesis.config import ConsistencyConfig, MediaConfig
from gve_ray.synthesis.consistency import (
    CONSISTENCY_SCHEMA,
    Separation,
    caption_hash,
    mismatched_captions,
    scores_fingerprint,
    scores_schema,
    separation,
)
from gve_ray.synthesis.content.crop import cropped
from gve_ray.synthesis.cut import threshold_of
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.quality import duplicates, inconsistent_pairs, rectify_captions, static_videos
from gve_ray.synthesis.semantic import semantic_duplicates
from gve_ray.synthesis.shots import with_shots
from gve_ray.synthesis.stages import Stage, SynthesisRun, load_class
from gve_ray.synthesis.work import open_into, rows_of, run_into, store_name, work_store

log = logging.getLogger(__name__)

_SCORE_COLUMNS = ["video_id", "uri", "content_hash", "width", "height", "duration", "motion", "shot"]
_PASSED_SCHEMA = pa.schema([("video_id", pa.string())])


def rectify(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Clean the raw captions, or drop them; the videos stay."""
    run.captions, rejects = rectify_captions(run.manifest, on=run.config.quality.rectify)
    return run.record(stage, len(run.captions) + len(rejects), rejects)


def split_videos(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Find the shots of long videos; `run.listed` then has them in place of these videos."""
    parents = run.shared.parents
    rejects = run_into(run, stage, parents, run.manifest.select(["video_id", "uri"]))
    run.listed = with_shots(run.manifest, parents)
    run.shared.shots[run.part] = run.listed.filter(pc.is_valid(run.listed["parent_id"]))
    return run.record(stage, run.manifest.num_rows, rejects)


def decode(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Decode each video once; `run.videos` then are those that could be decoded."""
    pending = run.listed.select([name for name in run.listed.column_names if name != "caption"])
    rejects = run_into(run, stage, run.decoded, pending)
    run.videos = decoded_videos(run.listed, run.decoded)
    return run.record(stage, pending.num_rows, rejects)


def drop_duplicates(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Keep the best copy of each video; copies of videos that earlier parts have kept all go."""
    signatures = run.decoded.select(run.videos["video_id"], ["video_id", "signature"], rows=1024)  # 3 MB
    threshold = run.config.quality.near_duplicate_threshold
    earlier = run.shared.kept_videos if run.parts > 1 else None
    return run.reject(stage, duplicates(run.videos, signatures, threshold=threshold, earlier=earlier))


def drop_static(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Drop the videos in which nothing moves."""
    return run.reject(stage, static_videos(run.videos, threshold=run.config.quality.motion_threshold))


def drop_inconsistent(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Drop the videos whose caption does not belong to them; those without a caption pass."""
    config = run.config.quality.consistency
    ids = run.videos["video_id"].to_pylist()
    captions = {video_id: run.captions[video_id] for video_id in ids if video_id in run.captions}
    embedded = ids if run.config.quality.has_vectors else list(captions)
    if config.model is None or not embedded:
        return run.reject(stage, {})
    out = _scores_store(run, stage.name)
    others = mismatched_captions(captions)  # consecutive rows share captions, so their order is kept
    order = [*others, *(video_id for video_id in embedded if video_id not in others)]
    pending = pa.table(
        {
            "video_id": order,
            "caption": pa.array([captions.get(video_id) for video_id in order], pa.string()),
            "other": pa.array([others.get(video_id) for video_id in order], pa.string()),
        }
    )
    rejects = run_into(run, stage, out, pending)
    mismatched = []
    for row in rows_of(out, pending["video_id"], CONSISTENCY_SCHEMA.names):
        if row["caption_hash"] != caption_hash(captions.get(row["video_id"])):
            raise StoreError(
                f"{out.uri}: {row['video_id']!r} was scored with another caption; use a new work folder"
            )
        if row["consistency"] is not None:
            run.consistency[row["video_id"]] = row["consistency"]
        if row["mismatched"] is not None:
            mismatched.append(row["mismatched"])
    given = list(run.consistency.values())
    threshold = threshold_of(config, given) if given else -1.0
    run.shared.cosines[run.part] = array("d", given), array("d", mismatched)
    if run.part == 0:
        _warn_of_chance(config, separation(given, mismatched, threshold))
    return run.reject(stage, rejects | inconsistent_pairs(run.consistency, threshold=threshold))


def drop_semantic_duplicates(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Keep the earliest of the videos that show the same; those of earlier parts are earlier."""
    stored = _scores_store(run, "consistency")

    def read(ids: Sequence[str]) -> NDArray[np.float32]:
        return np.array(stored.take(ids, ["vector"])["vector"].to_pylist(), dtype=np.float32)

    threshold = run.config.quality.semantic_duplicate_threshold
    assert threshold is not None, "without a threshold there is no stage"
    kept = run.shared.kept_vectors
    rejects, nearest = semantic_duplicates(run.videos, read, threshold=threshold, kept=kept)
    run.shared.content.setdefault(stage.name, {})[run.part] = array("d", nearest)
    return run.reject(stage, rejects)


def _warn_of_chance(config: ConsistencyConfig, separation: Separation | None) -> None:
    if separation is not None and separation.is_chance:
        log.warning(
            "quality.consistency.model=%r: it does not tell the captions from those of other videos (%s), so its "
            "filter rejects at random; look whether the captions belong to these videos, and use another model or none",
            config.model,
            separation,
        )


def apply_filter(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Apply a filter of the user's own (`FilterWorker`) to the stored rows of the videos."""
    out = _passed_store(run, stage)
    return run.reject(stage, run_into(run, stage, out, run.videos.select(["video_id"])))


class FilterWorker:
    """Worker that asks a filter of the user's own: rows of video_id -> rows of video_id or rejects.

    name: "module:Class" of the filter. options: its keyword arguments. The filter gets rows of
    `INGEST_SCHEMA` and returns, for each of them, the row itself or a `Reject`.
    """

    def __init__(self, name: str, options: Mapping[str, Any], decoded: Store) -> None:
        self._filter = load_class(name)(**options)
        self._decoded = decoded

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
        stored = self._decoded.take([row["video_id"] for row in rows]).to_pylist()
        return [
            {"video_id": result.get("video_id")} if isinstance(result, dict) else result
            for result in self._filter(stored)
        ]


def _scores_store(run: SynthesisRun, stage: str) -> Store:
    quality, vectors = run.config.quality, run.config.quality.has_vectors
    name = scores_fingerprint(quality.consistency, store_name(run.decoded), vectors=vectors)
    return work_store(run, f"{stage}-{name[:16]}", scores_schema(vectors=vectors))


def _passed_store(run: SynthesisRun, stage: Stage) -> Store:
    identity = {"filter": stage.worker_args, "ingest": store_name(run.decoded)}
    return work_store(run, f"{stage.name}-{fingerprint(identity)[:16]}", _PASSED_SCHEMA)


# ---- The actors of the stages


def open_shots(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that find the shots of long videos."""
    return open_into(run, stage, run.shared.parents, shots=run.config.shots, media=run.config.media)


def open_decoding(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that decode videos."""
    parents = {"parents": run.shared.parents} if run.config.shots.is_on else {}
    return open_into(run, stage, run.decoded, media=run.config.media, seed=run.config.seed, **parents)


def open_consistency(run: SynthesisRun, stage: Stage) -> StageRunner | None:
    """Return the runner of the actors that score captions; None without an embedder."""
    config = run.config.quality.consistency
    if config.model is None:
        return None
    vectors = run.config.quality.has_vectors
    out = _scores_store(run, stage.name)
    return open_into(run, stage, out, config=config, ingest=run.decoded, vectors=vectors)


def open_filter(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors of a filter of the user's own."""
    return open_into(run, stage, _passed_store(run, stage), decoded=run.decoded)


def open_assets(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that write assets.lance."""
    return StageRunner(
        stage.name,
        worker=stage.worker,
        worker_args={"ingest": run.decoded, "media": run.config.media},
        out=run.assets,
        rejects=run.rejects,
        resources=run.pool(stage),
        commit_seconds=float("inf"),
        is_open=run.shared.at_once,
    )


def decoded_videos(listed: pa.Table, ingest: Store) -> pa.Table:
    """Return the score columns of the decodable videos, sorted by id.

    Raises StoreError if an id now names another file.
    """
    uri = listed["uri"].combine_chunks()
    schema = pa.schema([INGEST_SCHEMA.field(name) for name in _SCORE_COLUMNS])
    videos = pa.Table.from_batches(ingest.select(listed["video_id"], _SCORE_COLUMNS), schema)
    at = pc.index_in(videos["video_id"], value_set=listed["video_id"].combine_chunks())
    videos = videos.append_column("listed_uri", uri.take(at.combine_chunks())).filter(pc.is_valid(at))
    videos = videos.sort_by("video_id")
    other = videos.filter(pc.not_equal(videos["uri"], videos["listed_uri"])).slice(0, 1).to_pylist()
    if other:
        raise StoreError(
            f"{ingest.uri}: {other[0]['video_id']!r} was decoded from {other[0]['uri']}, the manifest now says "
            f"{other[0]['listed_uri']}; give it another video_id, or use a new work folder"
        )
    return _with_spans(videos.drop_columns(["listed_uri"]))


def _with_spans(videos: pa.Table) -> pa.Table:
    """Add the span of each shot to its content hash: exact copies are equal spans of equal files."""
    start, end = (pc.struct_field(videos["shot"], name).cast(pa.string()) for name in ("start", "end"))
    of_shots = pc.binary_join_element_wise(videos["content_hash"], start, end, " ")
    hashes = pc.coalesce(of_shots, videos["content_hash"])
    at = videos.column_names.index("content_hash")
    return videos.set_column(at, "content_hash", hashes).drop_columns(["shot"])


def write_assets(run: SynthesisRun, stage: Stage) -> None:
    """Commit the rejects of all filters, then the videos that passed; each is one commit of the part.

    The rows are copied. Lance could refer to the files of the work folder instead, but only by
    absolute paths: moving the run, deleting the work folder, or compacting it for another run would
    then make assets.lance unreadable (measured in docs/LOG.md).
    Raises StoreError if the stores hold other verdicts already.
    """
    _commit_rejects(run)
    assets, ids = run.assets, run.videos["video_id"].to_pylist()
    _refuse_changed(assets, run.of_part(run.shared.earlier_assets) - set(ids), "among the assets")
    pending = pa.table(
        {
            "video_id": pa.array(ids, pa.string()),
            "caption": pa.array([run.captions.get(video_id) for video_id in ids], pa.string()),
            "consistency": pa.array([run.consistency.get(video_id) for video_id in ids], pa.float64()),
            "box": pa.array([run.boxes.get(video_id) for video_id in ids], pa.list_(pa.int32())),
        }
    )
    counts = run.run_rows(stage, pending)
    if counts.n_rejected:
        raise StageError(
            f"{assets.uri}: {counts.n_rejected} videos could not be copied from {run.decoded.uri}; "
            f"the reasons are under stage {stage.name!r} in {run.rejects.uri}"
        )


def _commit_rejects(run: SynthesisRun) -> None:
    """Add the reject rows that are not there yet, all by one commit."""
    run.rejects.create()
    new: list[Mapping[str, Any]] = []
    for name, rows in run.rejected.items():
        there = run.of_part(run.shared.earlier_rejects.get(name, pa.array([], pa.string())))
        _refuse_changed(run.rejects, there - {row["video_id"] for row in rows}, f"rejected by {name}")
        new.extend(row for row in rows if row["video_id"] not in there)
    run.rejects.append(pa.Table.from_pylist(new, schema=REJECT_SCHEMA))


def _refuse_changed(store: Store, strangers: set[str], what: str) -> None:
    if strangers:
        raise StoreError(
            f"{store.uri}: {len(strangers)} videos (first {min(strangers)!r}) are {what} from an earlier run "
            "but not in this one, so the manifest has changed; name a new output folder (it may use the old "
            "work folder, then nothing is decoded again)"
        )


class AssetWriter:
    """Worker that completes ingest rows with caption and consistency -> rows of `schema.ASSET_SCHEMA`.

    A row with a box gets its frames cropped to it.
    """

    def __init__(self, ingest: Store, media: MediaConfig) -> None:
        self._ingest, self._media = ingest, media

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Reject]:
        stored = self._ingest.take([row["video_id"] for row in rows], INGEST_SCHEMA.names).to_pylist()
        boxes = [row.pop("box") for row in rows]
        return [
            {**(cropped(kept, box, self._media) if box else kept), **row}
            for kept, row, box in zip(stored, rows, boxes, strict=True)
        ]
