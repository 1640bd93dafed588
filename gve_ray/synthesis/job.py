"""Run a synthesis job: check it, run its stages in order, and write its report.

result = synthesize(config)
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from gve_ray.inputs.manifest import read_manifest
from gve_ray.preflight import check_cluster, check_models, check_paths, fit_to_cluster, live_nodes
from gve_ray.store import FolderLock, RunFolder, fingerprint
from gve_ray.store.runfolder import RUN_FILE, filesystem
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import Separation
from gve_ray.synthesis.estimate import Estimate, estimate, size_of
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.report import write_report
from gve_ray.synthesis.stages import Stage, SynthesisRun, work_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """The result of a run. stages: run.json's entries, in order (name, unit, in, out, rejected, seconds).

    separation: what the consistency stage's embedder can tell apart; None without scores.
    """

    output: str
    stages: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, int]
    report: str
    was_finished: bool = False  # by an earlier run: this one did nothing
    estimate: Estimate | None = None  # of the whole input, after a trial run
    separation: Separation | None = None

    def __str__(self) -> str:
        """Return the summary table that is printed when the job ends."""
        head = f"{'stage':<16}{'of':<10}{'in':>10}{'out':>10}{'rejected':>10}{'seconds':>10}"
        rows = [
            f"{s['name']:<16}{s['unit']:<10}{s['in']:>10}{s['out']:>10}{s['rejected']:>10}{s['seconds']:>10.1f}"
            for s in self.stages
        ]
        pairs = ", ".join(f"{count} {task}" for task, count in self.pairs.items())
        table = [head, *rows, "", f"pairs   {pairs or 'none'}", f"report  {self.report}"]
        if self.separation:
            table.insert(-2, f"filter  {self.separation}")
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
    whole = read_manifest(config.input)
    manifest = whole if config.limit is None else draw(whole, config.limit, seed=config.seed)
    if earlier := finished_before(config, manifest):
        return earlier
    needs = needs_of(config, lambda: manifest.column("uri").to_pylist())
    check_models(needs)
    connect()
    config = fit_to_cluster(config, needs.workers)
    stages = stages_of(config) if stages is None else stages
    check_cluster(replace(needs, workers=needs_of(config).workers), live_nodes())
    with RunFolder(config.output, job=config.job, config=config.identity()) as folder:
        log.info("synthesize: %d videos from %s to %s", manifest.num_rows, config.input, config.output)
        run = SynthesisRun(config=config, manifest=manifest)
        first_after_assets = [stage.name for stage in stages].index("assets") + 1
        with FolderLock(work_folder(config)):  # the stages up to assets write there
            facts = _run_stages(run, stages[:first_after_assets], folder, [])
        facts = _run_stages(run, stages[first_after_assets:], folder, facts)
        folder.record(pairs=run.pairs, separation=run.separation and run.separation.to_dict())
        report = write_report(run, folder.facts)
        trial = None if config.limit is None else _estimate(run, stages, whole.num_rows)
        if trial is not None:
            folder.record(estimate=trial.to_dict())
        folder.record(report=report, finished=manifest_fingerprint(manifest))
    return SynthesisResult(
        output=config.output,
        stages=facts,
        pairs=run.pairs,
        report=report,
        estimate=trial,
        separation=run.separation,
    )


def draw(manifest: pa.Table, n: int, *, seed: int) -> pa.Table:
    """Return n rows of a manifest, or all if it has fewer, in its order.

    A video is drawn by a hash of its id, so a larger n gives the same videos and more.
    """
    ids = manifest["video_id"].to_pylist()
    ranks = [hashlib.sha256(f"{seed}:{video_id}".encode()).digest() for video_id in ids]
    chosen = sorted(sorted(range(len(ids)), key=ranks.__getitem__)[:n])
    return manifest.take(chosen)


def _estimate(run: SynthesisRun, stages: Sequence[Stage], videos: int) -> Estimate | None:
    """Estimate the whole input from a run on part of it."""
    pools = {stage.name: run.pool(stage) for stage in stages if stage.resources is not None}
    gpus = {name: pool.demands.get("GPU", 0.0) * (pool.count or 0) for name, pool in pools.items()}
    config = run.config
    inside = work_folder(config).startswith(f"{config.output}/")
    return estimate(
        videos=videos,
        trial=run.manifest.num_rows,
        paces=run.paces,
        gpus=gpus,
        size=size_of([config.output] if inside else [config.output, work_folder(config)]),
        price=config.gpu_hour_price,
    )


def _run_stages(
    run: SynthesisRun, stages: Sequence[Stage], folder: RunFolder, facts: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Run stages in order; return their entries in run.json after those of earlier ones.

    The seconds of an entry are of the run that wrote it.
    """
    entries = list(facts)
    for stage in stages:
        begun = time.monotonic()
        counts = stage.run(run, stage)
        if counts is not None:
            entries.append(
                {
                    "name": stage.name,
                    "unit": stage.unit,
                    "in": counts.n_in,
                    "out": counts.n_out,
                    "rejected": counts.n_rejected,
                    "seconds": round(time.monotonic() - begun, 3),
                }
            )
            folder.record(stages=entries)
    return entries


def manifest_fingerprint(manifest: pa.Table) -> str:
    """Return the sha256 of the manifest's rows as a JSON list: any change of a row changes it.

    Equal to `store.fingerprint` of the list, which is never built: 1.55 M rows would take 2 GB.
    """
    digest = hashlib.sha256(b"[")
    between = b""
    for batch in manifest.to_batches(8192):
        for row in batch.to_pylist():
            text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            digest.update(between + text.encode())
            between = b","
    digest.update(b"]")
    return digest.hexdigest()


def finished_before(config: SynthesisConfig, manifest: pa.Table) -> SynthesisResult | None:
    """The result of an earlier run of this config on this manifest, if it finished; otherwise None."""
    files, root = filesystem(config.output)
    path = f"{root}/{RUN_FILE}"
    try:
        with files.open_input_stream(path) as stream:
            facts = json.loads(stream.read())
    except (OSError, ValueError):  # no run yet, or an incomplete file, which RunFolder will report
        return None
    same = facts.get("config_hash") == fingerprint(config.identity())
    if not same or facts.get("finished") != manifest_fingerprint(manifest):
        return None
    return SynthesisResult(
        output=config.output,
        stages=facts["stages"],
        pairs=facts["pairs"],
        report=facts["report"],
        separation=Separation(**facts["separation"]) if facts.get("separation") else None,
        was_finished=True,
    )
