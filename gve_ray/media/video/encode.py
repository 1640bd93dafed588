"""Encode decoded pictures as H.264 into an mp4 file, as they are displayed."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from gve_ray.media.video.orientation import Orientation
from gve_ray.media.video.rgb import RgbConverter


class Encoder:
    """Decodes packets and encodes some of their pictures. Raises UnknownCodecError without an encoder.

    decoder: of the packets. first: one of its pictures. shown: pts -> duration of the pictures to be
    encoded, in ticks of `base` seconds; the first is shown at 0. aspect: of the stored pixels, width to
    height.
    """

    def __init__(
        self,
        out: OutputContainer,
        decoder: VideoCodecContext,
        first: VideoFrame,
        *,
        shown: Mapping[int, int],
        base: Fraction,
        rate: Fraction,
        aspect: Fraction,
    ) -> None:
        orientation = Orientation.of_frame(first)
        width, height = first.width, first.height
        if orientation.swaps_sides:
            width, height, aspect = height, width, 1 / aspect
        self._decoder, self._convert = decoder, RgbConverter(orientation)
        self._shown, self._origin, self._base = shown, min(shown), base
        self._stream = out.add_stream(
            "libx264",
            rate=rate,
            width=width + width % 2,  # colours are stored in half of the size
            height=height + height % 2,
            # x264's macroblock tree reads uninitialised memory; without it, the result is always the same.
            options={"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"},
        )
        context = self._stream.codec_context
        context.time_base, context.thread_count, context.sample_aspect_ratio = base, 1, aspect
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709

    def packets(self, packet: "Packet[Any] | None") -> "Iterator[Packet[Any]]":
        """Return the packets of the mp4 that are complete after a packet of the source; None: the last one."""
        for frame in self._decoder.decode(packet):
            if frame.pts in self._shown:
                yield from self._timed(self._stream.encode(self._picture(frame)))
        if packet is None:
            yield from self._timed(self._stream.encode(None))

    def _picture(self, frame: VideoFrame) -> VideoFrame:
        context = self._stream.codec_context
        picture = VideoFrame.from_ndarray(self._convert(frame), format="rgb24").reformat(
            width=context.width,
            height=context.height,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        assert frame.pts is not None
        picture.pts, picture.time_base = frame.pts - self._origin, self._base
        return picture

    def _timed(self, packets: "list[Packet[Any]]") -> "Iterator[Packet[Any]]":
        for packet in packets:
            assert packet.pts is not None
            packet.duration = self._shown[packet.pts + self._origin]
            yield packet
