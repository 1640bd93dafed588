"""Configuration of an evaluation. Defaults follow UVRB's protocol (arXiv:2510.27571, section 2)."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import (
    ModelConfig,
    ModelResources,
    SequenceSettings,
    check,
    check_name,
    check_numbers,
    expand_home,
    expand_paths,
    number,
)
from gve_ray.media.picture.folder import FRAMES_PER_SECOND
from gve_ray.media.signature import THRESHOLD

Format = Literal["uvrb", "mteb", "mmeb", "classes", "msrvtt", "didemo", "activitynet", "vatex", "lsmdc"]
# Formats of annotation files (gve_ray.evaluation.data.annotations).
ANNOTATED = ("msrvtt", "didemo", "activitynet", "vatex", "lsmdc")

MAX_DEPTH = 1000


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One data set and its folder. A name from UVRB also selects that data set's prompt and metric.

    name: in results; one of UVRB's names if it is that data set, and with format mmeb one of
    MMEB-V2's, such as MMEB-HMDB51. folder: its path or URI. folder_fps: pictures a second in videos
    that are folders of frames. split: of qrels (mteb), or of the videos (msrvtt). format: uvrb, the
    published layout; mteb (corpus.jsonl, queries.jsonl, qrels/<split>.tsv); mmeb, where `folder`
    contains MMEB-V2's video-tasks; classes, for zero-shot classification, where `folder` is a folder
    of <class>/<video> or a table (video, label); or msrvtt, didemo, activitynet, vatex and lsmdc.
    annotations: for these last five, the benchmark's own annotation file; `folder` contains its
    videos. template: the text of a class. prompt: instruction of the queries; None: the benchmark's;
    '': none. metric: e.g. hit@1; None: the benchmark's, or hit@1 for a data set that is not in UVRB.
    """

    name: str
    folder: str
    format: Format = "uvrb"
    annotations: str | None = None
    folder_fps: float = number(FRAMES_PER_SECOND, above=0)
    split: str = "test"
    template: str = "{label}"
    prompt: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "folder", "annotations")
        check_name("data", self.name)
        check_numbers(self, f"data.{self.name}")
        check(bool(self.folder), f"data.{self.name}.folder='': name the folder of the data set")
        check(
            bool(self.annotations) == (self.format in ANNOTATED),
            f"data.{self.name}.annotations={self.annotations!r}: format {self.format} "
            + ("needs the annotation file" if self.format in ANNOTATED else "has no annotation file"),
        )
        check(
            "{label}" in self.template,
            f"data.{self.name}.template={self.template!r}: put {{label}} where the class name belongs",
        )


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig:
    """The check for evaluation videos that were used in training; without `training` there is no
    check.

    training: what the models were trained on, one source or several: an assets.lance, a table of
    videos (a manifest), a folder or a glob of videos, or one video. on_hit: refuse the run, or flag the
    videos in the log and in results.json and continue. threshold: largest signature distance of
    near copies (gve_ray.media.signature); 0 compares only paths and bytes, so that no training video
    is decoded.
    """

    training: str | tuple[str, ...] | None = None
    on_hit: Literal["refuse", "flag"] = "refuse"
    threshold: float = number(THRESHOLD, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "training", tuple(map(expand_home, self.sources)) or None)
        check(
            all(self.sources),
            "contamination.training='': name an assets.lance, a table or a folder of videos, or leave it out",
        )
        check_numbers(self, "contamination")

    @property
    def sources(self) -> tuple[str, ...]:
        """The training sources, none or more."""
        if self.training is None:
            return ()
        return (self.training,) if isinstance(self.training, str) else tuple(self.training)


@dataclass(frozen=True, kw_only=True)
class SmallerVectors:
    """Vectors that need less memory, computed from the embeddings and scored beside them.

    dimension: the first dimensions are kept and divided by their norm, as in Matryoshka embeddings;
    None: all. dtype: float32; int8, codes with one scale, the largest absolute value of the data set's
    corpus / 127; or binary, sign bits with Hamming distance. rescore: binary only, orders the `depth`
    nearest items again by the inner product of the query in float32 with their signs. A model with
    fewer dimensions is not scored in this form.
    """

    dimension: int | None = number(None, at_least=1)
    dtype: Literal["float32", "int8", "binary"] = "float32"
    rescore: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "vectors")
        check(
            self.dimension is not None or self.dtype != "float32",
            "vectors: an entry without dimension and dtype is the full vector; set one of them",
        )
        check(
            self.dtype == "binary" or not self.rescore,
            f"vectors.rescore=True: only for dtype binary, not for {self.dtype}",
        )

    @property
    def label(self) -> str:
        """Its part of a row's name, as in MODEL@256-int8."""
        parts = (
            str(self.dimension or ""),
            "" if self.dtype == "float32" else self.dtype,
            "rescored" if self.rescore else "",
        )
        return "-".join(filter(None, parts))


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What report.html shows.

    model: the model whose queries and rank breakdown are shown, and with which the others are
    compared; None: the last one. baselines:
    other models in the radar and the table of abilities, from the run or the published table; None:
    the run's other models. queries: number of best and of worst queries for each ability. frames:
    of each video. pooled: whether correlations are computed over the published models and the run's
    together; None: only if the run's data sets have UVRB's sizes.
    """

    model: str | None = None
    baselines: tuple[str, ...] | None = None
    queries: int = number(2, at_least=0)
    frames: int = number(4, at_least=1)
    pooled: bool | None = None

    def __post_init__(self) -> None:
        check_numbers(self, "report")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(SequenceSettings):
    """The settings that determine the scores; those of the embedder are the same for all models.

    models: at least one, each with its own name. seed: of the bootstrap. root: a folder with one
    subfolder per UVRB data set, by name, or with MMEB-V2's video-tasks; the data sets that exist are
    used. data: data sets by folder, in
    addition or instead. depth: neighbours kept per query. metrics: computed for every data set in
    addition to its own. vectors: smaller vectors, with which each model is scored in addition; nothing is
    embedded twice. resamples: of the bootstrap over clusters of queries. contamination: the training
    videos that must not occur in the evaluation.
    """

    models: tuple[ModelConfig, ...]
    root: str | None = None
    data: tuple[DataConfig, ...] = ()
    depth: int = number(100, at_least=1, at_most=MAX_DEPTH)
    metrics: tuple[str, ...] = ("hit@1", "hit@5", "hit@10", "recall@10", "ndcg@10", "mrr", "median_rank")
    vectors: tuple[SmallerVectors, ...] = ()
    resamples: int = number(10_000, at_least=1)
    seed: int = 42
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths(self, "root")
        check(bool(self.models), "models=[]: name at least one model")
        check(
            bool(self.data) or self.root is not None,
            "root=None, data=[]: name the folder of UVRB or MMEB-V2, or data sets",
        )
        for option, names in (
            ("models", [entry.name for entry in self.models]),
            ("data", [entry.name for entry in self.data]),
            ("vectors", [entry.label for entry in self.vectors]),
        ):
            duplicates = sorted({name for name in names if names.count(name) > 1})
            check(not duplicates, f"{option}: {', '.join(duplicates)} named twice; give each its own name")
        metrics = [*self.metrics, *(entry.metric for entry in self.data if entry.metric)]
        too_deep = sorted(name for name in metrics if _cutoff(name) > self.depth)
        check(
            not too_deep,
            f"depth={self.depth}: {', '.join(too_deep)} looks at more neighbours than are kept; raise depth",
        )


def _cutoff(metric: str) -> int:
    """k of `name@k`; 1 if the name has none."""
    k = metric.partition("@")[2]
    return int(k) if k.isdecimal() else 1


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Test-time scaling: evaluate at every pair of these values.

    frames, max_pixels: the values; an empty list keeps that of the config.
    """

    frames: tuple[int, ...] = ()
    max_pixels: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.frames or self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class EvaluationJobConfig(EvaluationConfig):
    """jobs/evaluate.py: retrieval data sets and models in, scores and rankings out.

    output: the run's folder, on a disk that all nodes see or as a URI; it gets run.json,
    results.json, runs/, per_query.parquet, skipped.jsonl and report.html. cache: folder for
    embeddings by item and model, likewise; several runs may use it in turn; None: a folder in
    `output`. commit_seconds: how often embeddings are committed, and so the most work that a killed
    run repeats. sweep: `output` then has one run per pair.
    """

    output: str
    cache: str | None = None
    resources: ModelResources = field(default_factory=lambda: ModelResources(batch_size=64))
    commit_seconds: float = number(5.0, above=0)
    report: ReportConfig = field(default_factory=ReportConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    job: ClassVar[str] = "evaluate"

    def __post_init__(self) -> None:
        expand_paths(self, "output", "cache")
        super().__post_init__()
        for option, value in (("output", self.output), ("cache", self.cache)):
            check(value != "", f"{option}='': name a folder, on a disk that all nodes see or as a URI")
        names = [model.name for model in self.models]
        check(
            self.report.model in (None, *names),
            f"report.model={self.report.model!r}: not a model of this run; use {', '.join(names)}",
        )

    @property
    def subject(self) -> str:
        """The model that the report is about, with which the others are compared."""
        return self.report.model or self.models[-1].name

    def identity(self) -> dict[str, Any]:
        """The part of the config that determines the scores, as plain values."""
        parts = asdict(self)
        for name in ("output", "cache", "resources", "commit_seconds", "report", "sweep"):
            del parts[name]
        # A refused run may continue in its folder once on_hit is set to flag.
        del parts["contamination"]["on_hit"]
        return parts
