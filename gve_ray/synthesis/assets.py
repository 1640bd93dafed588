"""The stages that filter videos, and the one that writes what passed to assets.lance.

The expensive steps (decoding, embedding, filters of the user) write stores in a work folder. Each
store's name contains a fingerprint of the settings that determine its rows, so with the same work
folder a new threshold or a longer manifest decodes no video again. What the filters decide is
recomputed from these stores on every run.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts, StageError, StageRunner
from gve_ray.store import Store, StoreError, fingerprint
from gve_ray.synthesis.config import ConsistencyConfig
from gve_ray.synthesis.consistency import (
    CONSISTENCY_SCHEMA,
    Separation,
    caption_hash,
    mismatched_captions,
    scores_fingerprint,
    separation,
    threshold_of,
)
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.quality import duplicates, inconsistent_pairs, rectify_captions, static_videos
from gve_ray.synthesis.stages import Stage, SynthesisRun, load_class, work_folder

log = logging.getLogger(__name__)

_SCORE_COLUMNS = ["video_id", "uri", "content_hash", "width", "height", "duration", "motion"]
_PASSED_SCHEMA = pa.schema([("video_id", pa.string())])


def rectify(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Clean the raw captions, or drop them; the videos stay."""
    run.captions, rejects = rectify_captions(run.manifest, on=run.config.quality.rectify)
    return run.record(stage, len(run.captions) + len(rejects), rejects)


def decode(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Decode each video of the manifest once; `run.videos` then are those that could be decoded."""
    pending = run.manifest.select(["video_id", "uri"])
    rejects = _run_rows(run, stage, run.decoded, pending)
    run.videos = _decoded_videos(run.manifest, run.decoded)
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
    ids = [video_id for video_id in run.videos["video_id"].to_pylist() if video_id in run.captions]
    if config.model is None or not ids:
        return run.reject(stage, {})
    captions = {video_id: run.captions[video_id] for video_id in ids}
    out = _scores_store(run, stage)
    others = mismatched_captions(captions)  # consecutive rows share captions, so their order is kept
    pending = pa.table(
        {
            "video_id": list(others),
            "caption": [captions[video_id] for video_id in others],
            "other": pa.array(others.values(), pa.string()),
        }
    )
    rejects = _run_rows(run, stage, out, pending)
    mismatched = []
    for row in _rows(out, pending["video_id"]):
        if row["caption_hash"] != caption_hash(captions[row["video_id"]]):
            raise StoreError(
                f"{out.uri}: {row['video_id']!r} was scored with another caption; use a new work folder"
            )
        run.consistency[row["video_id"]] = row["consistency"]
        if row["mismatched"] is not None:
            mismatched.append(row["mismatched"])
    given = list(run.consistency.values())
    threshold = threshold_of(config, given) if given else -1.0
    run.shared.cosines[run.part] = given, mismatched
    if run.part == 0:
        _warn_of_chance(config, separation(given, mismatched, threshold))
    return run.reject(stage, rejects | inconsistent_pairs(run.consistency, threshold=threshold))


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
    return run.reject(stage, _run_rows(run, stage, out, run.videos.select(["video_id"])))


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


def _store_name(store: Store) -> str:
    return store.uri.rsplit("/", 1)[-1]


def _work_store(run: SynthesisRun, name: str, schema: pa.Schema) -> Store:
    return Store(f"{work_folder(run.config)}/{name}.lance", schema)


def _scores_store(run: SynthesisRun, stage: Stage) -> Store:
    name = scores_fingerprint(run.config.quality.consistency, _store_name(run.decoded))
    return _work_store(run, f"{stage.name}-{name[:16]}", CONSISTENCY_SCHEMA)


def _passed_store(run: SynthesisRun, stage: Stage) -> Store:
    identity = {"filter": stage.worker_args, "ingest": _store_name(run.decoded)}
    return _work_store(run, f"{stage.name}-{fingerprint(identity)[:16]}", _PASSED_SCHEMA)


def _rejects_of(run: SynthesisRun, out: Store) -> Store:
    """Return the rejects of a stage that writes to the work folder."""
    return _work_store(run, _store_name(out).removesuffix(".lance") + "-rejects", REJECT_SCHEMA)


# ---- The actors of the stages


def open_decoding(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that decode videos."""
    return _open_into(run, stage, run.decoded, media=run.config.media, seed=run.config.seed)


def open_consistency(run: SynthesisRun, stage: Stage) -> StageRunner | None:
    """Return the runner of the actors that score captions; None without an embedder."""
    config = run.config.quality.consistency
    if config.model is None:
        return None
    return _open_into(run, stage, _scores_store(run, stage), config=config, ingest=run.decoded)


def open_filter(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors of a filter of the user's own."""
    return _open_into(run, stage, _passed_store(run, stage), decoded=run.decoded)


def open_assets(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that write assets.lance."""
    return StageRunner(
        stage.name,
        worker=stage.worker,
        worker_args={"ingest": run.decoded},
        out=run.assets,
        rejects=run.rejects,
        resources=run.pool(stage),
        commit_seconds=float("inf"),
        is_open=run.shared.at_once,
    )


def _open_into(run: SynthesisRun, stage: Stage, out: Store, **worker_args: Any) -> StageRunner:
    """Return the runner of a stage that writes to the work folder, which may hold results of other runs."""
    run.shared.score_stores[stage.name] = out
    return StageRunner(
        stage.name,
        worker=stage.worker,
        worker_args={**stage.worker_args, **worker_args},
        out=out,
        rejects=_rejects_of(run, out),
        resources=run.pool(stage),
        commit_seconds=run.config.commit_seconds,
        is_open=run.shared.at_once,
    )


# ----


def _run_rows(run: SynthesisRun, stage: Stage, out: Store, pending: pa.Table) -> dict[str, Reject]:
    """Run a stage's worker on rows, with results in `out` in the work folder.

    Returns the rejects among `pending` by video id; all its other videos are in `out` afterwards.
    """
    run.run_rows(stage, pending)
    return {
        row["video_id"]: Reject(row["reason"], row["detail"], json.loads(row["scores"]), row["attempts"])
        for row in _rows(_rejects_of(run, out), pending["video_id"])
    }


def _rows(
    store: Store, ids: pa.ChunkedArray, columns: Sequence[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of those videos that are in a store."""
    for batch in store.select(ids, columns):
        yield from batch.to_pylist()


def _decoded_videos(manifest: pa.Table, ingest: Store) -> pa.Table:
    """Return the score columns of the manifest's decodable videos, sorted by id.

    Raises StoreError if an id now names another file.
    """
    uri = manifest["uri"].combine_chunks()
    schema = pa.schema([INGEST_SCHEMA.field(name) for name in _SCORE_COLUMNS])
    videos = pa.Table.from_batches(ingest.select(manifest["video_id"], _SCORE_COLUMNS), schema)
    at = pc.index_in(videos["video_id"], value_set=manifest["video_id"].combine_chunks())
    videos = videos.append_column("manifest_uri", uri.take(at.combine_chunks())).filter(pc.is_valid(at))
    videos = videos.sort_by("video_id")
    other = videos.filter(pc.not_equal(videos["uri"], videos["manifest_uri"])).slice(0, 1).to_pylist()
    if other:
        raise StoreError(
            f"{ingest.uri}: {other[0]['video_id']!r} was decoded from {other[0]['uri']}, the manifest now says "
            f"{other[0]['manifest_uri']}; give it another video_id, or use a new work folder"
        )
    return videos.drop_columns(["manifest_uri"])


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
    """Worker that completes ingest rows with caption and consistency -> rows of `schema.ASSET_SCHEMA`."""

    def __init__(self, ingest: Store) -> None:
        self._ingest = ingest

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        stored = self._ingest.take([row["video_id"] for row in rows], INGEST_SCHEMA.names).to_pylist()
        return [{**kept, **row} for kept, row in zip(stored, rows, strict=True)]
