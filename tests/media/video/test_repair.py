import numpy as np
import pytest

from gve_ray.media import FrameRequest, MediaError, decode, read_frames
from tests.media.matrix.films import render
from tests.media.matrix.plain import film_in
from tests.media.videos import read_number

TS = {"container": "mpegts", "options": {"g": "10"}}


def numbers(result) -> list[int]:
    return [read_number(p) for p in result.samples[0].pixels]


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
def test_what_stands_before_the_container_is_cut_off(make, container):
    data = make(frames=20, container=container)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n"
    result = decode(head + data, [FrameRequest(k=3)])
    assert result.repaired
    assert numbers(result) == [0, 10, 19]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_what_stands_after_the_container_does_no_harm(make, container):
    rubbish = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes()
    for tail in (rubbish, bytes(5000), b"\n"):
        result = decode(make(frames=20, container=container) + tail, [FrameRequest(k=3)])
        assert numbers(result) == [0, 10, 19]
        assert not result.repaired


def test_joined_streams_play_on_after_the_break(make):
    """Two recordings joined: the clock jumps back, then forward by a minute."""
    first, second = make(frames=40, **TS), make(frames=27, **TS)
    late = make(frames=27, ticks=[60_000 + i * 100 for i in range(27)], **TS)
    for joined in (first + second, first + late):
        for strict in (True, False):
            result = decode(joined, [FrameRequest(k=9)], strict=strict)
            assert result.repaired
            assert result.info.total_frames == 67
            assert result.info.container == "mpegts"
            assert numbers(result) == [0, 8, 16, 25, 33, 1, 10, 18, 26]  # round(i * 66/8), then minus 40
            expected = np.array([0, 8, 16, 25, 33, 41, 50, 58, 66]) / 10
            assert result.samples[0].timestamps == pytest.approx(expected, abs=0.01)


def test_a_span_across_the_break_follows_the_mended_clock(make):
    joined = make(frames=40, **TS) + make(frames=27, **TS)
    frames = read_frames(joined, k=2, start=3.9, end=4.0)
    assert [read_number(p) for p in frames.pixels] == [39, 0]


def test_a_healthy_file_is_not_called_repaired(make):
    assert not decode(make(**TS), [FrameRequest(k=2)]).repaired


def test_a_mended_file_that_stays_broken_keeps_its_first_reason(make):
    data = b"some words in front " + make(frames=20)[:2000]
    with pytest.raises(MediaError) as caught:
        decode(data, [FrameRequest(k=2)])
    assert caught.value.reason == "not_a_video"


def test_mending_the_clock_does_not_hide_damage(make):
    joined = bytearray(make(frames=40, noise=8.0, **TS) + make(frames=27, noise=8.0, **TS))
    middle = len(joined) // 2 // 188 * 188
    joined[middle : middle + 3 * 188] = (
        np.random.default_rng(0).integers(0, 256, 564, dtype=np.uint8).tobytes()
    )
    with pytest.raises(MediaError) as caught:
        decode(bytes(joined), [FrameRequest(k=2)])
    assert caught.value.reason == "corrupt"


def test_strict_and_sparse_reading_agree_on_a_repaired_file():
    """Tags of an FLV are repeated: with its clock mended, some frames may still not decode."""
    data = render(film_in("flv", "h264-b", frames=8))
    tags = flv_video_tags(data)
    facts = {True: [], False: []}
    for start in range(1, 6):
        for end in range(start + 1, len(tags)):
            repeated = data[tags[start].start : tags[end - 1].stop]
            spliced = data[: tags[end - 1].stop] + repeated + data[tags[end - 1].stop :]
            for strict, found in facts.items():
                try:
                    result = decode(spliced, [FrameRequest(k=2)], strict=strict)
                    found.append((result.info, result.repaired))
                except MediaError as error:
                    found.append(error.reason)
    assert facts[True] == facts[False]
    assert {False, True} <= {outcome[1] for outcome in facts[True] if isinstance(outcome, tuple)}


def flv_video_tags(data: bytes) -> list[slice]:
    """Return where the video tags of an FLV file are."""
    tags, at = [], 13
    while at < len(data):
        end = at + 11 + int.from_bytes(data[at + 1 : at + 4], "big") + 4
        if data[at] == 9:
            tags.append(slice(at, end))
        at = end
    return tags
