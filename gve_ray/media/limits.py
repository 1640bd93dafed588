"""Limits on the size and length of media files, and the reasons for which a file is refused."""

from dataclasses import dataclass
from enum import StrEnum

from gve_ray.config import GIB, check_numbers, number

MIN_FRAMES = 2  # with fewer frames, a file is no video; this does not apply to a folder of frames


class Reason(StrEnum):
    """Why a file was refused. These codes end up in rejects.lance and in reports."""

    UNREADABLE = "unreadable"  # the bytes could not be fetched
    EMPTY = "empty"  # zero bytes, or a folder without pictures
    NOT_A_VIDEO = "not_a_video"  # no container we know
    NOT_A_PICTURE = "not_a_picture"  # no picture format we read
    NO_VIDEO_STREAM = "no_video_stream"  # audio or subtitles only; cover art does not count
    UNSUPPORTED_CODEC = "unsupported_codec"
    ENCRYPTED = "encrypted"
    TRUNCATED = "truncated"  # the container promises more bytes than there are
    CORRUPT = "corrupt"  # bytes are there but do not decode to what they should
    TOO_FEW_FRAMES = "too_few_frames"
    TOO_LARGE = "too_large"  # bytes
    TOO_LONG = "too_long"  # seconds
    TOO_MANY_PIXELS = "too_many_pixels"  # width x height
    UNUSABLE_SHAPE = "unusable_shape"  # one side more than 200 times the other
    TOO_MANY_FRAMES = "too_many_frames"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"  # the decoding process died


class MediaError(Exception):
    """A file that cannot be used. `reason` is one of `Reason`, `detail` says what was seen."""

    def __init__(self, reason: Reason | str, detail: str = "") -> None:
        self.reason = Reason(reason)
        self.detail = detail
        super().__init__(self.reason, detail)  # these args make it survive pickling

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper bounds on one file, the same for all jobs; a file that exceeds one is refused.

    max_bytes: of the file. max_duration: seconds. max_side_pixels: width * height of the source; of
    a JPEG four times as many, since a large one is decoded at half its sides or less. max_frames:
    frames in the source. wall_clock_s: seconds one decode may take. memory_bytes: private memory of
    the decoding process (RLIMIT_DATA; only `DecodeProcess` can enforce it).
    """

    max_bytes: int = number(4 * GIB, above=0)
    max_duration: float = number(4 * 3600.0, above=0)
    max_side_pixels: int = number(8192 * 8192, above=0)
    max_frames: int = number(1_000_000, above=0)
    wall_clock_s: float = number(120.0, above=0)
    memory_bytes: int = number(4 * GIB, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "media.limits")

    def check_bytes(self, size: int) -> None:
        """Raises MediaError("empty") or MediaError("too_large")."""
        if size == 0:
            raise MediaError(Reason.EMPTY, "0 bytes")
        if size > self.max_bytes:
            raise MediaError(Reason.TOO_LARGE, f"{size} bytes; the limit is {self.max_bytes}")

    def check_picture(self, width: int, height: int, *, scalable: bool = False) -> None:
        """Raises MediaError("too_many_pixels"), or "corrupt" for a picture without area.

        scalable: it can be decoded at half its sides.
        """
        if width < 1 or height < 1:
            raise MediaError(Reason.CORRUPT, f"picture of {width}x{height} pixels")
        most = self.max_side_pixels * (4 if scalable else 1)
        if width * height > most:
            raise MediaError(Reason.TOO_MANY_PIXELS, f"{width}x{height}; the limit is {most} pixels")

    def check_length(self, duration: float, frames: int) -> None:
        """Raises MediaError("too_long") or MediaError("too_many_frames")."""
        if duration > self.max_duration:
            raise MediaError(Reason.TOO_LONG, f"{duration:.1f} s; the limit is {self.max_duration:.1f} s")
        if frames > self.max_frames:
            raise MediaError(Reason.TOO_MANY_FRAMES, f"{frames} frames; the limit is {self.max_frames}")
