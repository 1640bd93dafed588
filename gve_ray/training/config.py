"""Configuration of a training run and its resources. Defaults follow arXiv:2510.27571, section 5."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import (
    AUTO,
    ActorResources,
    Auto,
    EmbedderModel,
    ModelReference,
    SequenceSettings,
    check,
    check_numbers,
    expand_paths,
    number,
)
from gve_ray.schema import Task
from gve_ray.training.curriculum import Curriculum
from gve_ray.training.formats import FORMATS
from gve_ray.training.templates import parts_of

# Pairs per GPU and step, and hard negatives per query, by task. Those of UVRD are from
# arXiv:2510.27571, Table 7. For tasks that only public data sets have, they are typical of Table 6,
# where they differ between the data sets; a recipe names them for each data set.
BATCH_SIZES = {
    Task.T2T: 64,
    Task.T2I: 32,
    Task.T2V: 64,
    Task.TI2V: 64,
    Task.TV2V: 64,
    Task.I2V: 64,
    Task.V2V: 64,
    Task.I2T: 64,
    Task.I2I: 32,
    Task.T2TI: 32,
    Task.TI2T: 64,
    Task.TI2I: 32,
    Task.TI2TI: 64,
}
HARD_NEGATIVES = {
    Task.T2T: 0,
    Task.T2I: 0,
    Task.T2V: 1,
    Task.TI2V: 1,
    Task.TV2V: 1,
    Task.I2V: 0,
    Task.V2V: 0,
    Task.I2T: 2,
    Task.I2I: 1,
    Task.T2TI: 1,
    Task.TI2T: 1,
    Task.TI2I: 1,
    Task.TI2TI: 1,
}

CPUS_OF_A_RANK = 10  # that a rank on a GPU can use: 4 for the rank, and 6 for its feed workers
_CPUS_WITHOUT_FEED = 4

TrackerName = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class DataSetConfig:
    """One entry of the mixture.

    name: of the data set; each task of a `pairs` folder is named `<name>-<task>`. uri: a folder of
    task=*/ Parquet parts in the pair schema (`pairs`), or the file of another format, which may be a
    glob of several. format: a form of files or a public data set, which is a form with its columns and
    its tasks; docs/jobs/training.md lists them. task: the modalities of query and target, for a
    format that can make several; None: its first. pool: the file that ids in `uri` refer to: the
    candidates of `mbeir`, the passages of `m2kr`, the class names of `class_folders`. columns: names
    of the columns in the file, or templates of them in braces; in a file without a header, their
    indices. root: the folder that relative media paths start from. minimum: the lowest value of these
    columns; rows below it, or without a value, make no pair. drop_repeated: drop the captions that
    occur with more than one image or video. tasks: the tasks to read of a `pairs` folder; empty reads
    all. sample: maximum number of pairs per task, sampled with the seed. weight: how much
    each of its pairs counts when the curriculum compares sizes. instruction: of all queries; in
    `pairs`, each pair has its own. batch_size: pairs per rank and step; None: as in Table 7. negatives:
    hard negatives per query; None: as in Table 7.
    """

    name: str
    uri: str
    format: str = "pairs"
    task: str | None = None
    pool: str = ""
    tasks: tuple[str, ...] = ()
    root: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    minimum: dict[str, float] = field(default_factory=dict)
    drop_repeated: bool = False
    instruction: str | None = None
    sample: int | None = number(None, at_least=1)
    weight: float = number(1.0, at_least=0)
    batch_size: int | None = number(None, at_least=1)
    negatives: int | None = number(None, at_least=0)

    def __post_init__(self) -> None:
        expand_paths(self, "uri", "root", "pool")
        where = f"data.{self.name}"
        check(
            bool(self.name and self.uri),
            f"data: name={self.name!r}, uri={self.uri!r}: give every data set both",
        )
        check(self.format in FORMATS, f"{where}.format={self.format!r}: use one of {', '.join(FORMATS)}")
        unknown = sorted(set(self.tasks) - set(Task))
        check(not unknown, f"{where}.tasks={unknown}: unknown; use {', '.join(Task)}")
        self._check_format(where)
        check_numbers(self, where)

    def _check_format(self, where: str) -> None:
        """Raise ValueError for options that the format does not have, or without those that it needs."""
        form = FORMATS[self.format]
        is_pairs = form.reader == "pairs"
        check(
            not self.tasks or is_pairs,
            f"{where}.tasks: an entry of the format {self.format} has one task; name it in {where}.task",
        )
        check(
            not (is_pairs and self.task),
            f"{where}.task={self.task}: a `pairs` folder names its tasks; choose among them in {where}.tasks",
        )
        check(
            self.task in (None, *form.tasks),
            f"{where}.task={self.task}: {self.format} makes {', '.join(form.tasks)}",
        )
        check(
            bool(self.pool) == form.has_pool,
            f"{where}.pool={self.pool!r}: {self.format} "
            + ("needs the file that its ids refer to" if form.has_pool else "refers to no other file"),
        )
        unknown = sorted(set(self.columns) - set(form.columns))
        columns = ", ".join(form.columns) or "none"
        check(not unknown, f"{where}.columns={unknown}: {self.format} reads {columns}")
        for name, column in self.columns.items():
            try:
                parts_of(column)
            except ValueError as error:
                raise ValueError(f"{where}.columns.{name}={error}") from None
        check(
            not self.minimum or form.reader not in ("pairs", "class_folders"),
            f"{where}.minimum: {self.format} has no columns with numbers; leave it out",
        )
        check(
            not self.drop_repeated or form.has_captions,
            f"{where}.drop_repeated: {self.format} has no captions of images or videos; leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine decay (arXiv:2510.27571, section 5).

    learning_rate: the highest, after the warm-up. weight_decay: of AdamW. decay: of the learning
    rate after the warm-up: `cosine` to 0, or `constant` for none. clip: maximum gradient norm.
    """

    learning_rate: float = number(3e-5, above=0)
    weight_decay: float = number(0.1, at_least=0)
    # Over this share of all steps, the learning rate rises.
    warmup: float = number(0.05, at_least=0, below=1, hint="a share of the steps")
    decay: Literal["cosine", "constant"] = "cosine"
    clip: float = number(1.0, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "optimiser")
        check(self.decay in ("cosine", "constant"), f"optimiser.decay={self.decay!r}: use cosine or constant")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """InfoNCE; see loss.py.

    temperature: divides the cosines. margin: in-batch negatives that score above the positive plus
    this are ignored as likely false negatives; None keeps them. dimensions: Matryoshka sizes to
    train, in addition to the full one.
    """

    temperature: float = number(0.03, above=0)
    margin: float | None = None
    dimensions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self, "loss")
        too_small = [size for size in self.dimensions if size < 1]
        check(not too_small, f"loss.dimensions={too_small}: use sizes of 1 or more")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of the training loop.

    seed: of the order of pairs, the tasks of the steps and the initial weights. steps: steps per
    epoch; None: one pass over all pairs. gradcache: embed the batch in chunks and hold the
    activations of one chunk at a time (gradcache.py). save_steps: maximum number of steps between
    two checkpoints; there is also one at the end of each epoch. keep: number of newest checkpoints
    to keep; with two or more, a damaged one can be replaced by the one before it.
    """

    seed: int = 42
    steps: int | None = number(None, at_least=1)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    gradcache: bool = False
    save_steps: int = number(500, at_least=1)
    keep: int = number(2, at_least=2, hint="with fewer, a damaged checkpoint leaves none")

    def __post_init__(self) -> None:
        check_numbers(self, "loop")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA on q, k, v, up, down and gate of the language model (arXiv:2510.27571, section 5).

    r: rank of the matrices. alpha: their factor, divided by r. dropout: on their input. dora: train the
    length of each row of a weight apart from its direction (arXiv:2402.09353); vLLM cannot load such
    an adapter, so merge it first. rslora: divide alpha by the root of r, for large r
    (arXiv:2312.03732).
    """

    r: int = number(16, at_least=1)
    alpha: int = number(32, at_least=1)
    dropout: float = number(0.1, at_least=0, below=1)
    dora: bool = False
    rslora: bool = False

    def __post_init__(self) -> None:
        check_numbers(self, "lora")


@dataclass(frozen=True, kw_only=True)
class HelperModel(EmbedderModel):
    """An embedder that training uses in addition to the model that it trains.

    model: None: none is used. engine: all but vllm, which would need the GPU that holds the model in
    training. dtype: None selects that of the training.
    """

    def _check_as(self, section: str) -> None:
        check_numbers(self, section)
        if self.model is None:
            return
        self.check_engine(section)
        check(
            self.engine != "vllm",
            f"{section}.engine='vllm': the training needs the GPU; use torch, sentence-transformers, frames or openai",
        )


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(HelperModel):
    """A term of the loss that draws the scores of each query towards those of a larger embedder.

    It is the Kullback-Leibler divergence of the student's distribution over the targets of the batch
    and the query's hard negatives from the teacher's, in the direction query -> target.

    model: the teacher; None: no distillation. engine, dtype: as for the prober. weight: of the term;
    the contrastive loss has the weight 1. temperature: divides the teacher's cosines; the student's
    are divided by loss.temperature.
    """

    weight: float = number(1.0, at_least=0)
    temperature: float = number(0.03, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_as("distillation")


@dataclass(frozen=True, kw_only=True)
class ProberConfig(HelperModel):
    """The model that scores tasks and mines hard negatives: `model` in epoch 1, later the trained
    model itself.

    model: None selects the untrained base model. engine: all but vllm, which would need the GPU that
    holds the model in training. dtype: None selects that of the training. pairs: pairs scored per data
    set (N_p in the paper).
    mine: mine hard negatives for tasks whose data set has none. corpus: maximum number of targets of
    a task that are searched for hard negatives, sampled with the seed; each rank keeps their
    embeddings in memory (200,000 of 2,048 numbers are 1.6 GB). margin: targets that score above
    positive + margin are dropped as likely false negatives; None keeps them, and then only the
    sampled targets are embedded.
    """

    pairs: int = number(1000, at_least=1)
    mine: bool = True
    corpus: int = number(200_000, at_least=1)
    margin: float | None = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_as("prober")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Evaluation during training. If it is on, `adapter/` is the best step's, and `last/` the last one's.

    eval_steps: the model is evaluated after so many steps, and at the end; None: never. data:
    held-out pairs, in the same forms as the training data; their score is hit@1 among the targets of
    their set. pairs: maximum number of pairs of each. root: a folder of data sets in UVRB's layout,
    each with its own metric. metric: the score that selects the best step: the name of a set, or
    `mean` of all. patience: training ends after so many evaluations in a row without a better score;
    None: it does not end early.
    """

    eval_steps: int | None = number(None, at_least=1)
    data: tuple[DataSetConfig, ...] = ()
    pairs: int = number(500, at_least=2)
    root: str | None = None
    metric: str = "mean"
    patience: int | None = number(None, at_least=1)

    def __post_init__(self) -> None:
        expand_paths(self, "root")
        check_numbers(self, "validation")
        check(
            self.eval_steps is None or bool(self.data or self.root),
            f"validation.eval_steps={self.eval_steps}: give held-out pairs in validation.data, or validation.root",
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ModelReference, SequenceSettings):
    """Train a LoRA adapter for a base model on pairs. Defaults are the paper's, but for the curriculum.

    model: the base model. data: the mixture. assets: the assets.lance that `asset://` references
    point into. dtype: None selects bfloat16 on a GPU and on a processor that computes it natively,
    else float32. attention: a transformers attention implementation; None lets the package choose.
    compile: compile the layers on a GPU, which takes two minutes and makes training 1.8 times as
    fast; not with `sharded`. checkpointing: recompute the activations of the language model in the backward pass; this
    costs a sixth of the speed and saves most of the memory per pair. sharded: each rank keeps a part
    of the frozen weights only, and gathers one layer at a time (FSDP2), for a model that leaves a
    GPU no room to train; probing, mining and evaluation still need the memory of the whole model.
    load_in_4bit: keep the projections of the frozen language model in 4 bits (QLoRA, arXiv:2305.14314);
    slower, and a quarter of their memory; needs the extra `qlora`, and not with `sharded`.
    distillation: an extra loss term. token_budget: padded tokens
    per chunk of a forward pass. trackers: tensorboard, wandb, mlflow; steps.jsonl, the console log
    and the plots are always written.
    """

    model: str = field()
    data: tuple[DataSetConfig, ...]
    assets: str | None = None
    dtype: str | None = None
    attention: str | None = None
    compile: bool = False
    checkpointing: bool = False
    sharded: bool = False
    load_in_4bit: bool = False
    token_budget: int = number(32_768, at_least=1)
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    curriculum: Curriculum = field(default_factory=Curriculum)
    prober: ProberConfig = field(default_factory=ProberConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "model", "assets")
        SequenceSettings.__post_init__(self)
        check(bool(self.model), "model='': name the folder or hub id of a base model")
        check(bool(self.data), "data=[]: a mixture needs at least one data set")
        check(
            not (self.checkpointing and self.loop.gradcache),
            "checkpointing=True, loop.gradcache=True: each chunk would run three times; use only one of them",
        )
        check(
            not (self.sharded and self.loop.gradcache),
            "sharded=True, loop.gradcache=True: ranks may have different numbers of chunks, and each would wait "
            "for the others; use checkpointing instead",
        )
        check(
            not (self.sharded and self.load_in_4bit),
            "sharded=True, load_in_4bit=True: 4-bit weights cannot be sharded; use only one of them",
        )


@dataclass(frozen=True, kw_only=True)
class TrainingResources(ActorResources):
    """The ranks of a run. Each has `num_cpus` cores, those of its feed workers among them, and `num_gpus`
    GPUs (0: CPU and gloo; 1: NCCL).

    workers: number of ranks; auto is one for each GPU of the cluster, or for each node if it has
    none. The global batch grows with the number of ranks. min_workers: if it is below `workers`,
    the run is elastic: it starts with the ranks that fit, and grows and shrinks with the cluster,
    each time resuming from its newest checkpoint. feed_workers: processes of one core each that
    prepare the steps of a rank (Ray Data); 0: threads of the rank do it, which is enough where the
    model is slower than the data; auto: on a GPU, one for each core beyond four, else 0.
    max_failures: how often the ranks are restarted after one has died; -1: no limit. timeout_s:
    seconds after which a collective fails; it must cover the longest work that one rank does while
    the others wait: scoring its share of the tasks, or mining one chunk of at most 1,024 pairs.
    resize_seconds: how often an elastic run checks whether the cluster has room for more ranks.
    """

    count_option: ClassVar[str] = "workers"
    num_cpus: float | Auto = number(AUTO, at_least=0)
    num_gpus: float | Auto = number(AUTO, at_least=0)
    workers: int | Auto = number(AUTO, at_least=1)
    min_workers: int | None = None
    feed_workers: int | Auto = number(AUTO, at_least=0)
    max_failures: int = number(3, at_least=-1, hint="-1 is no limit")
    timeout_s: int = number(7200, at_least=1)
    resize_seconds: float = number(60.0, at_least=0)
    wait_for_nodes: bool = False  # on an autoscaling cluster: do not fail at once when no node fits

    def __post_init__(self) -> None:
        check_numbers(self, "resources")
        check(
            self.min_workers is None or (self.count is not None and 1 <= self.min_workers <= self.count),
            f"resources.min_workers={self.min_workers}: use 1 to resources.workers ({self.workers}), both numbers",
        )
        check(self.num_cpus != 0, f"resources.num_cpus={self.num_cpus}: a rank needs some; use e.g. 1")
        check(
            AUTO in (self.num_cpus, self.feed_workers) or self.feeds < float(self.num_cpus),
            f"resources.num_cpus={self.num_cpus}, feed_workers={self.feed_workers}: the cores include those of "
            "the feed workers; use more cores or fewer feed workers",
        )
        check(self.num_gpus in (AUTO, 0, 1), f"resources.num_gpus={self.num_gpus}: a rank has 0 or 1 GPU")

    @property
    def feeds(self) -> int:
        """The number of feed workers of each rank."""
        if isinstance(self.feed_workers, int):
            return self.feed_workers
        spare = int(self.demands.get("CPU", 0)) - _CPUS_WITHOUT_FEED
        return max(0, spare) if "GPU" in self.demands else 0


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What `gve train --plan` assumes where it cannot know.

    sizes: pairs by data set, such as uvrd-T2V, whose data do not exist yet; the default is `sample`,
    and Table 7 for UVRD. scores: R_k by format or by data set; the default is that of the paper in
    miniature. workers: number of ranks if `resources.workers` is auto. pairs_per_second: of one GPU,
    for the GPU hours.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    workers: int = number(32, at_least=1)
    pairs_per_second: float | None = number(None, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "plan")


@dataclass(frozen=True, kw_only=True)
class TrainingJobConfig(TrainingConfig):
    """Config of jobs/train.py, which trains a LoRA adapter on the ranks of a cluster.

    output: the run's folder, on a disk that all nodes see or as a URI, for run.json, probes/, checkpoints/,
    steps.jsonl, adapter/ and the plots. A run that is started again with the same folder resumes. plan: for
    `gve train --plan`, which shows what the run would do and runs nothing.
    """

    output: str
    resources: TrainingResources = field(default_factory=TrainingResources)
    plan: PlanConfig = field(default_factory=PlanConfig)

    job: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        expand_paths(self, "output")
        super().__post_init__()
        check(
            bool(self.output),
            "output='': name the run's folder, on a disk that all nodes see or as a URI; ranks write there",
        )

    def identity(self) -> dict[str, Any]:
        """The part of the config that determines the trained weights, as plain values.

        Resources are not part of it, so a run may resume on another cluster. If the number of ranks has
        changed, the global batch changes from there on.
        """
        parts = asdict(self)
        for name in ("output", "resources", "trackers", "plan"):
            del parts[name]
        return parts
