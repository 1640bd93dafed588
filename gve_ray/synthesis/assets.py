"""Stage 1 of V-SynFlow: read a manifest, filter its videos, write assets.lance and rejects.lance.

    rectify -> integrity -> duplicates -> dynamics -> consistency -> one commit of rejects, one of assets

The expensive steps (decoding, embedding) write stores in a work folder. Each store's name contains a
fingerprint of the settings that determine its rows, so with the same work folder a new threshold or
a longer manifest decodes no video again. The filters are recomputed from these stores on every run.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.schema import ASSET_SCHEMA
from gve_ray.stage import (
    REJECT_SCHEMA,
    Reject,
    StageCounts,
    StageError,
    StageProgress,
    StageResources,
    run_stage,
)
from gve_ray.store import FolderLock, Store, StoreError
from gve_ray.synthesis.config import ConsistencyConfig, MediaConfig, QualityConfig, SynthesisResources
from gve_ray.synthesis.consistency import (
    CONSISTENCY_SCHEMA,
    ConsistencyWorker,
    caption_hash,
    scores_fingerprint,
    threshold_of,
)
from gve_ray.synthesis.ingest import INGEST_SCHEMA, IngestWorker, ingest_fingerprint
from gve_ray.synthesis.quality import (
    drop_duplicates,
    drop_inconsistent,
    drop_static,
    rectify_captions,
)

log = logging.getLogger(__name__)

_SCORE_COLUMNS = ["video_id", "uri", "content_hash", "width", "height", "duration", "motion"]
OnProgress = Callable[[StageProgress], None]


def build_assets(
    manifest: pa.Table,
    *,
    media: MediaConfig,
    quality: QualityConfig,
    resources: SynthesisResources,
    seed: int,
    assets: Store,
    rejects: Store,
    work: str,
    commit_seconds: float = 5.0,
    on_progress: OnProgress | None = None,
    ingest_worker: type = IngestWorker,
    consistency_worker: type = ConsistencyWorker,
) -> list[StageCounts]:
    """Run the five filters and commit what passed to `assets` and what did not to `rejects`.

    manifest: video_id (unique), uri, caption (null where there is none). work: folder of the stage stores;
    it may be shared by runs of other thresholds. ingest_worker, consistency_worker: classes that take and give
    what the default ones do. Counts come back in the order of the stages, in = out + rejected in each. A killed
    run is continued by calling again.

    Raises StageError or ValueError of `run_stage`; StoreError if the stores hold other verdicts already;
    RunFolderError if another run is using the work folder.
    """
    with FolderLock(work):
        run = partial(run_stage, commit_seconds=commit_seconds, on_progress=on_progress)
        captions, rectified = rectify_captions(manifest, on=quality.rectify)

        ingest = _work_store(work, f"ingest-{ingest_fingerprint(media, seed)[:16]}", INGEST_SCHEMA)
        broken = _rejects_of(ingest)
        integrity = run(
            "integrity",
            pending=manifest.select(["video_id", "uri"]),
            worker=ingest_worker,
            worker_args={"media": media, "seed": seed},
            out=ingest,
            rejects=broken,
            resources=resources.media,
        )
        videos = _videos_of(manifest, ingest)
        copies = drop_duplicates(
            videos,
            ingest.batches(["video_id", "signature"], rows=1024),  # 3 MB; some dozen are read ahead
            threshold=quality.near_duplicate_threshold,
        )
        static = drop_static(_select(videos, copies.kept), threshold=quality.motion_threshold)
        scores, failed, seconds = _score(
            static.kept,
            captions,
            quality.consistency,
            resources.consistency,
            ingest,
            work,
            partial(run, worker=consistency_worker),
        )
        threshold = threshold_of(quality.consistency, list(scores.values())) if scores else -1.0
        inconsistent = drop_inconsistent(static.kept, scores, failed, threshold=threshold, seconds=seconds)

        everyone = set(manifest["video_id"].to_pylist())
        gone = [row for row in broken.table().to_pylist() if row["video_id"] in everyone]
        verdicts = [rectified, copies, static, inconsistent]
        _commit_rejects(rejects, [("integrity", gone), *((item.stage, item.rejects) for item in verdicts)])
        _commit_assets(
            inconsistent.kept, captions, scores, ingest, assets, rejects, resources.media, on_progress
        )
        return [rectified.counts, integrity, copies.counts, static.counts, inconsistent.counts]


def _work_store(work: str, name: str, schema: pa.Schema) -> Store:
    return Store(f"{work.rstrip('/')}/{name}.lance", schema)


def _rejects_of(store: Store) -> Store:
    uri = store.uri.removesuffix(".lance") + "-rejects.lance"
    return Store(uri, REJECT_SCHEMA)


def _videos_of(manifest: pa.Table, ingest: Store) -> pa.Table:
    """Return the scores of the manifest's decodable videos, sorted by id.

    Raises StoreError if an id now names another file.
    """
    uri = manifest["uri"].combine_chunks()
    videos = ingest.table(_SCORE_COLUMNS)
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


def _select(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["video_id"], value_set=pa.array(ids, pa.string())))


def _score(
    video_ids: Sequence[str],
    captions: Mapping[str, str],
    config: ConsistencyConfig,
    resources: StageResources,
    ingest: Store,
    work: str,
    run: Callable[..., StageCounts],
) -> tuple[dict[str, float], dict[str, dict[str, Any]], float]:
    """(cosine by video id, reject rows by video id, seconds) of the videos that have a caption."""
    pairs = [(video_id, captions[video_id]) for video_id in video_ids if video_id in captions]
    if config.model is None or not pairs:
        return {}, {}, 0.0
    name = f"consistency-{scores_fingerprint(config, ingest.uri.rsplit('/', 1)[-1])[:16]}"
    out = _work_store(work, name, CONSISTENCY_SCHEMA)
    unscored = _rejects_of(out)
    counts = run(
        "consistency",
        pending=pa.table({"video_id": [item for item, _ in pairs], "caption": [text for _, text in pairs]}),
        worker_args={"config": config, "ingest": ingest},
        out=out,
        rejects=unscored,
        resources=resources,
    )
    caption_of = dict(pairs)
    scores = {}
    for row in out.table().to_pylist():
        if (text := caption_of.get(row["video_id"])) is None:
            continue
        if row["caption_hash"] != caption_hash(text):
            raise StoreError(
                f"{out.uri}: {row['video_id']!r} was scored with another caption; use a new work folder"
            )
        scores[row["video_id"]] = row["consistency"]
    failed = {row["video_id"]: row for row in unscored.table().to_pylist() if row["video_id"] in caption_of}
    return scores, failed, counts.seconds


def _commit_rejects(rejects: Store, by_stage: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Add the reject rows that are not there yet, all by one commit."""
    rejects.create()
    new: list[Mapping[str, Any]] = []
    for stage, rows in by_stage:
        there = rejects.keys(f"stage = '{stage}'")
        _refuse_changed(rejects, there - {row["video_id"] for row in rows}, f"rejected by {stage}")
        new.extend(row for row in rows if row["video_id"] not in there)
    rejects.append(pa.Table.from_pylist(new, schema=REJECT_SCHEMA))


def _commit_assets(
    kept: Sequence[str],
    captions: Mapping[str, str],
    scores: Mapping[str, float],
    ingest: Store,
    assets: Store,
    rejects: Store,
    resources: StageResources,
    on_progress: OnProgress | None,
) -> None:
    """Copy what passed into assets.lance: written by many workers, visible by one commit."""
    _refuse_changed(assets, assets.keys() - set(kept), "among the assets")
    pending = pa.table(
        {
            "video_id": pa.array(kept, pa.string()),
            "caption": pa.array([captions.get(video_id) for video_id in kept], pa.string()),
            "consistency": pa.array([scores.get(video_id) for video_id in kept], pa.float64()),
        }
    )
    counts = run_stage(
        "assets",
        pending=pending,
        worker=AssetWriter,
        worker_args={"ingest": ingest},
        out=assets,
        rejects=rejects,
        resources=resources,
        commit_seconds=float("inf"),
        on_progress=on_progress,
    )
    if counts.n_rejected:
        raise StageError(
            f"{assets.uri}: {counts.n_rejected} videos could not be copied from {ingest.uri}; "
            f"the reasons are under stage 'assets' in {rejects.uri}"
        )


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


def open_assets(output: str) -> tuple[Store, Store]:
    """(assets.lance, rejects.lance) of an output folder."""
    base = output.rstrip("/")
    return (
        Store(f"{base}/assets.lance", ASSET_SCHEMA),
        Store(f"{base}/rejects.lance", REJECT_SCHEMA),
    )
