"""What an evaluation is made of, and what it asks of the cluster. Defaults are UVRB's protocol (section 2)."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import NAME, ModelConfig, StageResources, expand_paths
from gve_ray.media.signature import THRESHOLD

Format = Literal["uvrb", "mteb", "classes"]

MAX_DEPTH = 1000


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """One data set by its folder. name: one of UVRB's brings its prompt and metric along.

    format: uvrb, the published layout; mteb (corpus.jsonl, queries.jsonl, qrels/<split>.tsv); or classes, zero-shot
    classification of a folder of <class>/<video> or a table (video, label), which `folder` then names. template: of
    a class's text. prompt: the query side's instruction; None: the benchmark's own; '': none. metric: e.g.
    hit@1; None: the benchmark's own, hit@1 where there is none.
    """

    name: str
    folder: str
    format: Format = "uvrb"
    split: str = "test"
    template: str = "{label}"
    prompt: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "folder")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"data: name={self.name!r}: use letters, digits, '.', '-' and '_'")
        if not self.folder:
            raise ValueError(f"data.{self.name}.folder='': name the folder of the data set")
        if "{label}" not in self.template:
            raise ValueError(
                f"data.{self.name}.template={self.template!r}: put {{label}} where the class stands"
            )


@dataclass(frozen=True, kw_only=True)
class ContaminationConfig:
    """The guard against evaluation videos that training has seen; without `training` there is none.

    training: the assets.lance that the models were trained on. on_hit: refuse the run, or flag the videos in the
    log and in results.json and go on. threshold: largest distance of signatures of near copies
    (gve_ray.media.signature); 0 finds the same paths and bytes alone.
    """

    training: str | None = None
    on_hit: Literal["refuse", "flag"] = "refuse"
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        expand_paths(self, "training")
        if self.training == "":
            raise ValueError("contamination.training='': name an assets.lance, or leave it out")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"contamination.threshold={self.threshold}: use 0 to 1, e.g. {THRESHOLD}")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What report.html shows.

    model: whose queries and headroom are shown; None: the last one. baselines: who is beside it in the radar
    and the table of abilities, models of the run or of the published table; None: the run's other models.
    queries: best ones and worst ones for each ability. frames: of each video. pooled: correlations are over
    the published models and the run's together; None: where the run's data sets have UVRB's sizes.
    """

    model: str | None = None
    baselines: tuple[str, ...] | None = None
    queries: int = 2
    frames: int = 4
    pooled: bool | None = None

    def __post_init__(self) -> None:
        for name, least in (("queries", 0), ("frames", 1)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"report.{name}={value}: use {least} or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What decides the scores.

    root: a folder with one folder for each data set of UVRB, by name; those that are there are taken.
    data: data sets by folder, beside those or instead. frames, max_pixels, min_pixels, max_tokens: as
    gve_ray.embedder.EmbedderSettings, the same for all models. depth: neighbours kept a query.
    metrics: computed for every data set beside its own. resamples: of the bootstrap over queries.
    contamination: the training videos that none of the evaluation's may be.
    """

    models: tuple[ModelConfig, ...]
    root: str | None = None
    data: tuple[DataConfig, ...] = ()
    frames: int = 8
    max_pixels: int = 200 * 28 * 28
    min_pixels: int = 4 * 28 * 28
    max_tokens: int = 8192
    depth: int = 100
    metrics: tuple[str, ...] = ("hit@1", "hit@5", "hit@10", "recall@10", "ndcg@10", "mrr", "median_rank")
    resamples: int = 10_000
    seed: int = 42
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "root")
        if not self.models:
            raise ValueError("models=[]: name at least one model")
        if not self.data and self.root is None:
            raise ValueError("root=None, data=[]: name UVRB's folder, or data sets")
        for option, names in (
            ("models", [one.name for one in self.models]),
            ("data", [one.name for one in self.data]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{option}: {', '.join(twice)} named twice; give each its own name")
        if not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth={self.depth}: use 1 to {MAX_DEPTH}")
        named = [*self.metrics, *(one.metric for one in self.data if one.metric)]
        if deep := sorted(name for name in named if _places(name) > self.depth):
            raise ValueError(
                f"depth={self.depth}: {', '.join(deep)} looks at more neighbours than are kept; raise depth"
            )
        if self.resamples < 1:
            raise ValueError(f"resamples={self.resamples}: use 1 or more, e.g. 1000")


def _places(metric: str) -> int:
    """k of `name@k`; 1 where there is none."""
    k = metric.partition("@")[2]
    return int(k) if k.isdecimal() else 1


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Test-time scaling: evaluate at every pair of these instead of at the config's own; empty: at its own."""

    frames: tuple[int, ...] = ()
    max_pixels: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.frames or self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class EvaluationJobConfig(EvaluationConfig):
    """jobs/evaluate.py: retrieval data sets and models in, scores and rankings out.

    output: the run's folder, on a disk that all nodes see or as a URI: run.json, results.json, runs/,
    per_query.parquet, skipped.jsonl and report.html. cache: embeddings by item and model, likewise; several runs may
    use it, one after the other; None: a folder in `output`. commit_seconds: how often embeddings are
    committed, the most that a killed run does again. sweep: `output` then holds one run for each pair.
    """

    output: str
    cache: str | None = None
    resources: StageResources = field(default_factory=lambda: StageResources(batch_size=64))
    commit_seconds: float = 5.0
    report: ReportConfig = field(default_factory=ReportConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)

    job: ClassVar[str] = "evaluate"

    def __post_init__(self) -> None:
        expand_paths(self, "output", "cache")
        super().__post_init__()
        for option, value in (("output", self.output), ("cache", self.cache)):
            if value == "":
                raise ValueError(f"{option}='': name a folder, on a disk that all nodes see or as a URI")
        if self.commit_seconds <= 0:
            raise ValueError(f"commit_seconds={self.commit_seconds}: use a positive number")
        names = [one.name for one in self.models]
        if self.report.model not in (None, *names):
            raise ValueError(
                f"report.model={self.report.model!r}: no model of this run; use {', '.join(names)}"
            )

    def identity(self) -> dict[str, Any]:
        """The part of the config that decides the scores, as plain values."""
        parts = asdict(self)
        for name in ("output", "cache", "resources", "commit_seconds", "report", "sweep"):
            del parts[name]
        # A run that was refused may go on in its folder once its hits are to be flagged instead.
        del parts["contamination"]["on_hit"]
        return parts
