"""Configuration of a training run and its resources. Defaults follow arXiv:2510.27571, section 5."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import expand_paths
from gve_ray.schema import Task
from gve_ray.training.curriculum import Curriculum

# arXiv:2510.27571, Table 7: pairs per GPU and step, and hard negatives per query, by task.
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
# The fields that each format reads, and the default name of the column of each field.
COLUMNS: dict[Format, dict[str, str]] = {
    "pairs": {},
    "text_pairs": {"query": "query", "target": "positive", "negatives": "negative"},
    "image_captions": {"caption": "caption", "image": "image"},
    "webvid": {"id": "videoid", "folder": "page_dir", "caption": "name"},
}


@dataclass(frozen=True, kw_only=True)
class DataSetConfig:
    """One entry of the mixture.

    name: of the data set; each task of a `pairs` folder is named `<name>-<task>`. uri: a folder of task=*/
    Parquet parts in the pair schema (`pairs`), or a table (gve_ray.inputs.table) of
      text_pairs      MSMARCO-style: query, positive, negative
      image_captions  caption, image (text -> image)
      webvid          videoid, page_dir, name; the video is <root>/<page_dir>/<videoid>.mp4 (text -> video)
    A text cell may hold a list of texts; each of them makes a pair.
    columns: names of these columns in the file; in a file without a header, their indices. root: the folder
    that relative media paths start from. tasks: the tasks to read of a `pairs` folder; empty reads all.
    sample: maximum number of pairs per task, sampled with the seed. weight: a factor on the probability of
    the data set. batch_size: pairs per rank and step; None: as in Table 7. negatives: hard negatives per
    query; None: as in Table 7.
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
    """AdamW with warm-up and cosine decay (arXiv:2510.27571, section 5). clip: maximum gradient norm."""

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
    """Temperature, false-negative margin (None disables it) and Matryoshka sizes; see loss.py."""

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
    """Settings of the training loop.

    steps: steps per epoch; None: one pass over all pairs. gradcache: embed the batch in chunks and hold the
    activations of one chunk at a time (gradcache.py). save_steps: maximum number of steps between two
    checkpoints; there is also one at the end of each epoch. keep: number of newest checkpoints to keep; with
    two or more, a damaged one can be replaced by the one before it.
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
            raise ValueError(f"keep={self.keep}: use 2 or more; with fewer, a damaged checkpoint leaves none")


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """LoRA on q, k, v, up, down and gate of the language model (arXiv:2510.27571, section 5)."""

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
    """The model that scores tasks and mines hard negatives: `model` in epoch 1, later the trained model itself.

    model: a folder or hub id; None: the untrained base model. adapter: a LoRA folder for it. pairs: pairs
    scored per task (N_p in the paper). mine: mine hard negatives for tasks whose data set has none. margin:
    targets that score above positive + margin are dropped as likely false negatives; None keeps them.
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
    """Train a LoRA adapter for a base model on pairs. Defaults are the paper's.

    model: folder (path or URI) or hub id of the base model. data: the mixture. assets: the assets.lance that
    `asset://` references point into. frames, max_pixels, min_pixels, max_tokens: see
    gve_ray.embedder.EmbedderSettings. dtype: None selects bfloat16 on a GPU and float32 on a CPU. compile:
    compile the layers; on a GPU this takes two minutes and makes training 1.8 times as fast. checkpointing:
    recompute the activations of the language model in the backward pass; this costs a sixth of the speed and
    saves most of the memory per pair. token_budget: padded tokens per chunk of a forward pass. trackers:
    tensorboard, wandb, mlflow; steps.jsonl, the console log and the plots are always written.
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
                "checkpointing=True, loop.gradcache=True: each chunk would run three times; use only one of them"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingResources:
    """The ranks of a run. Each has `num_cpus` cores and `num_gpus` GPUs (0: CPU and gloo; 1: NCCL).

    min_workers: if it is below `workers`, the run is elastic: it starts with the ranks that fit, and grows and
    shrinks with the cluster, each time resuming from its newest checkpoint. The global batch grows with the
    number of ranks. feed_workers: extra processes of one core each that prepare the steps of a rank (Ray
    Data); 0: threads of the rank do it, which is enough where the model is slower than the data.
    max_failures: how often the ranks are restarted after one has died; -1: no limit. timeout_s: seconds
    after which a collective fails; it must cover the time in which ranks wait for the prober.
    resize_seconds: how often an elastic run checks whether the cluster has room for more ranks.
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
        """The Ray resources that one rank reserves."""
        return {"CPU": self.num_cpus} | ({"GPU": self.num_gpus} if self.num_gpus else {})


@dataclass(frozen=True, kw_only=True)
class TrainingJobConfig(TrainingConfig):
    """Config of jobs/train.py, which trains a LoRA adapter on the ranks of a cluster.

    output: the run's folder, on a disk that all nodes see or as a URI, for run.json, probes/, checkpoints/,
    steps.jsonl, adapter/ and the plots. A run that is started again with the same folder resumes.
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
        """The part of the config that determines the trained weights, as plain values.

        Resources are not part of it, so a run may resume on another cluster. If the number of ranks has
        changed, the global batch changes from there on.
        """
        parts = asdict(self)
        for name in ("output", "resources", "trackers"):
            del parts[name]
        return parts
