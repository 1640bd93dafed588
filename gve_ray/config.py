"""Load the config of a job from YAML and dotted command-line overrides, and validate it.

    config = load_config(SynthesisConfig, ["--config", "demo.yaml", "--media.frames", "6"], prog="gve")

`--config` takes a path or the name of one of the job's recipes (gve_ray/recipes/<job>);
`--print_config` shows the result. A config is sent to Ray workers and stored in run.json, so it
holds plain values only.

This module also has the sections that several jobs share: video settings, models and the resources
of actors. The range of a number is declared next to its default:

    top_p: float = number(0.9, above=0, at_most=1)

and checked by `check_numbers`, which each section calls in its `__post_init__`.
"""

import operator
import os
import re
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol, TypeVar

from gve_ray.conventions import find_convention

PACKAGE_SCHEME = "package://"
_NAME = re.compile(r"[\w.-]+(?: [\w.-]+)*")  # for names that become file names: no slashes, no leading spaces
MIB = 2**20
GIB = 2**30
ACCELERATOR = "accelerator_type:"  # Ray's resource name for a type of GPU starts with this
AUTO: Final = "auto"  # a number that `preflight.fit_to_cluster` chooses once the cluster is known
Auto = Literal["auto"]

T = TypeVar("T")
_BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
_ENGINE_OPTIONS = (  # an option of ModelConfig, the engines that have it, and what to do with others
    ("adapter", ("torch", "vllm"), "export a merged model"),
    ("rescale", ("torch",), "only the torch engine can change the settings of weights"),
    ("compile", ("torch",), "it decides itself whether to compile; leave it out"),
    ("engine_args", ("vllm", "sentence-transformers"), "leave them out"),
    ("end_instructions", ("sentence-transformers", "openai"), "leave it out"),
    ("allow_remote_code", ("sentence-transformers", "frames"), "leave it out"),
)


# ---- Validation


def check(is_valid: bool, message: str) -> None:
    """Raise ValueError with this message unless a value is valid."""
    if not is_valid:
        raise ValueError(message)


def number(default: T, *, hint: str = "", **bounds: float) -> T:
    """Return a dataclass field whose value `check_numbers` checks; None and "auto" are always allowed.

    bounds: any of at_least, above, at_most and below. hint: what the number is, or what a special
    value means, for the error message.
    """
    result: T = field(default=default, metadata={"bounds": bounds, "hint": hint})
    return result


def check_numbers(config: Any, section: str = "") -> None:
    """Check all fields of a dataclass that `number` made. Raises ValueError naming option and range.

    section: the dotted name of the config's section, which precedes the options' names.
    """
    for option in fields(config):
        value, bounds = getattr(config, option.name), option.metadata.get("bounds", {})
        if value in (None, AUTO) or all(_BOUNDS[kind](value, bound) for kind, bound in bounds.items()):
            continue
        name = f"{section}.{option.name}" if section else option.name
        hint = f"{option.metadata['hint']}; " if option.metadata["hint"] else ""
        allowed = " and ".join(f"{kind.replace('_', ' ')} {bound:g}" for kind, bound in bounds.items())
        raise ValueError(f"{name}={value}: {hint}use a number that is {allowed}")


def check_url(where: str, engine: str, url: str | None) -> None:
    """Raise ValueError unless there is an endpoint's URL exactly if the engine is openai.

    where: the config section. The URL is stored with results, so it must not contain a password.
    """
    harmless = without_password(url)
    option = f"{where}.url={harmless!r}"
    check(
        (url is not None) == (engine == "openai"),
        f"{option}, engine={engine}: openai needs a url, others none",
    )
    if url is not None:
        check(url.startswith(("http://", "https://")), f"{option}: use http:// or https://")
        check(
            url == harmless and not set("?#") & set(url),
            f"{option}: leave out user, password and what follows a ? or #, because the url is stored with the "
            f"results; the key is read from the environment variable of {where}.key_variable",
        )


def without_password(url: str | None) -> str | None:
    """Return a URL with `***` in place of user and password."""
    return url and re.sub(r"(?<=//)[^/?#]*@", "***@", url)


def check_name(option: str, name: str) -> None:
    """Raise ValueError unless a name can be a file name. option: the list whose entry has the name."""
    check(bool(_NAME.fullmatch(name)), f"{option}: name={name!r}: use letters, digits, '.', '-' and '_'")


def check_frame_count(frames: int, option: str = "frames") -> None:
    """Raise ValueError unless `frames` is a positive even number."""
    lower = max(2, frames - frames % 2)
    check(
        frames >= 2 and frames % 2 == 0,
        f"{option}={frames}: Qwen2.5-VL needs an even number of frames (temporal patch 2); "
        f"use {lower} or {lower + 2}",
    )


def expand_home(path: str) -> str:
    """Replace a leading `~` or `~user` by the home folder. URIs and other names are returned unchanged."""
    return path if "://" in path else os.path.expanduser(path)


def expand_paths(config: Any, *names: str) -> None:
    """Expand the home folder in these fields of a frozen config, in its `__post_init__`, if they are set."""
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, expand_home(value))


# ---- Sections that several jobs share


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """How many frames of a video are used, and how large they are.

    frames: sampled uniformly; even, because two frames make one temporal patch. max_pixels,
    min_pixels: pixel budget of one frame or image; 28*28 pixels are one visual token.
    """

    frames: int = 8
    max_pixels: int = 200 * 28 * 28  # arXiv:2510.27571, section 4: at most 200 visual tokens per frame
    min_pixels: int = 4 * 28 * 28

    def __post_init__(self) -> None:
        self.check_video()

    def check_video(self, section: str = "", least_pixels: int = 1) -> None:
        """Raise ValueError if no model can have these settings. section: ends in a dot if there is one."""
        check_frame_count(self.frames, f"{section}frames")
        check(
            least_pixels <= self.min_pixels <= self.max_pixels,
            f"{section}min_pixels={self.min_pixels}, {section}max_pixels={self.max_pixels}: "
            f"need {least_pixels} <= min_pixels <= max_pixels",
        )


@dataclass(frozen=True, kw_only=True)
class SequenceSettings(VideoSettings):
    """Video settings, and the length limit of a sequence.

    max_tokens: longer text is cut at its end, but the closing tokens of the turn stay.
    """

    max_tokens: int = number(8192, at_least=16, hint="the chat template alone needs about 16 tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self)

    @property
    def sequence_settings(self) -> dict[str, Any]:
        """The values that make an `EmbedderSettings`."""
        return {option.name: getattr(self, option.name) for option in fields(SequenceSettings)}


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """Names the weights of a model.

    model: a folder (path, URI or `package://`, a folder inside gve_ray) or a hub id; `resolve_model`
    resolves it where the model is loaded. revision: commit, tag or branch of a hub id.
    """

    model: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        expand_paths(self, "model")


@dataclass(frozen=True, kw_only=True)
class AdaptedModel(ModelReference):
    """Names the weights of a model and of a LoRA adapter for it.

    adapter: a PEFT folder (path, URI or hub id).
    """

    adapter: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths(self, "adapter")


VideoAs = Literal["video", "images"]
Engine = Literal["torch", "vllm", "sentence-transformers", "frames", "openai"]


@dataclass(frozen=True, kw_only=True)
class EmbedderModel(AdaptedModel):
    """An embedding model with the engine that runs it.

    convention: the name of a published model in gve_ray/conventions (`gve models` lists them); it
    fills in the options that are left at their defaults. engine: torch and vllm run GVE and
    checkpoints of the same architecture; sentence-transformers runs its own folders and ids; frames
    runs image-text models such as CLIP and SigLIP on frames; openai calls an endpoint. model: for
    openai, the model's name at the endpoint. adapter: torch and vllm only. dtype: None selects
    bfloat16 on a GPU and on a processor that computes it natively, else float32.

    default_instruction: of items without an instruction; None: that saved with the weights, else that
    of the model. end_instructions: add a full stop to an instruction that ends without a punctuation
    mark (sentence-transformers and openai; the others follow the model). url: of the endpoint, ending
    in /v1 (openai only). key_variable: the environment variable with its key. video_as: how an
    endpoint gets a video: video, its frames as one video in the form of vLLM, or images, for an
    endpoint that takes no video (openai only). engine_args: passed to vllm.LLM or SentenceTransformer.
    allow_remote_code: run Python code that comes with the weights (sentence-transformers and frames
    only).
    """

    convention: str | None = None
    engine: Engine = "torch"
    dtype: str | None = None
    default_instruction: str | None = None
    end_instructions: bool = False
    url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    video_as: VideoAs = "video"
    engine_args: dict[str, Any] = field(default_factory=dict)
    allow_remote_code: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.convention is not None:
            convention = find_convention(self.convention)
            options = convention.options()
            if self.model:  # a copy of the weights; the revision is that of the hub's
                del options["revision"]
            for name, value in options.items():
                if getattr(self, name) == type(self).__dataclass_fields__[name].default:
                    object.__setattr__(self, name, value)
            convention.check_remote_code(allowed=self.allow_remote_code)

    def named(self, name: str) -> "ModelConfig":
        """Return the model as a `ModelConfig` of this name. Raises ValueError if it names no weights."""
        options = {option.name: getattr(self, option.name) for option in fields(EmbedderModel)}
        return ModelConfig(name=name, **options)

    def check_engine(self, where: str) -> None:
        """Raise ValueError for an option that the engine does not have. where: the config section."""
        for option, engines, advice in _ENGINE_OPTIONS:
            is_allowed = not getattr(self, option, None) or self.engine in engines
            check(is_allowed, f"{where}.{option}: the engine {self.engine} takes none; {advice}")
        check_url(where, self.engine, self.url)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(EmbedderModel):
    """One model of an evaluation, of an index or of the service.

    name: used in results and file names; that of the convention by default. dimension: keep so many of
    the first dimensions of each vector, divided by their norm, as in Matryoshka embeddings; None: all.
    rescale: allow other frames and pixels than in training (test-time scaling; torch only). compile:
    compile the layers on a GPU, which is faster (torch only).
    """

    name: str = ""
    model: str = ""
    dimension: int | None = number(None, at_least=1)
    rescale: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name and self.convention is not None:
            object.__setattr__(self, "name", self.convention)
        check_name("models", self.name)
        where = f"models.{self.name}"
        check(bool(self.model), f"{where}.model='': name a folder or hub id")
        check_numbers(self, where)
        self.check_engine(where)


@dataclass(frozen=True, kw_only=True)
class ActorResources:
    """What one actor reserves with Ray. `auto` suits the cluster (gve_ray/preflight/fit.py).

    num_cpus, num_gpus: cores and GPUs; may be fractions. memory: bytes; auto: what the weights and
    the process need. accelerator_type: as Ray names it, e.g. A100.
    """

    num_cpus: float | Auto = number(1.0, at_least=0)
    num_gpus: float | Auto = number(0.0, at_least=0)
    memory: int | Auto = number(AUTO, at_least=0)
    accelerator_type: str | None = None

    count_option: ClassVar[str]  # the name of the option with the number of actors
    most_option: ClassVar[str | None] = None  # and of the option with the number it may grow to

    @property
    def count(self) -> int | None:
        """The number of actors; None while it is `auto`."""
        count = getattr(self, self.count_option)
        return None if count == AUTO else count

    @property
    def demands(self) -> dict[str, float]:
        """What one actor reserves, by Ray's resource names, without zeros and `auto`."""
        amounts = self._amounts()
        if self.accelerator_type:
            # A node has 1 of its accelerator type, which all of its actors share.
            amounts[f"{ACCELERATOR}{self.accelerator_type}"] = 0.001
        return {kind: float(amount) for kind, amount in amounts.items() if amount not in (AUTO, 0)}

    @property
    def undecided(self) -> frozenset[str]:
        """The resources that are still `auto`, by Ray's names."""
        return frozenset(kind for kind, amount in self._amounts().items() if amount == AUTO)

    def _amounts(self) -> dict[str, float | Auto]:
        return {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory}


@dataclass(frozen=True, kw_only=True)
class StageResources(ActorResources):
    """The resources of one stage: a pool of actors, and what each of them reserves.

    actors: size of the pool; auto takes all the cluster has, and more if it grows.
    """

    count_option: ClassVar[str] = "actors"
    most_option: ClassVar[str | None] = "max_actors"
    actors: int | Auto = number(AUTO, at_least=1)
    max_actors: int = number(0, at_least=0)  # the pool may grow to this while there is work; 0: it does not
    batch_size: int = number(16, at_least=1)  # rows per call
    concurrency: int = number(1, at_least=1)  # simultaneous calls; above 1 the worker must be thread-safe
    max_attempts: int = number(3, at_least=1)  # per row: calls that raise, or worker deaths with it alone
    max_errors_in_a_row: int = number(64, at_least=1)  # the stage fails when this many rows in a row raise
    stall_seconds: float = 1800.0  # the stage fails when no batch is done for so long; -1: never
    wait_for_nodes: bool = False  # on an autoscaling cluster: do not fail at once when no node fits

    def __post_init__(self) -> None:
        check_numbers(self, "resources")
        seconds = self.stall_seconds
        check(
            seconds > 0 or seconds == -1,
            f"resources.stall_seconds={seconds}: use positive seconds, or -1 for never",
        )


@dataclass(frozen=True, kw_only=True)
class ModelResources(StageResources):
    """The resources of a stage whose actors hold a model each: on GPUs if there are any, else on CPUs."""

    num_cpus: float | Auto = number(AUTO, at_least=0)
    num_gpus: float | Auto = number(AUTO, at_least=0)


# ---- Loading


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
    parser = _parser(kind, prog=prog, reads_files=True)
    given = _named_models(sys.argv[1:] if args is None else args)
    given = _with_values(given, _switches(kind))
    try:
        given = _find_recipes(given, kind.job)
    except FileNotFoundError as error:
        parser.error(str(error))
    parsed = parser.parse_args(given)
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


@cache
def _parser(kind: type[Any], *, reads_files: bool = False, **options: Any) -> Any:
    """Build the parser of a config class, which takes half of the time of reading a config.

    reads_files: whether it has the option `--config`.
    """
    from jsonargparse import ArgumentParser  # imported here because Ray workers never parse

    # argparse would print every option above each error and push the error off the screen
    usage = "%(prog)s [--config FILE] [--verbose] [--section.option VALUE ...]"
    parser = ArgumentParser(usage=usage, description=kind.__doc__, allow_abbrev=False, **options)
    parser.add_class_arguments(kind, None)
    if reads_files:
        parser.add_argument("--config", action="config", help="YAML file, or the name of a packaged recipe")
    return parser


def recipe_path(name: str, job: str) -> str:
    """Return the path of a YAML file: `name` itself if it exists, or else the job's recipe of that name.

    The suffix may be left out for a recipe. Raises FileNotFoundError for a name that is neither.
    """
    path = expand_home(name)
    if Path(path).is_file():
        return path
    recipes = Path(str(files("gve_ray"))) / "recipes" / job
    packaged = recipes / f"{name.removesuffix('.yaml')}.yaml"
    if not packaged.is_file():
        names = ", ".join(sorted(recipe.name for recipe in recipes.glob("*.yaml")))
        raise FileNotFoundError(
            f"--config {name}: no such file, and no recipe of this name; recipes: {names}"
        )
    return str(packaged)


def _named_models(args: Sequence[str]) -> list[str]:
    """Return the arguments with `--models NAME NAME` as a list of models with these conventions."""
    result: list[str] = []
    rest = list(args)
    while rest:
        result.append(rest.pop(0))
        names: list[str] = []
        while result[-1] == "--models" and rest and _NAME.fullmatch(rest[0]) and not rest[0].startswith("-"):
            names.append(rest.pop(0))
        if names:
            result.append("[" + ", ".join(f"{{convention: {name}}}" for name in names) + "]")
    return result


def _switches(kind: Any) -> set[str]:
    """Return the options of a config class itself, not of its sections, that are true or false."""
    return {f"--{option.name}" for option in fields(kind) if option.type is bool}


def _with_values(args: Sequence[str], switches: Set[str]) -> list[str]:
    """Return the arguments with `true` after each switch that has no value, such as --watch."""
    result: list[str] = []
    for arg, following in zip_longest(args, args[1:], fillvalue="--"):
        result.append(arg)
        if arg in switches and following.startswith("--"):
            result.append("true")
    return result


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

    `package://a/b` becomes that folder of the installed package. Another URI becomes the path of a local copy,
    which is downloaded if necessary. Other names are returned unchanged. Raises FileNotFoundError if the
    folder does not exist, and OSError if it cannot be read.
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
        raise FileNotFoundError(f"model {name!r}: gve_ray has no folder {folder}; check the name")
    return str(folder)
