"""What an index of videos is made of, and what making it asks of the cluster."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from gve_ray.config import LimitsConfig, ModelConfig, StageResources, expand_paths
from gve_ray.search import IndexOptions

_MOST_OVERLAP = 0.9  # of a window: ten windows for each length of one; close to 1, it is millions


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class SegmentsConfig:
    """What is found: whole videos, windows of equal length, or scenes between cuts. All numbers but one are seconds.

    seconds, overlap: of windows. threshold: of a cut's score, 0 to 100 (gve_ray.media.scenes). longest: scenes
    above it are divided evenly. shortest: scenes below it join the one before, and so does a video's last window.
    """

    mode: Literal["whole", "windows", "scenes"] = "windows"
    seconds: float = 10.0
    overlap: float = 2.0
    threshold: float = 10.0
    shortest: float = 1.0
    longest: float = 30.0

    def __post_init__(self) -> None:
        _check(self.seconds > 0, f"segments.seconds={self.seconds}: use a positive number")
        _check(
            0 <= self.overlap <= _MOST_OVERLAP * self.seconds + 1e-9,
            f"segments.overlap={self.overlap}: use 0 to {_MOST_OVERLAP * self.seconds:g}, {_MOST_OVERLAP:.0%} of "
            f"segments.seconds={self.seconds:g}; nearer to it, every second of video is in a great many windows",
        )
        _check(0 < self.threshold < 100, f"segments.threshold={self.threshold}: use above 0, below 100")
        _check(
            0 <= self.shortest <= self.longest / 2,
            f"segments.shortest={self.shortest}, longest={self.longest}: use 0 or more, at most half of longest",
        )


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """What is kept to look at, as JPEG, of each segment: a poster and a strip of frames side by side.

    Made of the frames that are embedded, so never larger than those. poster, strip: the longer side of a
    picture, pixels.
    """

    poster: int = 320
    strip: int = 160
    strip_frames: int = 4
    quality: int = 80

    def __post_init__(self) -> None:
        for name, least, most in (("poster", 16, 4096), ("strip", 16, 4096), ("strip_frames", 1, 64),
                                  ("quality", 1, 100)):  # fmt: skip
            value = getattr(self, name)
            _check(least <= value <= most, f"pictures.{name}={value}: use {least} to {most}")


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files are judged. strict: decode every frame once and refuse a file that is damaged anywhere. Without
    it, and without scenes, only what the sampled frames need is decoded, and damage may go unseen."""

    strict: bool = True
    limits: LimitsConfig = field(default_factory=LimitsConfig)


@dataclass(frozen=True, kw_only=True)
class IndexResources:
    """Resources by stage: looking through the files, and embedding their segments."""

    probe: StageResources = field(default_factory=lambda: StageResources(batch_size=4))
    embed: StageResources = field(default_factory=lambda: StageResources(batch_size=16))


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """jobs/index.py: a folder, glob or manifest of videos in, an index of their segments out.

    input: as of jobs/synthesize.py; further columns of a manifest can be filtered by. output: the index's
    folder, on a disk that all nodes see or as a URI; a second run does only what has changed since. frames, max_pixels,
    min_pixels, max_tokens: as gve_ray.embedder.EmbedderSettings. Another model, other settings, segments,
    pictures or reading need another folder; `search` may change, the index is then built anew.
    """

    job: ClassVar[str] = "index"
    input: str
    output: str
    model: ModelConfig
    frames: int = 8
    max_pixels: int = 200 * 28 * 28
    min_pixels: int = 4 * 28 * 28
    max_tokens: int = 8192
    segments: SegmentsConfig = field(default_factory=SegmentsConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    media: ReadingConfig = field(default_factory=ReadingConfig)
    search: IndexOptions = field(default_factory=IndexOptions)
    resources: IndexResources = field(default_factory=IndexResources)
    commit_seconds: float = 10.0  # finished rows are kept at least this often

    def __post_init__(self) -> None:
        expand_paths(self, "input", "output")
        _check(bool(self.input), "input='': name a folder, a glob or a manifest of videos")
        _check(
            bool(self.output), "output='': name the index's folder, on a disk that all nodes see or as a URI"
        )
        _check(
            self.search.kind != "milvus" or self.search.uri is not None or "://" not in self.output,
            f"search.kind=milvus, output={self.output!r}: without a server it keeps a file that only a local disk can "
            "hold; give search.uri, or another kind",
        )
        _check(self.commit_seconds > 0, f"commit_seconds={self.commit_seconds}: use a positive number")

    def identity(self) -> dict[str, Any]:
        """The part of the config that decides the segments and their pictures, as plain values.

        The model and its settings are told apart by content (`identify`), not by name.
        """
        parts = asdict(self)
        return {name: parts[name] for name in ("segments", "pictures", "media")}
