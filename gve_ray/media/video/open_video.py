"""Open a container safely and decode packets of its best video stream.

with open_video(blob, limits) as video:
    for packet in video.packets():
        for frame in video.decode(packet): ...
"""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import av
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from gve_ray.media.container.framing import (
    is_fragmented,
    missing_bytes,
    structural_damage,
    why_not_opened,
)
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.source import Blob

# Containers of self-contained video. Playlists (HLS, DASH, concat) would make FFmpeg open other files,
# and FFmpeg reads text as ANSI art ("tty") and any JPEG as a one-frame video.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,nut,gif,apng,ivf,rm,dv,wtv"
_UNSUPPORTED = (
    av.error.DecoderNotFoundError,
    av.error.ExperimentalError,
    av.error.NotImplementedError,
    av.error.PatchWelcomeError,
)
# FFmpeg's own VP8 and VP9 decoders ignore the second picture that holds the transparency; libvpx reads it.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, kw_only=True)
class OpenVideo:
    """A container, its best video stream (av_find_best_stream), and the codec context that decodes it
    with one thread."""

    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    def packets(self) -> "Iterator[av.Packet[VideoStream]]":
        """The stream's packets in decoding order, from the current position. Raises FFmpegError."""
        return self.container.demux(self.stream)

    def decode(self, packet: "av.Packet[VideoStream]") -> list[VideoFrame]:
        """The frames that come out once this packet went in. Raises FFmpegError."""
        return self.decoder.decode(packet)

    def seek(self, moment: int) -> None:
        """Go to the last key frame of the container's index at or before `moment`, in ticks of the
        stream's time base. Raises FFmpegError."""
        self.container.seek(moment, stream=self.stream, backward=True)
        self.decoder.flush_buffers()


@contextmanager
def open_video(blob: Blob, limits: Limits, *, examine: bool = False) -> Iterator[OpenVideo]:
    """Open a file. With `examine`, the container's framing is checked for completeness first.

    Raises MediaError: not_a_video, truncated, corrupt, no_video_stream, unsupported_codec, encrypted,
    too_many_pixels.
    """
    target = f"file:{blob.path.absolute()}" if blob.path is not None else io.BytesIO(blob.read())
    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
    try:
        container = av.open(target, container_options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        reason, detail = why_not_opened(blob)
        raise MediaError(reason, f"{blob.name}: {detail or error}") from error
    with container:
        if examine:
            _check_complete(blob, container)
        stream = _best_stream(container)
        context = stream.codec_context
        if (
            context.width and context.height
        ):  # 0 where the picture starts too late for a first look at the file
            limits.check_picture(context.width, context.height)
        decoder = context
        if stream.metadata.get("alpha_mode") == "1" and context.name in _ALPHA_DECODERS:
            decoder = cast(VideoCodecContext, av.CodecContext.create(_ALPHA_DECODERS[context.name], "r"))
        decoder.thread_count = 1  # many processes with one thread each beat many threads a video
        decoder.options = {"max_pixels": str(limits.max_side_pixels)} | _strictness(context.name)
        yield OpenVideo(container=container, stream=stream, decoder=decoder)


def media_error(error: av.error.FFmpegError, where: str) -> MediaError:
    """The refusal behind an FFmpeg error: damage, or a feature that this build of FFmpeg lacks."""
    lacking = isinstance(error, _UNSUPPORTED) or error.errno == errno.EOPNOTSUPP
    return MediaError(Reason.UNSUPPORTED_CODEC if lacking else Reason.CORRUPT, f"{where}: {error}")


def _strictness(codec: str) -> dict[str, str]:
    """Decoder options that turn silent concealment into errors.

    H.264, MPEG-4 and MPEG-2 mark concealed frames as corrupt by themselves; "aggressive" makes H.264
    (CAVLC) look at bits left over after a slice, while "explode" would refuse the stale reference commands
    of many healthy files that were cut and joined. HEVC marks nothing; it checks picture hashes where the
    encoder wrote them.
    """
    if codec == "h264":
        return {"err_detect": "aggressive"}
    return {} if codec in ("mpeg4", "mpeg2video", "mpeg1video") else {"err_detect": "crccheck+explode"}


def _best_stream(container: InputContainer) -> VideoStream:
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not pictures:
        kinds = sorted({s.type for s in container.streams})
        raise MediaError(Reason.NO_VIDEO_STREAM, f"streams: {', '.join(kinds) or 'none'}")
    if any("enc_key_id" in s.metadata for s in pictures):
        raise MediaError(Reason.ENCRYPTED, "the video stream is encrypted; decrypt the file first")
    readable = [s for s in pictures if s.codec_context is not None]
    if not readable:
        raise MediaError(
            Reason.UNSUPPORTED_CODEC,
            f"no decoder for the codec of video stream {pictures[0].index}; convert it, for example to H.264",
        )
    best = container.streams.best("video")
    return best if best in readable else readable[0]


def _check_complete(blob: Blob, container: InputContainer) -> None:
    """Raises MediaError("truncated") where the index or the box sizes point beyond the end of the file."""
    ends: list[int] = []
    if container.format.name.startswith("mov"):
        ends = [entry.pos + entry.size for s in container.streams for entry in s.index_entries]
        if lost := sum(end > blob.size for end in ends):
            raise MediaError(
                Reason.TRUNCATED, f"{lost} of {len(ends)} samples lie beyond the file's {blob.size} bytes"
            )
    # The sample table outranks the size of the box around the samples: recorders that were interrupted,
    # and then mended, leave that table wrong although all samples are there. Fragments have no such table.
    ignore = frozenset({b"mdat"}) if ends and not is_fragmented(blob) else frozenset()
    if missing := missing_bytes(blob, ignore=ignore):
        raise MediaError(Reason.TRUNCATED, f"{missing} bytes short of what its container states")
    if damage := structural_damage(blob):
        raise MediaError(Reason.CORRUPT, damage)
