"""Run a synthesis job: check it, run its stages in order, and write its report.

result = synthesize(config)
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from gve_ray.config import AUTO, StageResources
from gve_ray.inputs.manifest import read_manifest
from gve_ray.job import PreflightError
from gve_ray.preflight import Needs, check_cluster, check_models, check_paths, fit_to_cluster, live_nodes
from gve_ray.stage.tokens import tokens_text
from gve_ray.store import FolderLock, RunFolder, fingerprint
from gve_ray.store.runfolder import RUN_FILE, filesystem
from gve_ray.synthesis.captioner import Stopped
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import Separation
from gve_ray.synthesis.estimate import Estimate, estimate, size_of
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.report import write_report
from gve_ray.synthesis.scores import write_scores
from gve_ray.synthesis.shots import check_ids
from gve_ray.synthesis.spending import spending_text
from gve_ray.synthesis.stages import SharedState, Stage, SynthesisRun, work_folder
from gve_ray.synthesis.stream import Stream, split

log = logging.getLogger(__name__)

_REPORT_SHARE = 0.05  # of the time, at most, that the reports of parts take


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """The result of a run. stages: run.json's entries, in order (name, unit, in, out, rejected, seconds).

    separation: of true and mismatched captions by the consistency stage's embedder; None without scores.
    spending: answers, tokens and cost of a captioner behind an endpoint, in all runs of the folder. shots:
    number of long videos, and of the shots that they were split into; None if none is split.
    """

    output: str
    stages: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, int]
    report: str
    was_finished: bool = False  # by an earlier run: this one did nothing
    estimate: Estimate | None = None  # of the whole input, after a trial run
    separation: Separation | None = None
    spending: Mapping[str, Any] | None = None
    shots: Mapping[str, int] | None = None

    def __str__(self) -> str:
        """Return the summary table that is printed when the job ends."""
        head = f"{'stage':<20}{'of':<10}{'in':>10}{'out':>10}{'rejected':>10}{'seconds':>10}"
        rows = [
            f"{s['name']:<20}{s['unit']:<10}{s['in']:>10}{s['out']:>10}{s['rejected']:>10}{s['seconds']:>10.1f}"
            for s in self.stages
        ]
        pairs = ", ".join(f"{count} {task}" for task, count in self.pairs.items())
        table = [head, *rows, "", f"pairs   {pairs or 'none'}", f"report  {self.report}"]
        if self.shots:
            table.insert(-2, f"shots   {self.shots['shots']:,} of {self.shots['videos']:,} long videos")
        if self.separation:
            table.insert(-2, f"filter  {self.separation}")
        for entry in self.stages:
            if tokens := entry.get("tokens"):
                table.insert(-2, f"engine  {entry['name']}: {tokens_text(tokens)}")
        if self.spending:
            table.insert(-2, f"endpoint  {spending_text(self.spending)}")
        if self.estimate:
            table.append(f"whole   {self.estimate}")
        if self.was_finished:
            table.insert(0, f"{self.output}: this run was finished before; nothing was done")
        return "\n".join(table)


def synthesize(
    config: SynthesisConfig,
    *,
    connect: Callable[[], object] = lambda: None,
    stages: Sequence[Stage] | None = None,
) -> SynthesisResult:
    """Run the job, resuming an earlier run; a finished run is not repeated.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected.
    stages: those of the config unless a benchmark brings its own.
    Raises PreflightError or RunFolderError before any work; StageError or StoreError from a stage, after
    which the same call resumes the run.
    """
    check_paths(needs_of(config))
    stages_of(config)  # raises an error if a filter cannot be used
    config = replace(config, output=config.output.rstrip("/") or "/")
    parts, videos = read_parts(config)
    manifest = pa.concat_tables(parts)
    identity = config.identity(videos)
    if earlier := finished_before(config.output, identity, manifest):
        return earlier
    needs = needs_of(config, lambda: manifest.column("uri").to_pylist())
    check_models(needs)
    connect()
    config, at_once = fit_stages(config, needs, parts=config.parts(videos))
    stages = stages_of(config) if stages is None else stages
    check_cluster(replace(needs, workers=needs_of(config).workers, together=at_once), live_nodes())
    with RunFolder(config.output, job=config.job, config=identity) as folder:
        log.info("synthesize: %d videos from %s to %s", manifest.num_rows, config.input, config.output)
        if len(parts) > 1:
            log.info("synthesize: %d parts of about %d videos", len(parts), parts[0].num_rows)
        shared = SharedState(config, manifest, at_once=at_once)
        progress = _Parts(folder, lambda: _estimate(shared, stages, videos, folder.facts))
        with FolderLock(work_folder(config)) as work:
            stream = Stream(
                shared,
                stages,
                parts,
                record=lambda entries: folder.record(stages=entries),
                # The stages up to assets write to the work folder.
                passed=lambda stage: work.release() if stage.name == "assets" else None,
                finished=progress.finished,
            )
            try:
                facts = stream.run()
            finally:
                record_spending(shared, folder, is_last=True)
        report, separation = f"{config.output}/report.html", shared.separation()
        folder.record(
            shots=shared.split_counts(),
            separation=separation and separation.to_dict(),
            report=report,
            finished=manifest_fingerprint(manifest),
        )
    return SynthesisResult(
        output=config.output,
        stages=facts,
        pairs=shared.pairs,
        report=report,
        estimate=progress.trial,
        separation=separation,
        spending=folder.facts.get("spending"),
        shots=shared.split_counts(),
    )


def read_parts(config: SynthesisConfig) -> tuple[list[pa.Table], int]:
    """Return the parts of the input that run, and the number of videos of the whole, which is not kept in memory."""
    manifest = read_manifest(config.input)
    if config.shots.is_on:
        check_ids(manifest["video_id"])
    return split(manifest, config), manifest.num_rows


def record_spending(shared: SharedState, folder: RunFolder, *, is_last: bool = False) -> None:
    """Write to run.json what the answers of an endpoint took, if there is one. is_last: end their ledger."""
    if shared.ledger is None:
        return
    import ray

    try:
        usage = shared.ledger.close() if is_last else shared.ledger.usage()
    except (ray.exceptions.RayError, Stopped) as error:  # must not hide the error that ends the job
        log.warning("what the endpoint's answers took is not in run.json but in spending.json (%s)", error)
        return
    cost = shared.config.captioner.cost(usage.prompt_tokens, usage.output_tokens)
    folder.record(spending=asdict(usage) | {"cost": cost})


def fit_stages(config: SynthesisConfig, needs: Needs, *, parts: int) -> tuple[SynthesisConfig, bool]:
    """Return the config with numbers in place of `auto`, and whether the actors of all stages live at once.

    They do if there are several parts and they fit, if necessary with half a CPU each. Raises PreflightError
    if the actors of one stage do not fit on the cluster.
    """
    if parts == 1:
        return fit_to_cluster(config, needs.workers), False
    smaller = with_fewer_cpus(config)
    try:
        return fit_to_cluster(config, needs.workers, together=True), True
    except PreflightError as error:
        problem = error
    try:
        return fit_to_cluster(smaller, needs_of(smaller).workers, together=True), True
    except PreflightError:
        fitted = fit_to_cluster(config, needs.workers)
    log.warning(
        "the actors of all stages do not fit on the cluster at the same time (%s); each part runs through one "
        "stage after the other, and actors start again for each part. Give the stages fewer actors or less of "
        "what is missing (a GPU may be shared: num_gpus below 1), or raise part_videos",
        problem,
    )
    return fitted, False


def with_fewer_cpus(config: SynthesisConfig) -> SynthesisConfig:
    """Return the config with half a CPU for each actor that decodes or scores, where the config does not say."""
    pools, whole = config.resources, StageResources.num_cpus
    media, shots, content = (
        replace(pool, num_cpus=0.5) if pool.num_cpus == whole else pool
        for pool in (pools.media, pools.shots, pools.content)
    )
    scoring, classifiers = (
        replace(pool, num_cpus=0.5) if pool.num_cpus == AUTO else pool
        for pool in (pools.consistency, pools.classifiers)
    )
    smaller = replace(
        pools, media=media, shots=shots, content=content, consistency=scoring, classifiers=classifiers
    )
    return replace(config, resources=smaller)


class _Parts:
    """Records each finished part in run.json, and writes scores and report again if that takes little of the time."""

    def __init__(self, folder: RunFolder, estimate: Callable[[], Estimate | None]) -> None:
        self._folder, self._estimate = folder, estimate
        self.trial: Estimate | None = None  # of the whole input, after a trial run
        self._written, self._took = time.monotonic(), 0.0

    def finished(self, run: SynthesisRun, entries: Sequence[Mapping[str, Any]]) -> None:
        is_last = run.part == run.parts - 1
        self._folder.record(
            stages=entries, pairs=run.shared.pairs, parts={"finished": run.part + 1, "all": run.parts}
        )
        record_spending(run.shared, self._folder)
        if is_last and run.config.limit is not None and (trial := self._estimate()):
            self.trial = trial
            self._folder.record(estimate=trial.to_dict())
        begun = time.monotonic()
        if not is_last and (begun - self._written) * _REPORT_SHARE < self._took:
            return
        write_scores(run)
        write_report(run, self._folder.facts)
        self._written = time.monotonic()
        self._took = self._written - begun


def _estimate(
    shared: SharedState, stages: Sequence[Stage], videos: int, facts: Mapping[str, Any]
) -> Estimate | None:
    """Estimate the whole input from a run on part of it. facts: those of run.json."""
    run = SynthesisRun(config=shared.config, manifest=shared.manifest, shared=shared)
    pools = {stage.name: run.pool(stage) for stage in stages if stage.resources is not None}
    gpus = {name: pool.demands.get("GPU", 0.0) * (pool.count or 0) for name, pool in pools.items()}
    config = run.config
    inside = work_folder(config).startswith(f"{config.output}/")
    return estimate(
        videos=videos,
        trial=run.manifest.num_rows,
        paces=shared.paces,
        gpus=gpus,
        size=size_of([config.output] if inside else [config.output, work_folder(config)]),
        price=config.gpu_hour_price,
        at_once=shared.at_once,
        spending=facts.get("spending"),
    )


def manifest_fingerprint(manifest: pa.Table) -> str:
    """Return the sha256 of the manifest's rows, sorted by id, as a JSON list: any change of a row changes it.

    Equal to `store.fingerprint` of the list, which is never built: 1.55 M rows would take 2 GB.
    """
    digest = hashlib.sha256(b"[")
    between = b""
    for batch in manifest.sort_by("video_id").to_batches(8192):
        for row in batch.to_pylist():
            text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            digest.update(between + text.encode())
            between = b","
    digest.update(b"]")
    return digest.hexdigest()


def finished_before(output: str, identity: Mapping[str, Any], manifest: pa.Table) -> SynthesisResult | None:
    """The result of an earlier run of this config on this manifest, if it finished; otherwise None."""
    files, root = filesystem(output)
    path = f"{root}/{RUN_FILE}"
    try:
        with files.open_input_stream(path) as stream:
            facts = json.loads(stream.read())
    except (OSError, ValueError):  # no run yet, or an incomplete file, which RunFolder will report
        return None
    same = facts.get("config_hash") == fingerprint(identity)
    if not same or facts.get("finished") != manifest_fingerprint(manifest):
        return None
    return SynthesisResult(
        output=output,
        stages=facts["stages"],
        pairs=facts["pairs"],
        report=facts["report"],
        separation=Separation(**facts["separation"]) if facts.get("separation") else None,
        spending=facts.get("spending"),
        shots=facts.get("shots"),
        was_finished=True,
    )
