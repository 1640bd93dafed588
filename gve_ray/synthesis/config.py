"""Configuration of a synthesis job. Defaults follow arXiv:2510.27571, section 3.1 and Table 7."""

import math
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from gve_ray.config import (
    AUTO,
    EmbedderModel,
    ModelConfig,
    ModelReference,
    ModelResources,
    StageResources,
    VideoAs,
    VideoSettings,
    check,
    check_name,
    check_numbers,
    check_url,
    expand_paths,
    number,
)
from gve_ray.media import FACTOR, Limits, signature
from gve_ray.schema import UVRD_PAIRS
from gve_ray.synthesis import motion
from gve_ray.synthesis.content import borders, exposure, slideshow, text
from gve_ray.synthesis.cut import CutConfig


@dataclass(frozen=True, kw_only=True)
class MediaConfig(VideoSettings):
    """What is decoded once from each video, and from each of its clips, and stored in assets.lance.

    check: full decodes every picture of a file, sampled only those that the stored frames need; it checks
    the others by the structure of the file. clips: number of clips, which are the reference clips of
    composed queries. clip_seconds: shortest and longest clip. jpeg_quality: of the stored frames.
    """

    check: Literal["full", "sampled"] = "full"
    reference_frames: int = number(2, at_least=0)  # at other times than the uniformly sampled frames
    clips: int = number(2, at_least=0)
    clip_seconds: tuple[float, float] = (2.0, 10.0)
    jpeg_quality: int = number(90, at_least=1, at_most=100)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.check_video("media.", least_pixels=FACTOR * FACTOR)
        check_numbers(self, "media")
        shortest, longest = self.clip_seconds
        check(
            0 < shortest <= longest,
            f"media.clip_seconds={[shortest, longest]}: give [shortest, longest] in seconds, e.g. [2, 10]",
        )

    def identity(self) -> dict[str, Any]:
        """The options that determine what is stored; with a full check, those that it had before there was another."""
        left_out = {"check"} if self.check == "full" else set()
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True, kw_only=True)
class ShotsConfig:
    """Splitting of long videos at cuts: each shot then is a video of its own in all later stages.

    longer_than: videos of more seconds are split; null: none is. threshold: minimum score of a cut, 0 to
    100 (see gve_ray.media.video.scenes). shortest: a shorter shot is merged with a neighbour. longest: a
    longer shot is divided into equal parts. wall_clock_s: seconds that the pass over a long video may take,
    in place of `media.limits.wall_clock_s`.
    """

    longer_than: float | None = number(None, above=0)
    threshold: float = number(10.0, above=0, below=100)
    shortest: float = number(3.0, at_least=0)  # seconds; three quarters of it hold a clip of 2 s
    longest: float = number(60.0, above=0)
    wall_clock_s: float = number(7200.0, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "shots")
        check(
            self.shortest <= self.longest / 2,
            f"shots.shortest={self.shortest}, longest={self.longest}: use at most half of longest",
        )

    @property
    def is_on(self) -> bool:
        """Whether any video is split."""
        return self.longer_than is not None


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig(EmbedderModel, CutConfig):
    """The embedder of the cross-modal filter, and its threshold, given as a cosine or as a percentile.

    Without a model there is no consistency filter. threshold: pairs with a lower cosine are
    rejected. percentile: this percentage of the captioned videos is rejected.
    """

    threshold: float | None = number(None, at_least=-1, at_most=1, hint="a cosine")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            return
        self.check_cut("quality.consistency")
        self.check_engine("quality.consistency")

    @property
    def embedder(self) -> ModelConfig:
        """The embedder as a `ModelConfig`. There must be one."""
        return self.named("consistency")


CONTENT_THRESHOLDS = {
    "text_overlay": text.THRESHOLD,
    "borders": borders.THRESHOLD,
    "blur": exposure.BLUR_THRESHOLD,
    "darkness": exposure.DARKNESS_THRESHOLD,
    "slideshow": slideshow.THRESHOLD,
}


@dataclass(frozen=True, kw_only=True)
class ContentFilterConfig:
    """Where a filter on the content of videos cuts. Without both options it is off.

    threshold: videos with a higher score are rejected; default: the threshold in the documentation. percentile:
    this percentage of the videos is rejected.
    """

    threshold: float | Literal["default"] | None = None
    percentile: float | None = number(None, at_least=0, below=100)


@dataclass(frozen=True, kw_only=True)
class BordersConfig(ContentFilterConfig):
    """Where the filter on borders cuts, and what it does with videos above the threshold.

    threshold: videos with a higher score have borders; default: the threshold in the documentation. percentile:
    this percentage of the videos has borders. action: reject the videos, or crop the borders off all frames that
    are stored of them.
    """

    action: Literal["reject", "crop"] = "reject"


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ModelReference, CutConfig):
    """An image classifier, or a regression model with one output, and where its filter cuts. Off without a model.

    model: a folder in the Hugging Face layout with safetensors, a URI or a hub id; transformers must have its
    architecture, since no code of the model is run. label: the one whose probability is the score; not needed for a
    model with one output. threshold: of the score. percentile: this percentage of the videos is rejected.
    """

    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class ContentConfig:
    """Filters on what the pictures of a video show. Each is off unless it has a threshold or a percentile, and
    those with a model also need its name.

    text_overlay: the share of the picture that burnt-in text covers. borders: the share that bars of one color
    cover. blur: of the sharpest edges, in pixels of the stored frames. darkness: of the brightest parts, 0 to 1.
    slideshow: the share of frames in shots without motion. nsfw: by a model, of the worst frame; videos above the
    threshold are rejected. aesthetic: by a model, the mean of the frames; videos below the threshold are rejected.
    """

    text_overlay: ContentFilterConfig = field(default_factory=ContentFilterConfig)
    borders: BordersConfig = field(default_factory=BordersConfig)
    blur: ContentFilterConfig = field(default_factory=ContentFilterConfig)
    darkness: ContentFilterConfig = field(default_factory=ContentFilterConfig)
    slideshow: ContentFilterConfig = field(default_factory=ContentFilterConfig)
    nsfw: ClassifierConfig = field(default_factory=ClassifierConfig)
    aesthetic: ClassifierConfig = field(default_factory=ClassifierConfig)

    def __post_init__(self) -> None:
        for name, cut in self.cuts.items():
            cut.check_cut(f"quality.content.{name}")
        check(
            self.borders.action == "reject" or "borders" in self.cuts,
            f"quality.content.borders.action={self.borders.action}: give a threshold or a percentile as well",
        )

    def identity(self) -> dict[str, Any]:
        """The options of the filters in use, as plain values."""
        parts = {name: asdict(cut) for name, cut in self.cuts.items()}
        if self.borders.action == "crop":
            parts["borders"]["action"] = "crop"
        return parts

    @property
    def cuts(self) -> dict[str, CutConfig]:
        """Where the filters in use cut, by name, in the order in which they are applied."""
        cuts: dict[str, CutConfig] = {}
        for name, default in CONTENT_THRESHOLDS.items():
            given: ContentFilterConfig = getattr(self, name)
            if given.threshold is not None or given.percentile is not None:
                threshold = default if given.threshold == "default" else given.threshold
                cuts[name] = CutConfig(threshold=threshold, percentile=given.percentile)
        return cuts | self.classifiers

    @property
    def classifiers(self) -> dict[str, ClassifierConfig]:
        """The models of the filters in use that have one, by the filter's name."""
        both = {"nsfw": self.nsfw, "aesthetic": self.aesthetic}
        return {name: config for name, config in both.items() if config.model is not None}


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Stage 1 of V-SynFlow (arXiv:2510.27571, section 3.1): the filters and their thresholds.

    rectify: drop raw captions that describe nothing. motion_threshold: videos with a lower motion
    score are static. near_duplicate_threshold: videos with closer signatures are duplicates; 0:
    only exact copies are. semantic_duplicate_threshold: of videos whose vectors have a higher cosine only
    the earliest stays; needs consistency.model, which embeds them; None: the filter is off.
    """

    rectify: bool = True
    motion_threshold: float = number(motion.THRESHOLD, at_least=0, hint="0 switches the filter off")
    near_duplicate_threshold: float = number(
        signature.THRESHOLD, at_least=0, hint="0 switches the filter off"
    )
    semantic_duplicate_threshold: float | None = number(None, above=-1, at_most=1, hint="a cosine")
    content: ContentConfig = field(default_factory=ContentConfig)
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "quality")
        check(
            not self.has_vectors or self.consistency.model is not None,
            f"quality.semantic_duplicate_threshold={self.semantic_duplicate_threshold}: vectors are those of "
            "quality.consistency.model; name an embedder there (with threshold -1 it rejects no caption)",
        )

    @property
    def has_vectors(self) -> bool:
        """Whether the vectors of the videos are stored, because semantic duplicates are compared by them."""
        return self.semantic_duplicate_threshold is not None


_VLLM_OPTIONS = ("revision", "tensor_parallel_size", "engine_args")
_ENDPOINT_OPTIONS = ("url", "video_as")
# They may change between two runs in the same folder.
_ENDPOINT_LIMITS = (
    "key_variable", "concurrency", "requests_per_minute", "max_cost", "price_per_million_prompt_tokens",
    "price_per_million_output_tokens",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(ModelReference):
    """The vision-language model that writes captions: its engine, name, loading, sampling and limits.

    engine: vllm runs the model in the actors, openai asks an OpenAI-compatible chat endpoint. model: for
    openai, the model's name at the endpoint. tensor_parallel_size: number of GPUs that one engine
    spans. temperature: of the first attempt. top_p: share of the probability mass that tokens are sampled
    from.

    The other options are of openai. url: of the endpoint, ending in /v1. key_variable: the environment
    variable with its key, on every node. video_as: how the endpoint gets a video: video, its frames as one
    video in the form of vLLM, or images, for an endpoint that takes no video. concurrency: requests of one
    actor at the same time. requests_per_minute: of all actors together, retries included; each has an
    equal share of it. max_cost: the job ends when all answers of the output folder, those of earlier runs
    included, have cost so much; the unit is that of the prices. price_per_million_prompt_tokens,
    price_per_million_output_tokens: for max_cost and for run.json.
    """

    model: str = field()
    engine: Literal["vllm", "openai"] = "vllm"
    tensor_parallel_size: int = number(1, at_least=1)
    engine_args: dict[str, Any] = field(default_factory=dict)  # passed to vLLM's engine unchanged
    max_attempts: int = number(4, at_least=1)  # per prompt, with a new seed each time
    temperature: float = number(0.7, at_least=0, at_most=2)
    # From the second attempt on, if `temperature` is lower.
    retry_temperature: float = number(0.7, at_least=0, at_most=2)
    top_p: float = number(0.9, above=0, at_most=1)
    max_tokens: int = number(1024, at_least=1)  # per answer: five captions as JSON
    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    video_as: VideoAs = "video"
    concurrency: int = number(8, at_least=1)
    requests_per_minute: float | None = number(None, above=0)
    max_cost: float | None = number(None, above=0)
    price_per_million_prompt_tokens: float | None = number(None, at_least=0)
    price_per_million_output_tokens: float | None = number(None, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            bool(self.model), "captioner.model='': name a model folder, a hub id, or a model of the endpoint"
        )
        check_numbers(self, "captioner")
        check_url("captioner", self.engine, self.url)
        others = _VLLM_OPTIONS if self.engine == "openai" else (*_ENDPOINT_OPTIONS, *_ENDPOINT_LIMITS)
        unused = [
            option.name for option in fields(self) if option.name in others and not _is_default(self, option)
        ]
        check(not unused, f"captioner.{', '.join(unused)}: the engine {self.engine} takes none; leave it out")
        check(
            (self.price_per_million_prompt_tokens is None) == (self.price_per_million_output_tokens is None),
            "captioner.price_per_million_prompt_tokens, price_per_million_output_tokens: give both, or none",
        )
        check(
            self.max_cost is None or self.has_prices,
            f"captioner.max_cost={self.max_cost}: needs price_per_million_prompt_tokens and "
            "price_per_million_output_tokens",
        )
        for name in ("model", "revision", "tensor_parallel_size"):
            check(name not in self.engine_args, f"captioner.engine_args.{name}: set captioner.{name} instead")

    @property
    def has_prices(self) -> bool:
        """Whether the cost of answers is known."""
        return self.price_per_million_prompt_tokens is not None

    def cost(self, prompt_tokens: int, output_tokens: int) -> float | None:
        """Return what so many tokens cost; None without prices."""
        prices = self.price_per_million_prompt_tokens, self.price_per_million_output_tokens
        if prices[0] is None or prices[1] is None:
            return None
        return (prompt_tokens * prices[0] + output_tokens * prices[1]) / 1e6

    def identity(self) -> dict[str, Any]:
        """The options that determine the answers; for vllm, those that it had before there was openai."""
        left_out = {*_ENDPOINT_LIMITS}
        if self.engine == "vllm":
            left_out |= {"engine", *_ENDPOINT_OPTIONS}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def _is_default(config: CaptionerConfig, option: "Field[Any]") -> bool:
    default = option.default if option.default_factory is MISSING else option.default_factory()
    return bool(getattr(config, option.name) == default)


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """A second look of the captioner at the video, to find captions that say what it does not show.

    threshold: captions of videos with less support, from 0 to 1, are dropped; None: no second look.
    """

    threshold: float | None = number(None, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_numbers(self, "audit")


@dataclass(frozen=True, kw_only=True)
class EnrichConfig:
    """Stage 2 of V-SynFlow: every video is captioned (prompt 1), and some reference frames (prompt 4)."""

    frames: int = number(1, at_least=0)  # reference frames captioned per video

    def __post_init__(self) -> None:
        check_numbers(self, "enrich")


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """Stage 3 of V-SynFlow: the share of videos that get a composed query (prompts 2 and 3)."""

    image_share: float = number(1.0, at_least=0, at_most=1)  # Table 7 needs 89 : 879 of them
    clip_share: float = number(1.0, at_least=0, at_most=1)  # Table 7 needs 35 : 879 of them

    def __post_init__(self) -> None:
        check_numbers(self, "extend")


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """How many pairs of each task are made (arXiv:2510.27571, Table 7).

    quotas: number of pairs by task. scale: factor on the quotas; None: the largest that the corpus
    can fill. captions_per_video: captions, of five, that make a T2V pair each; more extend a small
    corpus. long_seconds: rich captions of videos this long are long-context pairs (domain LC).
    """

    quotas: dict[str, int] = field(
        default_factory=lambda: {task.value: pairs for task, pairs in UVRD_PAIRS.items()}
    )
    scale: float | None = number(None, above=0)
    captions_per_video: int = number(1, at_least=1, at_most=5, hint="with 4 or 5 there is no T2T pair")
    long_seconds: float = number(30.0, above=0)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.quotas) - set(UVRD_PAIRS))
        check(not unknown, f"assemble.quotas={unknown}: unknown task; use {', '.join(UVRD_PAIRS)}")
        for task, count in self.quotas.items():
            check(count >= 0, f"assemble.quotas.{task}={count}: a number of pairs; use 0 for none")
        check_numbers(self, "assemble")


@dataclass(frozen=True, kw_only=True)
class SynthesisResources:
    """Resources by stage. shots: a batch is one video, which may take as long as `shots.wall_clock_s`."""

    shots: StageResources = field(default_factory=lambda: StageResources(batch_size=1, stall_seconds=7500.0))
    media: StageResources = field(default_factory=StageResources)
    content: StageResources = field(default_factory=StageResources)
    classifiers: ModelResources = field(default_factory=ModelResources)
    consistency: ModelResources = field(default_factory=ModelResources)
    captioner: ModelResources = field(default_factory=ModelResources)


@dataclass(frozen=True, kw_only=True)
class CustomStageConfig:
    """A filter of the user's own among the stages of synthesis (docs/extending.md).

    name: in run.json, rejects.lance and the report. after: the stage that it follows. worker: its
    class as "module:Class"; options: keyword arguments of the class.
    """

    name: str
    after: str
    worker: str
    options: dict[str, Any] = field(default_factory=dict)
    resources: StageResources = field(default_factory=StageResources)

    def __post_init__(self) -> None:
        check_name("stages", self.name)
        module, _, name = self.worker.partition(":")
        check(
            bool(module and name),
            f"stages.{self.name}.worker={self.worker!r}: name a class as module:Class, e.g. my_filters:MyFilter",
        )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Sizes of the HTML report."""

    samples: int = 24  # videos shown with their frames and captions
    rejects: int = 24  # rejected videos shown


_NO_IDENTITY = (
    "output", "work", "resources", "commit_seconds", "pipeline", "parts_ahead", "limit", "gpu_hour_price", "report",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Make UVRD training pairs from raw videos with noisy captions (jobs/synthesize.py).

    input: a manifest (gve_ray.inputs.table's forms, with uri, video_id?, caption?), a folder or a
    glob. output: the run's folder: assets.lance, rejects.lance, annotations.lance, uvrd/, run.json,
    report.html. seed: of captions, profiles, samples and pairs. stages: filters of your own.
    captioner: see its section. work: the folder of decoded and scored videos, before filtering;
    None: output/work. It may be the folder of an earlier run; with another threshold or a longer
    manifest, its videos are not decoded again. commit_seconds: finished rows become visible at
    least this often. pipeline: streamed runs all stages at the same time, each on another part of the
    videos; staged runs one stage after the other, on all videos. part_videos: largest number of videos
    of a part; an input with no more of them is staged. parts_ahead: number of parts that may be begun
    while the one before them is not finished. limit: a trial run on so many videos, drawn with the seed;
    in the end it says what the whole input would take. The same command without it continues with the
    others. gpu_hour_price: for that estimate.
    """

    job: ClassVar[str] = "synthesize"
    input: str
    output: str
    captioner: CaptionerConfig
    work: str | None = None
    seed: int = 42
    media: MediaConfig = field(default_factory=MediaConfig)
    shots: ShotsConfig = field(default_factory=ShotsConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    enrich: EnrichConfig = field(default_factory=EnrichConfig)
    extend: ExtendConfig = field(default_factory=ExtendConfig)
    assemble: AssembleConfig = field(default_factory=AssembleConfig)
    stages: list[CustomStageConfig] = field(default_factory=list)
    resources: SynthesisResources = field(default_factory=SynthesisResources)
    commit_seconds: float = number(30.0, above=0)
    pipeline: Literal["streamed", "staged"] = "streamed"
    part_videos: int = number(10_000, at_least=1)
    parts_ahead: int = number(2, at_least=1)
    limit: int | None = number(None, at_least=1)
    gpu_hour_price: float | None = number(None, at_least=0)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "input", "output", "work")
        check(bool(self.input), "input='': name a folder, a glob or a manifest of videos")
        check(bool(self.output), "output='': name the folder that the run writes")
        check_numbers(self)
        engine_gpus, actor_gpus = self.captioner.tensor_parallel_size, self.resources.captioner.num_gpus
        check(
            self.captioner.engine == "vllm" or actor_gpus in (AUTO, 0),
            f"resources.captioner.num_gpus={actor_gpus}: an actor that asks an endpoint needs none; leave it out",
        )
        film_seconds, stall_seconds = self.shots.wall_clock_s, self.resources.shots.stall_seconds
        check(
            not self.shots.is_on or stall_seconds == -1 or film_seconds < stall_seconds,
            f"shots.wall_clock_s={film_seconds:g}, resources.shots.stall_seconds={stall_seconds:g}: a film may take "
            "longer than the stage waits for one; raise stall_seconds",
        )
        check(
            actor_gpus in (AUTO, 0, engine_gpus) or (engine_gpus == 1 and float(actor_gpus) < 1),
            f"resources.captioner.num_gpus={actor_gpus}, captioner.tensor_parallel_size={engine_gpus}: "
            f"an actor holds the GPUs its engine spans; set num_gpus to {engine_gpus}",
        )

    def parts(self, videos: int) -> int:
        """Return the number of parts in which so many videos run."""
        return 1 if self.pipeline == "staged" else max(1, math.ceil(videos / self.part_videos))

    def identity(self, videos: int = 0) -> dict[str, Any]:
        """The part of the config that determines the content of the output, as plain values.

        Paths of the output, resources and commit intervals are not part of it, so a run may resume
        on a larger cluster. videos: number of videos of the input; the size of parts matters only if there
        are several.
        """
        parts = asdict(self) | {"captioner": self.captioner.identity(), "media": self.media.identity()}
        for name in _NO_IDENTITY:
            del parts[name]
        if self.parts(videos) == 1:
            del parts["part_videos"]
        if not self.shots.is_on:  # as it was before there were shots
            del parts["shots"]
        for stage in parts["stages"]:
            del stage["resources"]
        # Runs without these options keep the identity that they had before the options existed.
        if self.audit.threshold is None:
            del parts["audit"]
        if not parts["stages"]:
            del parts["stages"]
        quality = parts["quality"]
        quality["content"] = self.quality.content.identity()
        if not quality["content"]:
            del quality["content"]
        if not self.quality.has_vectors:
            del quality["semantic_duplicate_threshold"]
        return parts
