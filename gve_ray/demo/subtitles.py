"""Write text tracks into video files.

with av.open("film.mkv", "w") as container:
    video = container.add_stream("libx264", rate=8)
    add_track(container, [Cue(0.5, 1.5, "the treasure map")], codec="subrip")
    ...                                              # then mux the pictures
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

from av.container import OutputContainer
from av.subtitles.stream import SubtitleStream
from av.subtitles.subtitle import SubtitleSet

from gve_ray.media.subtitles import Cue

_MILLISECOND = Fraction(1, 1000)
# FFmpeg's encoders take lines of ASS, and refuse them without a header that says so.
_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, \
Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, \
MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,0

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def add_track(container: OutputContainer, cues: Sequence[Cue], *, codec: str = "mov_text") -> None:
    """Add a track with cues; all other streams must have been added, and nothing muxed yet.

    codec: mov_text for mp4; subrip, ass or webvtt for Matroska. The texts may have tags of ASS.
    """
    track = cast(SubtitleStream, container.add_stream(codec))
    track.codec_context.subtitle_header = _HEADER
    track.codec_context.time_base = track.time_base = _MILLISECOND
    for number, cue in enumerate(cues):
        start, end = round(cue.start * 1000), round(cue.end * 1000)
        line = f"{number},0,Default,,0,0,0,," + cue.text.replace("\n", r"\N")
        packet = track.codec_context.encode_subtitle(SubtitleSet.create(line.encode(), 0, end - start))
        packet.stream, packet.time_base = track, _MILLISECOND
        packet.pts = packet.dts = start
        packet.duration = end - start
        container.mux(packet)
