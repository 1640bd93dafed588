"""Tests the reading of subtitle tracks and subtitle files."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from gve_ray.demo.subtitles import add_track
from gve_ray.media import DecodeProcess, MediaError
from gve_ray.media.subtitles import Cue, decode_text, joined, parse_subtitles


def write_subtitled(path: Path, codec: str, cues: list[Cue], *, encoder: str = "libx264") -> str:
    """Write four grey seconds with a track of cues, whose texts may have tags of ASS. Return the path."""
    with av.open(str(path), "w") as container:
        video = cast(VideoStream, container.add_stream(encoder, rate=4))
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        add_track(container, cues, codec=codec)
        for _ in range(16):
            picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode())
    return str(path)


@pytest.fixture(scope="module")
def process() -> Iterator[DecodeProcess]:
    with DecodeProcess() as child:
        yield child


@pytest.mark.parametrize(
    "name,codec,encoder",
    [
        ("a.mp4", "mov_text", "libx264"),
        ("a.mkv", "subrip", "libx264"),
        ("b.mkv", "ass", "libx264"),
        ("a.webm", "webvtt", "libvpx-vp9"),
    ],
)
def test_text_tracks_of_all_kinds_are_read(
    process: DecodeProcess, tmp_path: Path, name: str, codec: str, encoder: str
) -> None:
    cues = [Cue(0.5, 1.5, "The {\\i1}red{\\i0} ball,\nit rolls"), Cue(2.0, 3.5, "caf\u00e9 \u6c49\u5b57")]
    path = write_subtitled(tmp_path / name, codec, cues, encoder=encoder)
    assert process.read_subtitles(path) == [
        Cue(0.5, 1.5, "The red ball,\nit rolls"),
        Cue(2.0, 3.5, "caf\u00e9 \u6c49\u5b57"),
    ]


def test_a_file_without_subtitles_has_none_and_a_broken_one_is_refused(
    process: DecodeProcess, tmp_path: Path
) -> None:
    assert process.read_subtitles(write_subtitled(tmp_path / "a.mp4", "mov_text", [])) == []
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    with pytest.raises(MediaError, match="subtitles"):
        process.read_subtitles(str(tmp_path / "b.mp4"))


def test_untidy_srt() -> None:
    text = (
        "1\r\n00:00:01,000 --> 00:00:02,500\r\nHello <i>you</i>\r\n\r\n"
        "2\n0:00:02.000 --> 00:00:04,5\n{\\an8}1984\n\n"  # overlaps; a text that is a number
        "00:00:05,000 --> 00:00:06,000\nno number &lt;script&gt;\n"
        "00:00:07,000 --> 00:00:08,000 X1:10 Y1:20\nno blank line\n4\n"
        "00:00:09,000-->00:00:08,000\nends before it starts\n\nafter a blank line\n\n"
        "6\n00:00:20,000 --> 00:00:21,000\n<b></b>\n\nrubbish\n"
    )
    assert parse_subtitles(text)[:5] == [
        Cue(1.0, 2.5, "Hello you"),
        Cue(2.0, 4.5, "1984"),
        Cue(5.0, 6.0, "no number <script>"),
        Cue(7.0, 8.0, "no blank line"),
        Cue(9.0, 12.0, "ends before it starts\nafter a blank line"),
    ]
    assert parse_subtitles("") == parse_subtitles("no subtitles\n\nat all") == []


def test_webvtt_without_its_names_notes_and_styles() -> None:
    text = (
        "WEBVTT - film\n\nSTYLE\n::cue { color: red }\n\nintro\n00:01.000 --> 00:02.000 align:start\n"
        "<v Ann>Hi <00:01.500><c.loud>there</c>\n\nNOTE a comment\n\n1:00:03.000 --> 1:00:04.000\nBye\n"
    )
    assert parse_subtitles(text) == [Cue(1.0, 2.0, "Hi there"), Cue(3603.0, 3604.0, "Bye")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_encodings(encoding: str) -> None:
    text = "1\n00:00:01,000 --> 00:00:02,000\ncaf\u00e9 \u00bfno?\n"
    assert parse_subtitles(decode_text(text.encode(encoding))) == [Cue(1.0, 2.0, "caf\u00e9 \u00bfno?")]


def test_rolling_captions_say_each_line_once() -> None:
    cues = [Cue(0, 1, "one"), Cue(1, 2, "one\ntwo"), Cue(2, 3, "two\nthree")]
    assert joined(cues) == "one\ntwo\nthree"
