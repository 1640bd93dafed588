"""The config of the index job."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import (
    ModelConfig,
    ModelResources,
    SequenceSettings,
    StageResources,
    check,
    check_numbers,
    check_url,
    expand_paths,
    number,
    without_password,
)
from gve_ray.media import Limits
from gve_ray.search import IndexOptions

# As a share of a window. At 0.9 each second of video is in ten windows; close to 1, in millions.
_MAX_OVERLAP = 0.9


@dataclass(frozen=True, kw_only=True)
class SegmentsConfig:
    """The unit of search: whole videos, windows of equal length, or scenes between cuts.

    All values are seconds, except `threshold`. mode: the unit. seconds, overlap: length and overlap
    of windows. threshold: minimum score of a cut, 0 to 100 (see gve_ray.media.video.scenes).
    longest: longer scenes are divided into equal parts. shortest: a shorter scene is merged into
    the one before, as is a shorter last window.
    """

    mode: Literal["whole", "windows", "scenes"] = "windows"
    seconds: float = number(10.0, above=0)
    overlap: float = 2.0
    threshold: float = number(10.0, above=0, below=100)
    shortest: float = 1.0
    longest: float = 30.0

    def __post_init__(self) -> None:
        check_numbers(self, "segments")
        check(
            0 <= self.overlap <= _MAX_OVERLAP * self.seconds + 1e-9,
            f"segments.overlap={self.overlap}: use 0 to {_MAX_OVERLAP * self.seconds:g}, {_MAX_OVERLAP:.0%} of "
            f"segments.seconds={self.seconds:g}; with more, each second of video is in too many windows",
        )
        check(
            0 <= self.shortest <= self.longest / 2,
            f"segments.shortest={self.shortest}, longest={self.longest}: use 0 or more, at most half of longest",
        )


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """The JPEG pictures stored for each segment: a poster, and a strip of frames side by side.

    They are made from the embedded frames and never enlarged. poster, strip: the longer side of a
    picture in pixels. strip_frames: number of frames in a strip. quality: of the JPEG encoding.
    """

    poster: int = number(320, at_least=16, at_most=4096)
    strip: int = number(160, at_least=16, at_most=4096)
    strip_frames: int = number(4, at_least=1, at_most=64)
    quality: int = number(80, at_least=1, at_most=100)

    def __post_init__(self) -> None:
        check_numbers(self, "pictures")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files are read and checked.

    strict: decode every frame once, and reject a file with any damage. Otherwise, unless the
    segments are scenes, only the data for the sampled frames is decoded, and damage may not be
    detected.
    """

    strict: bool = True
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """Speech recognition. It is off unless `url` or `function` is set.

    url: of an OpenAI-compatible endpoint with /audio/transcriptions, ending in /v1. model: its name there.
    key_variable: the environment variable with the key of the endpoint, on every node. function: instead of an
    endpoint, a function of your own as "module:function" (docs/jobs/indexing.md). language: of all videos, as a
    code such as en; None: the model finds it out. subtitled: also transcribe videos that have subtitles.
    seconds: length of the pieces of sound; 300 take 9.6 MB. concurrency: videos of one actor at the same time.
    """

    url: str | None = None
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    function: str | None = None
    language: str | None = None
    subtitled: bool = False
    seconds: float = number(
        300.0, at_least=10, at_most=750, hint="25 MB, the usual limit of an upload, are 780 s"
    )
    concurrency: int = number(4, at_least=1, at_most=64)

    def __post_init__(self) -> None:
        check_numbers(self, "words.speech")
        check(
            self.url is None or self.function is None,
            f"words.speech.url={without_password(self.url)!r}, function={self.function!r}: give one of them",
        )
        if self.url is not None:
            check_url("words.speech", "openai", self.url)
            check(bool(self.model), "words.speech.model='': name the model of the endpoint")
        if self.function is not None:
            module, _, name = self.function.partition(":")
            check(
                bool(module and name),
                f"words.speech.function={self.function!r}: name a function as module:function",
            )
            check(not self.model, f"words.speech.model={self.model!r}: belongs to an endpoint; leave it out")

    @property
    def name(self) -> str | None:
        """What transcribes: the name of the model or of the function; None if nothing does."""
        return self.model if self.url is not None else self.function


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """Which words can be searched, besides what the pictures show.

    subtitles: text tracks in the files, and .srt and .vtt files next to them. names: words of the files'
    names. captions: the columns `caption` and `transcript` of a manifest. speech: see its section.
    """

    subtitles: bool = True
    names: bool = True
    captions: bool = True
    speech: SpeechConfig = field(default_factory=SpeechConfig)


@dataclass(frozen=True, kw_only=True)
class PollingConfig:
    """How `watch` looks for changes of the input.

    seconds: between two looks; more if a look takes long. settle_seconds: for how long a new or changed file
    must have stayed the same before it is read, so that a file in writing waits. most_removed: the share of the
    videos that may leave the index at once. If more are gone, as after a disk was detached, all of them stay,
    until `gve index` runs without `watch`.
    """

    seconds: float = number(5.0, above=0)
    settle_seconds: float = number(5.0, at_least=0)
    most_removed: float = number(0.5, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_numbers(self, "polling")


@dataclass(frozen=True, kw_only=True)
class IndexResources:
    """Resources of the stages. probe: of those that read files, for their segments, subtitles and speech."""

    probe: StageResources = field(default_factory=lambda: StageResources(batch_size=4))
    embed: ModelResources = field(default_factory=lambda: ModelResources(batch_size=16))


@dataclass(frozen=True, kw_only=True)
class IndexConfig(SequenceSettings):
    """Config of jobs/index.py, which builds an index of segments from a folder of videos.

    input: a folder, glob or manifest of videos, as for jobs/synthesize.py; further columns of a
    manifest become fields to filter by. output: the folder of the index, on a disk that all nodes
    share or as a URI. A second run with the same folder processes only what has changed. model: the
    embedder. watch: keep running, and take changes of the input into the index, until Ctrl-C or SIGTERM.
    commit_seconds: how often finished rows are committed.

    If the model, its settings, `segments`, `pictures` or `media` change, another folder is needed.
    If `search` or `words` changes, what depends on it is rebuilt in the same folder.
    """

    job: ClassVar[str] = "index"
    input: str
    output: str
    model: ModelConfig
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    media: ReadingConfig = field(default_factory=ReadingConfig)
    search: IndexOptions = field(default_factory=IndexOptions)
    words: WordsConfig = field(default_factory=WordsConfig)
    watch: bool = False
    polling: PollingConfig = field(default_factory=PollingConfig)
    resources: IndexResources = field(default_factory=IndexResources)
    commit_seconds: float = number(10.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_paths(self, "input", "output")
        check(bool(self.input), "input='': name a folder, a glob or a manifest of videos")
        check(
            bool(self.output),
            "output='': name the index's folder, on a disk that all nodes share or as a URI",
        )
        check(
            self.search.kind != "milvus" or self.search.uri is not None or "://" not in self.output,
            f"search.kind=milvus, output={self.output!r}: without a server, it needs a local disk for its file; "
            "give search.uri, or another kind",
        )

    def identity(self) -> dict[str, Any]:
        """Return the part of the config that determines the segments and their pictures.

        The model and its settings are not included: `identify` identifies them by content.
        """
        parts = asdict(self)
        return {name: parts[name] for name in ("segments", "pictures", "media")}
