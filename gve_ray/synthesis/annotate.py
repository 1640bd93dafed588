"""Stages 2 and 3 of V-SynFlow: read assets.lance, caption each video, and write annotations.lance.

Each actor holds one engine, or asks an endpoint, and sends it all four prompts of a video: prompt 1
first and, if its captions pass the checks, the other three. A video without valid captions is rejected and not
processed further. A frame or query without a valid answer gets its own reject row, and its list in
the video's row stays empty.

All prompts run in a single pass because a captioner takes from ten seconds to minutes to start, and
because the engine then has the video's frames in its cache. The trade-off: changing any prompt
means captioning all videos again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.config import StageResources
from gve_ray.stage import Reject, Result, StageCounts, StageRunner, Undone, row_finished
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis.captioner import Answer, Asker, Generator, Stopped
from gve_ray.synthesis.config import AuditConfig, CaptionerConfig, EnrichConfig, ExtendConfig
from gve_ray.synthesis.endpoint_captioner import EndpointGenerator
from gve_ray.synthesis.questions import caption_question, frame_questions, query_questions, texts_of
from gve_ray.synthesis.spending import start_ledger
from gve_ray.synthesis.stages import Stage, SynthesisRun
from gve_ray.synthesis.vllm_captioner import VllmGenerator

# Prompts that follow the captions (prompt id = stage = column) -> unit of their reject rows.
PARTS = {"frame_captions": "caption", "composed_image": "query", "composed_clip": "query"}
_COLUMNS = [
    "video_id", "caption", "content_hash", "fps", "duration", "total_frames", "frames", "timestamps",
    "indices", "reference_frames", "reference_timestamps", "clips", "shot",
]  # fmt: skip


class Annotator:
    """The worker of `run_stage`: rows with a video_id in, rows of ANNOTATION_SCHEMA or rejects out.

    make_generator: called once, with the captioner's config, threads and seed. Thread-safe.
    """

    def __init__(
        self,
        *,
        assets: AssetReader,
        captioner: CaptionerConfig,
        enrich: EnrichConfig,
        extend: ExtendConfig,
        seed: int,
        audit: AuditConfig | None = None,
        threads: int = 1,
        make_generator: Callable[..., Generator] = VllmGenerator,
    ) -> None:
        self._assets = assets
        self._enrich, self._extend, self._seed = enrich, extend, seed
        generator = make_generator(captioner, threads=threads, seed=seed)
        self._stopped = ""  # why no question can be answered any more
        self._asker = Asker(generator=generator, config=captioner, seed=seed, audit=audit or AuditConfig())

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Annotate a batch of videos, all of them at once.

        Once no question can be answered any more, videos with an open question are undone.
        """
        if self._stopped:
            return [Undone(self._stopped)] * len(rows)
        ids = [row["video_id"] for row in rows]
        assets = self._assets.store.take(ids, _COLUMNS).to_pylist()
        waiting = {self._asker.ask(caption_question(row, self._seed)): i for i, row in enumerate(assets)}
        captions: dict[int, Answer] = {}
        others: dict[int, list[Future[Answer]]] = {}
        n_open: dict[int, int] = {}  # questions of a row that are not answered yet
        undone: set[int] = set()
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                i = waiting.pop(future)
                try:
                    answer = future.result()
                except Stopped as error:
                    self._stopped = str(error)
                    undone.add(i)
                    continue
                if i not in captions:
                    captions[i] = answer
                    others[i] = self._ask_others(assets[i], answer)
                    n_open[i] = len(others[i])
                    waiting |= dict.fromkeys(others[i], i)
                else:
                    n_open[i] -= 1
                if not n_open[i]:
                    row_finished()
        return [
            Undone(self._stopped)
            if i in undone
            else self._result(assets[i], captions[i], [future.result() for future in others[i]])
            for i in range(len(assets))
        ]

    def _ask_others(self, row: Mapping[str, Any], captions: Answer) -> "list[Future[Answer]]":
        if captions.texts is None:
            return []
        texts = list(captions.texts.values())
        questions = [
            *frame_questions(row, self._seed, self._enrich),
            *query_questions(row, self._seed, self._extend, texts),
        ]
        return [self._asker.ask(question) for question in questions]

    def _result(
        self, row: Mapping[str, Any], captions: Answer, others: Sequence[Answer]
    ) -> dict[str, Any] | Reject:
        if captions.texts is None:
            return captions.reject()
        out: dict[str, Any] = {
            "video_id": row["video_id"],
            "duration": row["duration"],
            "reference_timestamps": row["reference_timestamps"] or [],
            "clip_spans": [{"start": clip["start"], "end": clip["end"]} for clip in row["clips"] or []],
            "captions": texts_of(captions),
            **{column: [] for column in PARTS},
            "generations": [self._asker.record(answer) for answer in (captions, *others)],
            "shot": row["shot"],
        }
        for answer in others:
            out[answer.question.prompt_id] += texts_of(answer)
        return out


def open_captions(run: SynthesisRun, stage: Stage) -> StageRunner:
    """Return the runner of the captioner's actors."""
    config, resources = run.config, run.pool(stage)
    return StageRunner(
        stage.name,
        worker=stage.worker,
        worker_args={
            "make_generator": _generator_of(run, resources),
            **stage.worker_args,
            "assets": AssetReader(run.assets.uri),
            "captioner": config.captioner,
            "enrich": config.enrich,
            "extend": config.extend,
            "seed": config.seed,
            "audit": config.audit,
            "threads": max(1, round(resources.demands.get("CPU", 0))),
        },
        out=run.annotations,
        rejects=run.rejects,
        resources=resources,
        unit="caption",
        commit_seconds=config.commit_seconds,
        is_open=run.shared.at_once,
    )


def _generator_of(run: SynthesisRun, resources: StageResources) -> Callable[..., Generator]:
    """Return what makes the generator of each actor."""
    captioner = run.config.captioner
    if captioner.engine == "vllm":
        return VllmGenerator
    run.shared.ledger = run.shared.ledger or start_ledger(run.config.output)
    share = captioner.requests_per_minute
    if share is not None:  # an equal one for each actor, as if the pool had grown to its largest size
        share /= max(resources.count or 1, resources.max_actors)
    return partial(EndpointGenerator, ledger=run.shared.ledger, requests_per_minute=share)


def annotate(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Ask all four prompts about each video in assets.lance, and count the videos with captions."""
    return run.run_rows(stage, run.videos.select(["video_id"]))


def count_answers(run: SynthesisRun, stage: Stage) -> StageCounts:
    """Count the videos to which the stage's prompt was put: those answered, and those rejected.

    The pass that annotates the videos has asked the prompt already.
    """
    if not run.answered:
        earlier = run.shared.earlier_rejects
        already = {part: run.of_part(earlier[part]) if part in earlier else set() for part in PARTS}
        counted = settle_parts(run.annotations, run.rejects, ids=run.ids, already_rejected=already)
        run.answered = {counts.name: counts for counts in counted}
    return run.answered[stage.name]


def settle_parts(
    annotations: Store,
    rejects: Store,
    *,
    ids: pa.Array | None = None,
    already_rejected: Mapping[str, Collection[str]] | None = None,
) -> list[StageCounts]:
    """Count the other three prompts by their videos, and give those without an answer a row in rejects.

    ids: of the videos to count; by default all. already_rejected: those that have such a row, by prompt;
    by default they are read from `rejects`.
    """
    columns = ["video_id", "generations"]
    if already_rejected is None:
        already_rejected = {stage: rejects.keys(f"stage = '{stage}'") for stage in PARTS}
    attempted = dict.fromkeys(PARTS, 0)
    answered = dict.fromkeys(PARTS, 0)
    missing: list[dict[str, Any]] = []
    rows = annotations.batches if ids is None else partial(annotations.select, ids)
    for batch in rows(columns, rows=1024):
        # In Arrow: as Python objects the questions of a million videos are minutes of the driver's time.
        row_of = pc.list_parent_indices(batch["generations"])
        generations = pc.list_flatten(batch["generations"])
        prompts, good = (pc.struct_field(generations, name) for name in ("prompt_id", "reason"))
        good = pc.is_null(good)
        for stage, unit in PARTS.items():
            mine = pc.equal(prompts, stage)
            asked = pc.unique(row_of.filter(mine))
            well = pc.unique(row_of.filter(pc.and_(mine, good)))
            attempted[stage] += len(asked)
            answered[stage] += len(well)
            badly = asked.filter(pc.invert(pc.is_in(asked, value_set=well)))
            for row in batch.take(badly).to_pylist():
                if row["video_id"] not in already_rejected[stage]:
                    last = [
                        generation for generation in row["generations"] if generation["prompt_id"] == stage
                    ][-1]
                    missing.append(_reject_of(last).row(row["video_id"], stage=stage, unit=unit))
    rejects.append(pa.Table.from_pylist(missing, schema=rejects.schema))
    return [
        StageCounts(
            name=stage,
            n_in=attempted[stage],
            n_out=answered[stage],
            n_rejected=attempted[stage] - answered[stage],
            seconds=0.0,
        )
        for stage in PARTS
    ]


def _reject_of(generation: Mapping[str, Any]) -> Reject:
    last = generation["rejected"][-1]
    return Reject(
        reason=generation["reason"],
        detail=last["detail"],
        scores={"rejected": generation["rejected"]},
        attempts=generation["attempts"],
    )
