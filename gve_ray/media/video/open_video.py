"""Open a container and decode the packets of its best video stream.

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
from gve_ray.media.source import Blob, Source, local_path, open_binary

# Containers of self-contained video. Playlists (HLS, DASH, concat) would make FFmpeg open other
# files, and FFmpeg reads text as ANSI art ("tty") and any JPEG as a one-frame video.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,nut,gif,apng,ivf,rm,dv,wtv"
_SHORT_NAMES = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
_REQUEST = 1 << 20  # bytes, of a file behind a URI
_UNSUPPORTED = (
    av.error.DecoderNotFoundError,
    av.error.ExperimentalError,
    av.error.NotImplementedError,
    av.error.PatchWelcomeError,
)
# FFmpeg's VP8 and VP9 decoders ignore the second picture, which holds the transparency; libvpx
# reads it.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


@dataclass(frozen=True, kw_only=True)
class OpenVideo:
    """A container, its best video stream (av_find_best_stream), and a decoder with one thread for it."""

    container: InputContainer
    stream: VideoStream
    decoder: VideoCodecContext

    def packets(self) -> "Iterator[av.Packet[VideoStream]]":
        """Yield the stream's packets in decoding order, from the current position. Raises FFmpegError."""
        return self.container.demux(self.stream)

    def decode(self, packet: "av.Packet[VideoStream]") -> list[VideoFrame]:
        """Give a packet to the decoder and return the frames that are then complete. Raises FFmpegError."""
        return self.decoder.decode(packet)

    def seek(self, moment: int) -> None:
        """Go to the last key frame in the container's index that is not after `moment`.

        moment: in ticks of the stream's time base. Raises FFmpegError.
        """
        self.container.seek(moment, stream=self.stream, backward=True)
        self.decoder.flush_buffers()


@contextmanager
def open_video(blob: Blob, limits: Limits, *, examine: bool = False) -> Iterator[OpenVideo]:
    """Open a file. examine: check first whether the container is complete.

    Raises MediaError: not_a_video, truncated, corrupt, no_video_stream, unsupported_codec,
    encrypted, too_many_pixels.
    """
    try:
        container = open_container(blob.path if blob.path is not None else blob.read())
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        reason, detail = why_not_opened(blob)
        raise MediaError(reason, f"{blob.name}: {detail or error}") from error
    with container:
        if examine:
            _check_complete(blob, container)
        stream = best_stream(container)
        yield OpenVideo(container=container, stream=stream, decoder=decoder_of(stream, limits))


def decoder_of(stream: VideoStream, limits: Limits) -> VideoCodecContext:
    """Return a decoder with one thread that refuses damage. Raises MediaError("too_many_pixels")."""
    decoder = context = stream.codec_context
    if context.width and context.height:  # 0 if the first picture is too far into the file
        limits.check_picture(context.width, context.height)
    if stream.metadata.get("alpha_mode") == "1" and context.name in _ALPHA_DECODERS:
        decoder = cast(VideoCodecContext, av.CodecContext.create(_ALPHA_DECODERS[context.name], "r"))
    decoder.thread_count = 1  # many processes with one thread each are faster than many threads
    decoder.options = {"max_pixels": str(limits.max_side_pixels)} | _strictness(context.name)
    return decoder


def open_container(source: Source) -> InputContainer:
    """Open a file for its demuxer only, which reads what it needs of a file on disk or behind a URI.

    Raises FFmpegError, OSError, ValueError, and ImportError for an unsupported scheme.
    """
    path = local_path(source)
    if path is not None:
        target: str | io.BufferedReader | io.BytesIO = f"file:{path.absolute()}"
    else:
        target = io.BytesIO(source) if isinstance(source, bytes) else open_binary(str(source), _REQUEST)
    options = {"format_whitelist": DEMUXERS, "protocol_whitelist": "file"}
    return av.open(target, container_options=options, metadata_errors="replace")


def container_name(container: InputContainer) -> str:
    """Return the name of the format of a file: "mp4", "matroska", or FFmpeg's for others."""
    return _SHORT_NAMES.get(container.format.name, container.format.name)


def media_error(error: av.error.FFmpegError, where: str) -> MediaError:
    """Convert an FFmpeg error: memory is short, FFmpeg lacks a feature, or the file is damaged."""
    if isinstance(error, MemoryError):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, _UNSUPPORTED) or error.errno == errno.EOPNOTSUPP:
        reason = Reason.UNSUPPORTED_CODEC
    else:
        reason = Reason.CORRUPT
    return MediaError(reason, f"{where}: {error}")


def _strictness(codec: str) -> dict[str, str]:
    """Return decoder options that turn silent concealment of damage into errors.

    The decoders of H.264, MPEG-4 and MPEG-2 mark concealed frames as corrupt anyway. "aggressive"
    makes H.264 (CAVLC) check for bits left over after a slice, while "explode" would refuse the
    outdated reference commands in many undamaged files that were cut and joined. The HEVC decoder
    marks nothing, but checks picture hashes if the encoder wrote them.
    """
    if codec == "h264":
        return {"err_detect": "aggressive"}
    return {} if codec in ("mpeg4", "mpeg2video", "mpeg1video") else {"err_detect": "crccheck+explode"}


def best_stream(container: InputContainer) -> VideoStream:
    """Return the video stream of a file (av_find_best_stream), cover art aside.

    Raises MediaError: no_video_stream, unsupported_codec, encrypted.
    """
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
    """Raise MediaError("truncated") if the index or the box sizes point beyond the end of the file."""
    ends: list[int] = []
    if container.format.name.startswith("mov"):
        ends = [entry.pos + entry.size for s in container.streams for entry in s.index_entries]
        if lost := sum(end > blob.size for end in ends):
            raise MediaError(
                Reason.TRUNCATED, f"{lost} of {len(ends)} samples lie beyond the file's {blob.size} bytes"
            )
    # The sample table counts, not the size of the box around the samples: the files of interrupted
    # recordings, once repaired, have a wrong size there and all samples. Fragments have no sample
    # table.
    ignore = frozenset({b"mdat"}) if ends and not is_fragmented(blob) else frozenset()
    if missing := missing_bytes(blob, ignore=ignore):
        raise MediaError(Reason.TRUNCATED, f"{missing} bytes short of what its container states")
    if damage := structural_damage(blob):
        raise MediaError(Reason.CORRUPT, damage)
