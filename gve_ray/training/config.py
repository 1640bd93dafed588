"""What a training run is made of, and what it asks of the cluster. Defaults are the paper's (section 5)."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import expand_paths
from gve_ray.schema import Task
from gve_ray.training.curriculum import Curriculum

# Paper Table 7: pairs a GPU and step, and hard negatives a query, by task.
BATCH_SIZES = {
    Task.T2T: 64,
    Task.T2I: 32,
    Task.T2V: 64,
    Task.TI2V: 64,
    Task.TV2V: 64,
    Task.I2V: 64,
    Task.V2V: 64,
}
HARD_NEGATIVES = {task: 1 if task in (Task.T2V, Task.TI2V, Task.TV2V) else 0 for task in Task}

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
Format = Literal["pairs", "text_pairs", "image_captions", "webvid"]
# What each format reads, and the column it reads it from unless `columns` says otherwise.
COLUMNS: dict[Format, dict[str, str]] = {
    "pairs": {},
    "text_pairs": {"query": "query", "target": "positive", "negatives": "negative"},
    "image_captions": {"caption": "caption", "image": "image"},
    "webvid": {"id": "videoid", "folder": "page_dir", "caption": "name"},
}


@dataclass(frozen=True, kw_only=True)
class DataSetConfig:
    """One entry of the mixture.

    name: of the set; a folder of several tasks becomes `<name>-<task>` each. uri: a folder of task=*/
    Parquet parts in the pair schema (`pairs`), or a table (gve_ray.inputs.table) of
      text_pairs      MSMARCO-style: query, positive, negative
      image_captions  caption, image (text -> image)
      webvid          videoid, page_dir, name; the video is <root>/<page_dir>/<videoid>.mp4 (text -> video)
    A cell of texts may hold a list of them: there is a pair for each.
    columns: other names for those; numbers are places in a file without a header. root: where relative
    paths of media start. tasks: of a `pairs` folder; empty takes all it has.
    sample: at most so many pairs a task, drawn by the seed. weight: factor on how often it is drawn.
    batch_size, negatives: a rank and a query; None: Table 7's.
    """

    name: str
    uri: str
    format: Format = "pairs"
    tasks: tuple[str, ...] = ()
    root: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    instruction: str | None = None
    sample: int | None = None
    weight: float = 1.0
    batch_size: int | None = None
    negatives: int | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "uri", "root")
        where = f"data.{self.name}"
        if not self.name or not self.uri:
            raise ValueError(f"data: name={self.name!r}, uri={self.uri!r}: give every data set both")
        if self.format not in COLUMNS:
            raise ValueError(f"{where}.format={self.format!r}: use one of {', '.join(COLUMNS)}")
        if unknown := sorted(set(self.tasks) - set(Task)):
            raise ValueError(f"{where}.tasks={unknown}: unknown; use {', '.join(Task)}")
        if self.tasks and self.format != "pairs":
            raise ValueError(f"{where}.tasks: the format {self.format} has one task; leave it out")
        if unknown := sorted(set(self.columns) - set(COLUMNS[self.format])):
            known = ", ".join(COLUMNS[self.format]) or "none"
            raise ValueError(f"{where}.columns={unknown}: {self.format} reads {known}")
        for label, value, least in (
            ("sample", self.sample, 1),
            ("batch_size", self.batch_size, 1),
            ("negatives", self.negatives, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{where}.{label}={value}: use {least} or more")
        if self.weight < 0:
            raise ValueError(f"{where}.weight={self.weight}: use 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with warm-up and cosine decay (paper section 5). clip: the largest norm of the gradient."""

    learning_rate: float = 3e-5
    weight_decay: float = 0.1
    warmup: float = 0.05  # share of all steps over which the learning rate rises
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(
                f"optimiser.learning_rate={self.learning_rate}: use a positive number, e.g. 3e-5"
            )
        if self.weight_decay < 0:
            raise ValueError(f"optimiser.weight_decay={self.weight_decay}: use 0 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"optimiser.warmup={self.warmup}: a share of the steps, use 0 to below 1")
        if self.clip <= 0:
            raise ValueError(f"optimiser.clip={self.clip}: use a positive norm, e.g. 1.0")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Temperature, false-negative margin (None: off) and Matryoshka sizes; see loss.py."""

    temperature: float = 0.03
    margin: float | None = None
    dimensions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature={self.temperature}: use a positive number, e.g. 0.03")
        if wrong := [size for size in self.dimensions if size < 1]:
            raise ValueError(f"loss.dimensions={wrong}: use sizes of 1 or more")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What decides the steps of a run and their results.

    steps: of an epoch; None: one pass over all pairs. gradcache: embed in chunks and hold one chunk's
    activations (gradcache.py). save_steps: a checkpoint at least this often, and at every epoch's end.
    keep: newest checkpoints kept, so that a torn one has one before it.
    """

    seed: int = 42
    steps: int | None = None
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    gradcache: bool = False
    save_steps: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps={self.steps}: an epoch has at least one step")
        if self.save_steps < 1:
            raise ValueError(f"save_steps={self.save_steps}: use 1 or more")
        if self.keep < 2:
            raise ValueError(f"keep={self.keep}: use 2 or more, or a torn checkpoint leaves none")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA on q, k, v, up, down and gate of the language model (paper section 5)."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.r < 1 or self.alpha < 1:
            raise ValueError(f"lora.r={self.r}, lora.alpha={self.alpha}: use 1 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout={self.dropout}: use 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class ProberConfig:
    """What scores the tasks and mines negatives: `model` in epoch 1, the model in training after it.

    model: a name, or None for the untrained base itself. adapter: a LoRA folder for it. pairs: N_p, scored
    a task. mine: hard negatives for tasks that do not bring their own. margin: targets that score above
    positive + margin are likely false negatives; None keeps them.
    """

    model: str | None = None
    adapter: str | None = None
    revision: str | None = None
    pairs: int = 1000
    mine: bool = True
    margin: float | None = 0.1

    def __post_init__(self) -> None:
        expand_paths(self, "model", "adapter")
        if self.pairs < 1:
            raise ValueError(f"prober.pairs={self.pairs}: use 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """jobs/train.py: a base model and pairs in, a LoRA adapter out. Defaults are the paper's.

    model: folder (path or URI) or hub id of the base. data: the mixture. assets: assets.lance of its asset references.
    frames, max_pixels, min_pixels, max_tokens: as gve_ray.embedder.EmbedderSettings. dtype: None takes
    bfloat16 on GPU, float32 on CPU. compile: compile the layers; on a GPU 1.8 times the speed, after two minutes.
    checkpointing: recompute activations of the language model in the backward pass, which costs a sixth of the
    speed there and saves most of the memory a pair takes. token_budget: padded tokens of one forward pass's
    chunk. trackers: tensorboard, wandb, mlflow; steps.jsonl, the console and the curves are always written.
    """

    model: str
    data: tuple[DataSetConfig, ...]
    revision: str | None = None
    assets: str | None = None
    frames: int = 8
    max_pixels: int = 200 * 28 * 28
    min_pixels: int = 4 * 28 * 28
    max_tokens: int = 8192
    dtype: str | None = None
    attention: str | None = None
    compile: bool = False
    checkpointing: bool = False
    token_budget: int = 32_768
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    curriculum: Curriculum = field(default_factory=Curriculum)
    prober: ProberConfig = field(default_factory=ProberConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "model", "assets")
        if not self.model:
            raise ValueError("model='': name the folder or hub id of a base model")
        if not self.data:
            raise ValueError("data=[]: a mixture needs at least one data set")
        if self.token_budget < 1:
            raise ValueError(f"token_budget={self.token_budget}: use 1 or more")
        if self.checkpointing and self.loop.gradcache:
            raise ValueError(
                "checkpointing=True, loop.gradcache=True: each chunk would run three times; use one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """The ranks of a run. Each has `num_cpus` cores and `num_gpus` GPUs (0: CPU and gloo; 1: NCCL).

    min_workers: below `workers`, the run is elastic: it starts with as many as there are, and grows and
    shrinks with the cluster, going on from its newest checkpoint. A step's batch grows with the ranks.
    feed_workers: processes of one core each that prepare a rank's steps (Ray Data), beside its own cores;
    0: threads of the rank itself, enough where the model is the slower part.
    max_failures: times that the ranks are started again after one died; -1: without limit.
    timeout_s: a collective that hangs longer ends the rank; the prober works while others wait.
    resize_seconds: how often an elastic run looks whether the cluster has room for more ranks.
    """

    workers: int = 1
    min_workers: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    feed_workers: int = 0
    accelerator_type: str | None = None  # as Ray names it, e.g. H100
    max_failures: int = 3
    timeout_s: int = 7200
    resize_seconds: float = 60.0
    wait_for_nodes: bool = False  # on an autoscaling cluster: do not fail at once when no node fits

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"resources.workers={self.workers}: use 1 or more")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.workers:
            raise ValueError(
                f"resources.min_workers={self.min_workers}: use 1 to resources.workers ({self.workers})"
            )
        if self.num_cpus <= 0:
            raise ValueError(f"resources.num_cpus={self.num_cpus}: a rank needs some; use e.g. 1")
        if self.num_gpus not in (0, 1):
            raise ValueError(f"resources.num_gpus={self.num_gpus:g}: a rank has 0 or 1 GPU")
        if self.feed_workers < 0:
            raise ValueError(f"resources.feed_workers={self.feed_workers}: use 0 or more")
        if self.max_failures < -1:
            raise ValueError(f"resources.max_failures={self.max_failures}: use 0 or more, or -1 for no limit")
        if self.timeout_s < 1:
            raise ValueError(f"resources.timeout_s={self.timeout_s}: use positive seconds, e.g. 7200")
        if self.resize_seconds < 0:
            raise ValueError(f"resources.resize_seconds={self.resize_seconds:g}: use seconds, e.g. 60")

    @property
    def demands(self) -> dict[str, float]:
        """What one rank holds, as Ray names it."""
        return {"CPU": self.num_cpus} | ({"GPU": self.num_gpus} if self.num_gpus else {})


@dataclass(frozen=True, kw_only=True)
class TrainingJobConfig(TrainingConfig):
    """jobs/train.py: pairs and a base model in, a LoRA adapter out.

    output: the run's folder, on a disk that all nodes see or as a URI: run.json, probes/, checkpoints/,
    steps.jsonl, adapter/ and the curves. A run started again with the same folder goes on.
    """

    output: str
    resources: TrainingResources = field(default_factory=TrainingResources)

    job: ClassVar[str] = "train"

    def __post_init__(self) -> None:
        expand_paths(self, "output")
        super().__post_init__()
        if not self.output:
            raise ValueError(
                "output='': name the run's folder, on a disk that all nodes see or as a URI; ranks write there"
            )

    def identity(self) -> dict[str, Any]:
        """The part of the config that decides the weights, as plain values.

        Not the resources, so a run may go on on another cluster. With another number of ranks its steps
        have other batch sizes from there on.
        """
        parts = asdict(self)
        for name in ("output", "resources", "trackers"):
            del parts[name]
        return parts
