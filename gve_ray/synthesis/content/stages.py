"""The stages that filter videos by their content: those that compute scores, then one for each filter.

Scores are stored in the work folder, so a filter with another threshold computes nothing again.
"""

import logging
from array import array
from typing import Any

import pyarrow as pa

from gve_ray.stage import Reject, StageCounts, StageRunner
from gve_ray.store import Store, fingerprint
from gve_ray.synthesis.config import ContentConfig
from gve_ray.synthesis.content.classifiers import ClassifierWorker, classifier_schema
from gve_ray.synthesis.content.score import CONTENT_SCHEMA, FORMAT, ContentWorker
from gve_ray.synthesis.cut import beyond, threshold_of
from gve_ray.synthesis.scores import SCORES
from gve_ray.synthesis.stages import Stage, SynthesisRun
from gve_ray.synthesis.work import open_into, rows_of, run_into, store_name, work_store

log = logging.getLogger(__name__)


# Why a filter rejects a video, by the name of the filter.
REASONS = {
    "text_overlay": "text_overlay",
    "borders": "borders",
    "blur": "blurred",
    "darkness": "dark",
    "slideshow": "slideshow",
    "nsfw": "nsfw",
    "aesthetic": "unaesthetic",
}


def content_stages(config: ContentConfig) -> tuple[Stage, ...]:
    """Return the stages of the filters that are in use; none if all are off."""
    stages: list[Stage] = []
    classical = [name for name in config.cuts if name not in config.classifiers]
    for scoring, names in ((_SCORING, classical), (_CLASSIFYING, config.classifiers)):
        if names:
            stages += [scoring, *(_cutting(name) for name in names)]
    return tuple(stages)


def score_content(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Score the videos; those whose frames cannot be scored are rejected."""
    out = scores_store(run, stage)
    counts = run.reject(stage, run_into(run, stage, out, run.videos.select(["video_id"])))
    names = [name for name in out.schema.names if name in REASONS]
    run.content |= {name: {} for name in names}
    for row in rows_of(out, run.videos["video_id"], ["video_id", *names]):
        for name in names:
            run.content[name][row["video_id"]] = row[name]
    return counts


def cut_content(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Drop the videos that a filter rejects by their scores, or mark their borders to be cropped."""
    name, score = stage.name, SCORES[stage.name]
    values = {video_id: run.content[name][video_id] for video_id in run.videos["video_id"].to_pylist()}
    given = list(values.values())
    run.shared.content.setdefault(name, {})[run.part] = array("d", given)
    above = score.rejects == "above"
    threshold = threshold_of(run.config.quality.content.cuts[name], given, above=above)
    out = beyond(values, threshold, above=above)
    if name == "borders" and run.config.quality.content.borders.action == "crop":
        boxes = rows_of(
            scores_store(run, _SCORING), pa.chunked_array([list(out)], pa.string()), ["video_id", "box"]
        )
        run.boxes = {row["video_id"]: row["box"] for row in boxes}
        log.info("borders: %d of %d videos will be cropped", len(out), len(values))
        return run.reject(stage, {})
    rejects = {
        video_id: Reject(
            REASONS[name],
            f"{name} {value:.4f} {score.rejects} {threshold:.4f}",
            {name: value, "threshold": threshold},
        )
        for video_id, value in out.items()
    }
    return run.reject(stage, rejects)


def open_scores(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the actors that score videos."""
    models = run.config.quality.content.classifiers
    more: dict[str, Any] = {"models": models} if stage.worker is ClassifierWorker else {}
    return open_into(run, stage, scores_store(run, stage), decoded=run.decoded, **more)


def scores_store(run: SynthesisRun, stage: Stage) -> Store:
    """Return the store of the scores of a stage that scores videos."""
    identity: dict[str, Any] = {"ingest": store_name(run.decoded)}
    if stage.worker is ClassifierWorker:
        models = run.config.quality.content.classifiers
        schema = classifier_schema(list(models))
        identity |= {name: [m.model, m.revision, m.label] for name, m in models.items()}
    else:
        schema = CONTENT_SCHEMA
        identity |= {"format": FORMAT, "columns": schema.names}
    return work_store(run, f"{stage.name}-{fingerprint(identity)[:16]}", schema)


def _cutting(name: str) -> Stage:
    return Stage(
        name=name, unit="videos", reads=("content scores", "videos"), writes=("videos",), run=cut_content
    )


def _scoring(name: str, worker: type) -> Stage:
    """Return a stage that scores videos, on the pool of actors of its own name."""
    return Stage(
        name=name,
        unit="videos",
        reads=("decoded videos", "videos"),
        writes=("videos", "content scores"),
        run=score_content,
        worker=worker,
        resources=name,
        open=open_scores,
    )


_SCORING = _scoring("content", ContentWorker)
_CLASSIFYING = _scoring("classifiers", ClassifierWorker)
