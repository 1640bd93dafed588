"""The order of synthesis: V-SynFlow (arXiv:2510.27571, section 4) as a list of stages.

Captions are cleaned and videos filtered (quality control), then captioned (enrichment), then given
composed queries (extension), and finally turned into training pairs. `job.synthesize` runs the
stages in this order; run.json and the report list them in this order. Every stage skips rows that
are already committed, so a killed run resumes with the same command.
"""

import inspect

from gve_ray.job import PreflightError
from gve_ray.synthesis.annotate import Annotator, annotate, count_answers, open_captions
from gve_ray.synthesis.assemble import assemble_pairs
from gve_ray.synthesis.assets import (
    AssetWriter,
    FilterWorker,
    apply_filter,
    decode,
    drop_duplicates,
    drop_inconsistent,
    drop_semantic_duplicates,
    drop_static,
    open_assets,
    open_consistency,
    open_decoding,
    open_filter,
    open_shots,
    rectify,
    split_videos,
    write_assets,
)
from gve_ray.synthesis.config import CustomStageConfig, SynthesisConfig
from gve_ray.synthesis.consistency import ConsistencyWorker
from gve_ray.synthesis.content.stages import content_stages
from gve_ray.synthesis.ingest import IngestWorker
from gve_ray.synthesis.shots import ShotsWorker
from gve_ray.synthesis.stages import Stage, load_class

STAGES = (
    Stage(
        name="rectify",
        unit="captions",
        reads=("manifest",),
        writes=("clean captions",),
        run=rectify,
        in_order=True,
    ),
    Stage(
        name="integrity",
        unit="videos",
        reads=("manifest",),
        writes=("decoded videos", "videos"),
        run=decode,
        worker=IngestWorker,
        resources="media",
        open=open_decoding,
    ),
    Stage(
        name="duplicates",
        unit="videos",
        reads=("decoded videos", "videos"),
        writes=("videos",),
        run=drop_duplicates,
        in_order=True,
    ),
    Stage(
        name="dynamics",
        unit="videos",
        reads=("videos",),
        writes=("videos",),
        run=drop_static,
    ),
    Stage(
        name="consistency",
        unit="videos",
        reads=("decoded videos", "clean captions", "videos"),
        writes=("videos", "cosines"),
        run=drop_inconsistent,
        worker=ConsistencyWorker,
        resources="consistency",
        open=open_consistency,
    ),
    Stage(
        name="assets",
        unit=None,
        reads=("decoded videos", "clean captions", "videos", "cosines"),
        writes=("assets.lance", "rejects.lance"),
        run=write_assets,
        worker=AssetWriter,
        resources="media",
        open=open_assets,
        in_order=True,
        is_light=True,
    ),
    Stage(
        name="captions",
        unit="videos",
        reads=("assets.lance",),
        writes=("annotations.lance", "rejects.lance"),
        run=annotate,
        worker=Annotator,
        resources="captioner",
        open=open_captions,
    ),
    *(
        Stage(
            name=name,
            unit="videos",
            reads=("annotations.lance",),
            writes=("rejects.lance",),
            run=count_answers,
        )
        for name in ("frame_captions", "composed_image", "composed_clip")
    ),
    Stage(
        name="assemble",
        unit="pairs",
        reads=("annotations.lance",),
        writes=("uvrd",),
        run=assemble_pairs,
        in_order=True,
        is_cumulative=True,
    ),
)

SEMANTIC_DUPLICATES = Stage(
    name="semantic_duplicates",
    unit="videos",
    reads=("cosines", "videos"),
    writes=("videos",),
    run=drop_semantic_duplicates,
    in_order=True,
)

# Comes before "integrity", if long videos are split.
SHOTS = Stage(
    name="shots",
    unit="videos",
    reads=("manifest",),
    writes=("shots",),
    run=split_videos,
    worker=ShotsWorker,
    resources="shots",
    open=open_shots,
)


def stages_of(config: SynthesisConfig) -> tuple[Stage, ...]:
    """Return the stages of a config: `STAGES`, `SHOTS` if it is on, the content filters in use, and `config.stages`.

    Raises PreflightError where a filter has the name of another stage, follows a stage that it
    cannot follow, cannot be imported, or does not take its options.
    """
    stages = list(STAGES)
    if config.shots.is_on:
        stages.insert([stage.name for stage in stages].index("integrity"), SHOTS)
    at = [stage.name for stage in stages].index("dynamics") + 1
    stages[at:at] = content_stages(config.quality.content)
    if config.quality.has_vectors:
        at = [stage.name for stage in stages].index("consistency") + 1
        stages.insert(at, SEMANTIC_DUPLICATES)
    for custom in config.stages:
        names = [stage.name for stage in stages]
        where = f"stages.{custom.name}"
        if custom.name in names:
            raise PreflightError(f"{where}: there is a stage of this name already; choose another name")
        allowed = names[names.index("integrity") : names.index("assets")]
        if custom.after not in allowed:
            raise PreflightError(
                f"{where}.after={custom.after!r}: a filter needs decoded videos and precedes assets.lance; "
                f"use {', '.join(allowed)}"
            )
        _check_worker(custom)
        stages.insert(
            names.index(custom.after) + 1,
            Stage(
                name=custom.name,
                unit="videos",
                reads=("decoded videos", "videos"),
                writes=("videos",),
                run=apply_filter,
                worker=FilterWorker,
                worker_args={"name": custom.worker, "options": custom.options},
                resources=custom.resources,
                open=open_filter,
            ),
        )
    return tuple(stages)


def _check_worker(custom: CustomStageConfig) -> None:
    """Raise PreflightError if the class of a filter cannot be imported or does not take its options."""
    where = f"stages.{custom.name}.worker={custom.worker!r}"
    try:
        worker = load_class(custom.worker)
    except Exception as error:  # importing the user's module may raise any exception
        raise PreflightError(
            f"{where}: cannot be used ({type(error).__name__}: {error}); name a class as module:Class, in an "
            "installed package, in the current folder, or in the --working-dir of the Ray job"
        ) from error
    try:
        inspect.signature(worker).bind(**custom.options)
    except TypeError as error:
        raise PreflightError(
            f"{where}: does not take options={custom.options} ({error}); its arguments are "
            f"{inspect.signature(worker)}"
        ) from error
