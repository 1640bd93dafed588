"""Run V-SynFlow: quality control, enrichment, extension and assembly (arXiv:2510.27571, section 4).

    rectify -> integrity -> duplicates -> dynamics -> consistency    ==> assets.lance, rejects.lance
    captions -> frame_captions, composed_image, composed_clip        ==> annotations.lance
    assemble                                                         ==> uvrd/task=*/part-*.parquet

Every stage skips rows that are already committed, so a killed run resumes with the same command.
"""

import dataclasses
import logging
from collections.abc import Callable

from gve_ray.inputs.manifest import read_manifest
from gve_ray.preflight import check_cluster, check_models, check_paths, live_nodes
from gve_ray.schema import ANNOTATION_SCHEMA
from gve_ray.store import RunFolder, Store
from gve_ray.synthesis.annotate import Annotator, build_annotations
from gve_ray.synthesis.assemble import assemble
from gve_ray.synthesis.assets import build_assets, open_assets
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.consistency import ConsistencyWorker
from gve_ray.synthesis.ingest import IngestWorker
from gve_ray.synthesis.job import SynthesisResult, finished_before, manifest_fingerprint, stage_facts
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.report import write_report

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workers:
    """The worker classes. A replacement takes the same arguments and returns the same kind of rows."""

    ingest: type = IngestWorker
    consistency: type = ConsistencyWorker
    annotator: type = Annotator


def synthesize(
    config: SynthesisConfig,
    *,
    connect: Callable[[], object] = lambda: None,
    workers: Workers | None = None,
) -> SynthesisResult:
    """Run the job, resuming an earlier run; a finished run is not repeated.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected. workers: the
    real ones unless a benchmark brings its own.
    Raises PreflightError or RunFolderError before any work; StageError or StoreError from a stage, after
    which the same call resumes the run.
    """
    check_paths(needs_of(config))
    workers = workers or Workers()
    config = dataclasses.replace(config, output=config.output.rstrip("/") or "/")
    manifest = read_manifest(config.input)
    if earlier := finished_before(config, manifest):
        return earlier
    needs = needs_of(config, lambda: manifest.column("uri").to_pylist())
    check_models(needs)
    connect()
    check_cluster(needs, live_nodes())
    assets, rejects = open_assets(config.output)
    annotations = Store(f"{config.output}/annotations.lance", ANNOTATION_SCHEMA)
    with RunFolder(config.output, job=config.job, config=config.identity()) as run:
        log.info("synthesize: %d videos from %s to %s", manifest.num_rows, config.input, config.output)
        counts = build_assets(
            manifest,
            media=config.media,
            quality=config.quality,
            resources=config.resources,
            seed=config.seed,
            assets=assets,
            rejects=rejects,
            work=config.work or run.path("work"),
            commit_seconds=config.commit_seconds,
            ingest_worker=workers.ingest,
            consistency_worker=workers.consistency,
        )
        run.record(stages=stage_facts(counts))
        counts += build_annotations(
            config,
            assets=assets,
            annotations=annotations,
            rejects=rejects,
            annotator=workers.annotator,
        )
        run.record(stages=stage_facts(counts))
        assembled = assemble(annotations, run.path("uvrd"), config=config.assemble, seed=config.seed)
        stages = stage_facts([*counts, assembled.counts])
        pairs = {task.value: counts_of_task.pairs for task, counts_of_task in assembled.tasks.items()}
        run.record(stages=stages, pairs=pairs)
        report = write_report(config, run.facts)
        run.record(report=report, finished=manifest_fingerprint(manifest))
    return SynthesisResult(output=config.output, stages=stages, pairs=pairs, report=report)
