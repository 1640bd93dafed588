"""Load the config of a job from YAML and dotted command-line overrides, and validate it.

    config = load_config(SynthesisConfig, ["--config", "demo.yaml", "--media.frames", "6"], prog="gve")

`--config` takes a path or the name of one of the job's recipes (gve_ray/recipes/<job>); `--print_config`
shows the result.
A config is sent to Ray workers and stored in run.json, so it holds plain values only. A model's name may start with
`package://` (a folder inside gve_ray) or be another URI; `resolve_model` resolves it where the model is loaded.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

PACKAGE_SCHEME = "package://"
NAME = re.compile(r"[\w.-]+(?: [\w.-]+)*")  # for names that become file names: no slashes, no leading spaces
MIB = 2**20
GIB = 2**30

# arXiv:2510.27571, Table 7: training pairs by task.
TABLE_7 = {
    "T2T": 100_000,
    "T2I": 210_000,
    "T2V": 879_000,
    "TI2V": 89_000,
    "TV2V": 35_000,
    "I2V": 200_000,
    "V2V": 36_000,
}


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def expand_home(path: str) -> str:
    """Replace a leading `~` or `~user` by the home folder. URIs and other names are returned unchanged."""
    return path if "://" in path else os.path.expanduser(path)


def expand_paths(config: Any, *names: str) -> None:
    """Expand the home folder in these fields of a frozen config, called from its `__post_init__`; None stays None."""
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, expand_home(value))


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """Limits above which a video is refused. Same fields as gve_ray.media.Limits."""

    max_bytes: int = 4 * GIB
    max_duration: float = 4 * 3600.0  # seconds
    max_side_pixels: int = 8192 * 8192  # width * height; of a JPEG four times as many
    max_frames: int = 1_000_000
    wall_clock_s: float = 120.0
    memory_bytes: int = 4 * GIB

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _check(value > 0, f"media.limits.{name}={value}: a limit is positive; raise it to lift the limit")


@dataclass(frozen=True, kw_only=True)
class MediaConfig:
    """What is decoded once from each video and stored as JPEG in assets.lance."""

    frames: int = 8  # sampled uniformly from the video, and from each clip
    max_pixels: int = 200 * 28 * 28  # per frame; 28*28 pixels are one LLM token
    min_pixels: int = 4 * 28 * 28
    reference_frames: int = 2  # at other times than the uniformly sampled frames
    clips: int = 2
    clip_seconds: tuple[float, float] = (2.0, 10.0)
    jpeg_quality: int = 90
    limits: LimitsConfig = field(default_factory=LimitsConfig)

    def __post_init__(self) -> None:
        n = self.frames
        _check(
            n >= 2 and n % 2 == 0,
            f"media.frames={n}: Qwen2.5-VL needs an even number of frames (temporal patch 2); "
            f"use {max(2, n - n % 2)} or {max(2, n - n % 2) + 2}",
        )
        _check(
            28 * 28 <= self.min_pixels <= self.max_pixels,
            f"media.min_pixels={self.min_pixels}, media.max_pixels={self.max_pixels}: "
            "need 784 (28*28) <= min_pixels <= max_pixels",
        )
        for name in ("reference_frames", "clips"):
            value = getattr(self, name)
            _check(value >= 0, f"media.{name}={value}: a count; use 0 for none")
        low, high = self.clip_seconds
        _check(
            0 < low <= high,
            f"media.clip_seconds={[low, high]}: give [shortest, longest] in seconds, e.g. [2, 10]",
        )
        _check(
            1 <= self.jpeg_quality <= 100, f"media.jpeg_quality={self.jpeg_quality}: use 1 to 100, e.g. 90"
        )


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """The embedder of the cross-modal filter, and its threshold, given as a cosine or as a percentile."""

    model: str | None = None  # None: no consistency filter
    adapter: str | None = None
    revision: str | None = None
    engine: Literal["torch", "vllm"] = "torch"
    dtype: str | None = None
    threshold: float | None = None  # cosine; pairs below it are rejected
    percentile: float | None = None  # or: percentage of the captioned videos that is rejected (0-100)

    def __post_init__(self) -> None:
        expand_paths(self, "model", "adapter")
        if self.model is None:
            return
        t, p = self.threshold, self.percentile
        _check(
            (t is None) != (p is None),
            f"quality.consistency.threshold={t}, percentile={p}: give exactly one of them",
        )
        _check(t is None or -1 <= t <= 1, f"quality.consistency.threshold={t}: a cosine, use -1 to 1")
        _check(p is None or 0 <= p < 100, f"quality.consistency.percentile={p}: use 0 to below 100")


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Stage 1 of V-SynFlow (arXiv:2510.27571, section 3.1): the filters and their thresholds."""

    rectify: bool = True
    motion_threshold: float = 0.07  # videos whose motion score is below it are static
    near_duplicate_threshold: float = 0.1  # videos with closer signatures are duplicates; 0: exact only
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)

    def __post_init__(self) -> None:
        for name in ("motion_threshold", "near_duplicate_threshold"):
            value = getattr(self, name)
            _check(value >= 0, f"quality.{name}={value}: not negative; use 0 to switch the filter off")


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """The vision-language model that writes captions with vLLM: its name, loading and sampling."""

    model: str
    revision: str | None = None
    tensor_parallel_size: int = 1
    engine_args: dict[str, Any] = field(default_factory=dict)  # passed to vLLM's engine unchanged
    max_attempts: int = 4  # per prompt, with a new seed each time
    temperature: float = 0.7
    retry_temperature: float = 0.7  # from the second attempt on, if `temperature` is lower
    top_p: float = 0.9
    max_tokens: int = 1024  # per answer: five captions as JSON

    def __post_init__(self) -> None:
        expand_paths(self, "model")
        _check(bool(self.model), "captioner.model='': name a model folder or hub id")
        for name in ("tensor_parallel_size", "max_attempts", "max_tokens"):
            value = getattr(self, name)
            _check(value >= 1, f"captioner.{name}={value}: use 1 or more")
        for name in ("temperature", "retry_temperature"):
            value = getattr(self, name)
            _check(0 <= value <= 2, f"captioner.{name}={value}: use 0 to 2")
        _check(0 < self.top_p <= 1, f"captioner.top_p={self.top_p}: use above 0, at most 1")
        for name in ("model", "revision", "tensor_parallel_size"):
            _check(
                name not in self.engine_args,
                f"captioner.engine_args.{name}: set captioner.{name} instead",
            )


@dataclass(frozen=True, kw_only=True)
class EnrichConfig:
    """Stage 2 of V-SynFlow: every video is captioned (prompt 1), and some reference frames (prompt 4)."""

    frames: int = 1  # per video

    def __post_init__(self) -> None:
        _check(self.frames >= 0, f"enrich.frames={self.frames}: a count of frames; use 0 for none")


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """Stage 3 of V-SynFlow: the share of videos that get a composed query (prompts 2 and 3)."""

    image_share: float = 1.0  # Table 7 needs 89 : 879 of them
    clip_share: float = 1.0  # Table 7 needs 35 : 879 of them

    def __post_init__(self) -> None:
        for name in ("image_share", "clip_share"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"extend.{name}={value}: a share of the videos, use 0 to 1")


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """How many pairs of each task are made (paper Table 7)."""

    quotas: dict[str, int] = field(default_factory=lambda: dict(TABLE_7))
    scale: float | None = None  # factor on the quotas; None: the largest that the corpus can fill
    captions_per_video: int = 1  # captions, of five, that make a T2V pair each; more extend a small corpus
    long_seconds: float = 30.0  # rich captions of videos this long are long-context pairs (domain LC)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.quotas) - set(TABLE_7))
        _check(not unknown, f"assemble.quotas={unknown}: unknown task; use {', '.join(TABLE_7)}")
        for task, count in self.quotas.items():
            _check(count >= 0, f"assemble.quotas.{task}={count}: a number of pairs; use 0 for none")
        _check(self.scale is None or self.scale > 0, f"assemble.scale={self.scale}: use a positive factor")
        n = self.captions_per_video
        _check(1 <= n <= 5, f"assemble.captions_per_video={n}: use 1 to 5; with 4 or 5 there is no T2T pair")
        _check(self.long_seconds > 0, f"assemble.long_seconds={self.long_seconds}: use a positive number")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model of the comparison.

    name: used in results and file names. model: a folder (path, URI or `package://`), a hub id, or the model's name
    at an endpoint. adapter: a LoRA folder for it (path, URI or hub id; torch and vllm only). engine: torch and vllm
    run GVE and checkpoints of the same architecture; sentence-transformers runs its own folders and ids; openai
    calls the endpoint `url` (ending in /v1) with the key in the environment variable `key_variable`. dtype: None
    selects bfloat16 on a GPU and float32 on a CPU. rescale: allow other frames and pixels than in training
    (test-time scaling; torch only). compile: compile the layers, which is faster on GPUs (torch only).
    engine_args: passed to vllm.LLM or SentenceTransformer.
    """

    name: str
    model: str
    adapter: str | None = None
    revision: str | None = None
    engine: Literal["torch", "vllm", "sentence-transformers", "openai"] = "torch"
    dtype: str | None = None
    rescale: bool = False
    compile: bool = False
    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    engine_args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expand_paths(self, "model", "adapter")
        where = f"models.{self.name}"
        if not NAME.fullmatch(self.name):
            raise ValueError(f"models: name={self.name!r}: use letters, digits, '.', '-' and '_'")
        if not self.model:
            raise ValueError(f"{where}.model='': name a folder or hub id")
        if self.adapter is not None and self.engine not in ("torch", "vllm"):
            raise ValueError(f"{where}.adapter: the engine {self.engine} takes none; export a merged model")
        if self.rescale and self.engine != "torch":
            raise ValueError(f"{where}.rescale: only the torch engine can change the settings of weights")
        if self.compile and self.engine != "torch":
            raise ValueError(
                f"{where}.compile: the engine {self.engine} decides itself whether to compile; leave it out"
            )
        if self.engine_args and self.engine not in ("vllm", "sentence-transformers"):
            raise ValueError(f"{where}.engine_args: the engine {self.engine} takes none; leave them out")
        if (self.url is not None) != (self.engine == "openai"):
            raise ValueError(
                f"{where}.url={self.url!r}, engine={self.engine}: openai needs a url, others none"
            )
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{where}.url={self.url!r}: use http:// or https://")


@dataclass(frozen=True, kw_only=True)
class StageResources:
    """The resources of one stage: a pool of actors, and what each of them reserves."""

    actors: int = 1
    max_actors: int = 0  # the pool may grow to this while there is work; 0: it stays at `actors`
    num_cpus: float = 1.0  # per actor
    num_gpus: float = 0.0  # per actor
    memory: int = 0  # bytes per actor, reserved with Ray's scheduler; 0: none
    accelerator_type: str | None = None  # as Ray names it, e.g. A100
    batch_size: int = 16  # rows per call
    concurrency: int = 1  # calls at a time in one actor; above 1 the worker must be thread-safe
    max_attempts: int = 3  # per row: calls that raise, or worker deaths with this row alone
    max_errors_in_a_row: int = 64  # the stage fails when this many consecutive rows raise
    stall_seconds: float = 1800.0  # the stage fails when no batch is done for so long; -1: never
    wait_for_nodes: bool = False  # on an autoscaling cluster: do not fail at once when no node fits

    def __post_init__(self) -> None:
        for name in ("actors", "batch_size", "concurrency", "max_attempts", "max_errors_in_a_row"):
            value = getattr(self, name)
            _check(value >= 1, f"resources: {name}={value}: use 1 or more")
        for name in ("num_cpus", "num_gpus", "memory", "max_actors"):
            value = getattr(self, name)
            _check(value >= 0, f"resources: {name}={value}: not negative; use 0 for none")
        t = self.stall_seconds
        _check(t > 0 or t == -1, f"resources: stall_seconds={t}: positive seconds, or -1 for never")


@dataclass(frozen=True, kw_only=True)
class CustomStageConfig:
    """A filter of the user's own among the stages of synthesis (docs/architecture.md).

    name: in run.json, rejects.lance and the report. after: the stage that it follows. worker: its class as
    "module:Class"; options: keyword arguments of the class.
    """

    name: str
    after: str
    worker: str
    options: dict[str, Any] = field(default_factory=dict)
    resources: StageResources = field(default_factory=StageResources)

    def __post_init__(self) -> None:
        _check(
            bool(NAME.fullmatch(self.name)),
            f"stages: name={self.name!r}: use letters, digits, '.', '-' and '_'",
        )
        module, _, name = self.worker.partition(":")
        _check(
            bool(module and name),
            f"stages.{self.name}.worker={self.worker!r}: name a class as module:Class, e.g. my_filters:MyFilter",
        )


@dataclass(frozen=True, kw_only=True)
class SynthesisResources:
    """Resources by stage."""

    media: StageResources = field(default_factory=StageResources)
    consistency: StageResources = field(default_factory=StageResources)
    captioner: StageResources = field(default_factory=StageResources)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Sizes of the HTML report."""

    samples: int = 24  # videos shown with their frames and captions
    rejects: int = 24  # rejected videos shown


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Make UVRD training pairs from raw videos with noisy captions (jobs/synthesize.py).

    input: a manifest (gve_ray.inputs.table's forms, with uri, video_id?, caption?), a folder or a glob.
    output: the run's folder: assets.lance, rejects.lance, annotations.lance, uvrd/, run.json, report.html.
    work: may be the folder of an earlier run; with another threshold or a longer manifest, its videos are not
    decoded again.
    """

    job: ClassVar[str] = "synthesize"
    input: str
    output: str
    captioner: CaptionerConfig
    work: str | None = None  # decoded and scored videos, before filtering; None: output/work
    seed: int = 42
    media: MediaConfig = field(default_factory=MediaConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    enrich: EnrichConfig = field(default_factory=EnrichConfig)
    extend: ExtendConfig = field(default_factory=ExtendConfig)
    assemble: AssembleConfig = field(default_factory=AssembleConfig)
    stages: list[CustomStageConfig] = field(default_factory=list)
    resources: SynthesisResources = field(default_factory=SynthesisResources)
    commit_seconds: float = 30.0  # finished rows become visible at least this often
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "input", "output", "work")
        _check(bool(self.input), "input='': name a folder, a glob or a manifest of videos")
        _check(bool(self.output), "output='': name the folder that the run writes")
        _check(self.commit_seconds > 0, f"commit_seconds={self.commit_seconds}: use a positive number")
        tp, gpus = self.captioner.tensor_parallel_size, self.resources.captioner.num_gpus
        _check(
            gpus == 0 or gpus == tp or (tp == 1 and gpus < 1),
            f"resources.captioner.num_gpus={gpus:g}, captioner.tensor_parallel_size={tp}: "
            f"an actor holds the GPUs its engine spans; set num_gpus to {tp}",
        )

    def identity(self) -> dict[str, Any]:
        """The part of the config that determines the content of the output, as plain values.

        Paths of the output, resources and commit intervals are not part of it, so a run may resume on a larger
        cluster.
        """
        parts = asdict(self)
        for name in ("output", "work", "resources", "commit_seconds", "report"):
            del parts[name]
        for stage in parts["stages"]:
            del stage["resources"]
        if not parts[
            "stages"
        ]:  # so that a config without filters is the one that it was before there were any
            del parts["stages"]
        return parts


class JobConfig(Protocol):
    """The config of a job. `job` is its name; its recipes are in gve_ray/recipes/<job>."""

    job: ClassVar[str]


ConfigT = TypeVar("ConfigT", bound=JobConfig)


def load_config(
    kind: type[ConfigT], args: Sequence[str] | None = None, *, prog: str | None = None
) -> ConfigT:
    """Load a config from `--config FILE` and `--a.b value` overrides; later arguments win.

    args: command-line arguments without the program's name; None reads sys.argv. Prints the error and exits
    with status 2 when an argument is unknown, of the wrong type, or refused by the config's own checks.
    """
    parser = _parser(kind, prog=prog)
    parser.add_argument("--config", action="config", help="YAML file, or the name of a packaged recipe")
    parsed = parser.parse_args(_find_recipes(sys.argv[1:] if args is None else args, kind.job))
    delattr(parsed, "config")
    try:
        return kind(**vars(parser.instantiate(parsed)))
    except ValueError as error:
        parser.error(str(error))
        raise AssertionError("parser.error ends the program") from error


def config_of(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a config from plain values, as in a YAML file. Raises ValueError for invalid ones."""
    from jsonargparse import ArgumentError

    parser = _parser(kind, exit_on_error=False)
    try:
        return kind(**vars(parser.instantiate(parser.parse_object(dict(values)))))
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def _parser(kind: type[Any], **options: Any) -> Any:
    """Build the parser of a config class."""
    from jsonargparse import ArgumentParser  # imported here because Ray workers never parse

    # argparse would print every option above each error and push the error off the screen
    usage = "%(prog)s --config FILE [--section.option VALUE ...]"
    parser = ArgumentParser(usage=usage, description=kind.__doc__, allow_abbrev=False, **options)
    parser.add_class_arguments(kind, None)
    return parser


def recipe_path(name: str, job: str) -> str:
    """Return the path of a YAML file: `name` itself if it exists, or else the job's recipe of that name.

    The suffix may be left out for a recipe. A name that is neither is returned unchanged, and the parser refuses it.
    """
    path = expand_home(name)
    if Path(path).is_file():
        return path
    packaged = Path(str(files("gve_ray"))) / "recipes" / job / f"{name.removesuffix('.yaml')}.yaml"
    return str(packaged) if packaged.is_file() else name


def _find_recipes(args: Sequence[str], job: str) -> list[str]:
    """Return the arguments with the values of --config replaced by paths."""
    resolved: list[str] = []
    for arg in args:
        if resolved and resolved[-1] == "--config":
            arg = recipe_path(arg, job)
        elif arg.startswith("--config="):
            arg = "--config=" + recipe_path(arg.removeprefix("--config="), job)
        resolved.append(arg)
    return resolved


def is_uri(name: str) -> bool:
    """Return whether a model's name is a URI other than `package://`."""
    return "://" in name and not name.startswith(PACKAGE_SCHEME)


def resolve_model(name: str) -> str:
    """Resolve a model's name for a loader.

    `package://a/b` becomes that folder of the installed package. Another URI becomes the path of a copy on this
    node, which is made if there is none. Other names are returned unchanged. Raises FileNotFoundError when there
    is no such folder, and OSError when it cannot be read.
    """
    if is_uri(name):
        from gve_ray.store.model_cache import (
            local_copy,  # here: most names are none, and this module loads in a moment
        )

        return str(local_copy(name))
    if not name.startswith(PACKAGE_SCHEME):
        return name
    folder = Path(str(files("gve_ray"))) / name.removeprefix(PACKAGE_SCHEME)
    if not folder.is_dir():
        raise FileNotFoundError(f"model {name!r}: gve_ray has no folder {folder}; reinstall the package")
    return str(folder)
