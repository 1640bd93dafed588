"""When decord may be trusted, and that what replaces it is right."""

from fractions import Fraction

import numpy as np
import pytest

from gve_ray.media import Limits
from gve_ray.media.probe import Packets, scan
from gve_ray.media.sequential import Deadline
from gve_ray.media.source import open_source
from gve_ray.media.sparse import _read_seeking, decord_is_exact, read_decord, read_sparse
from tests.media.videos import read_number

LIMITS = Limits()
OPEN_GOPS = {"frames": 60, "options": {"x264-params": "open-gop=1:keyint=8:min-keyint=4:b-pyramid=normal"}}
X265_OPEN = {
    "codec": "libx265",
    "frames": 60,
    "options": {"x265-params": "log-level=none:pools=none:frame-threads=1:keyint=10:open-gop=1:bframes=4"},
}


def packets(pts: list[int], keys: list[int], *, dts: list[int] | None = None, hidden: int = 0) -> Packets:
    """Packets in decoding order; dts default to 0, 1, 2, ... shifted so that none exceeds its pts."""
    n = len(pts)
    shift = max(i - p for i, p in enumerate(pts))
    return Packets(
        pts=np.array(pts),
        dts=np.array(dts if dts is not None else [i - shift for i in range(n)]),
        duration=np.ones(n, dtype=np.int64),
        keyframe=np.isin(np.arange(n), keys),
        shown=np.arange(n) >= hidden,
        time_base=Fraction(1, 10),
        has_pts=True,
        has_dts=True,
        damage="",
    )


def test_closed_groups_are_exact():
    # I P B B | I P B B: nothing crosses the second key frame
    assert decord_is_exact(packets([0, 3, 1, 2, 4, 7, 5, 6], [0, 4]))


def test_leading_pictures_are_not():
    # I P B B | I B B: the last two are shown before the second key frame, decoded after it
    assert not decord_is_exact(packets([0, 3, 1, 2, 6, 4, 5], [0, 4]))


def test_key_frames_closer_than_the_reordering_delay_are_not():
    # I only, two frames of delay: by the time frame 0 is shown, frames 1 and 2 are decoded
    assert not decord_is_exact(packets([0, 1, 2, 3], [0, 1, 2, 3], dts=[-2, -1, 0, 1]))
    assert decord_is_exact(packets([0, 1, 2, 3], [0, 1, 2, 3]))


def test_hidden_packets_and_a_start_without_key_frame_are_not():
    assert not decord_is_exact(packets([0, 1, 2, 3], [0], hidden=1))
    assert not decord_is_exact(packets([0, 1, 2, 3], [2]))


def everything(data: bytes):
    blob = open_source(data, LIMITS)
    found = scan(blob, LIMITS)
    assert found.timeline is not None
    return blob, found, found.timeline


@pytest.mark.parametrize("settings", [OPEN_GOPS, X265_OPEN], ids=["h264", "h265"])
def test_open_groups_go_to_pyav_which_finds_every_frame(make, settings):
    blob, found, timeline = everything(make(**settings))
    assert not decord_is_exact(found.packets)
    for wanted in ([0, 59], [3, 4, 5, 6, 7, 8, 9, 10, 11], list(range(0, 60, 7))):
        frames = _read_seeking(
            blob, found, timeline, wanted, lambda rgb: rgb, limits=LIMITS, deadline=Deadline(60.0)
        )
        assert frames is not None
        assert {i: read_number(pixels) for i, pixels in frames.items()} == {i: i for i in wanted}


def test_this_is_what_decord_would_have_done(make):
    """If this ever fails, decord has learnt open GOPs and the detour can go."""
    blob, _, timeline = everything(make(**OPEN_GOPS))
    wanted = list(range(0, 60, 7))
    frames = read_decord(blob, timeline, wanted, lambda rgb: rgb)
    assert frames is None or [read_number(frames[i]) for i in wanted] != wanted


def test_decord_reads_closed_groups(make):
    blob, found, timeline = everything(make(frames=60, options={"g": "10", "bf": "3"}))
    assert decord_is_exact(found.packets)
    wanted = [0, 8, 17, 25, 34, 42, 51, 59]
    frames = read_decord(blob, timeline, wanted, lambda rgb: rgb)
    assert frames is not None
    assert [read_number(frames[i]) for i in wanted] == wanted


def test_frames_that_decord_gives_four_channels_are_read_by_pyav(make, monkeypatch):
    """As it does, always, on about one file of 100 that are encoded alike."""
    import decord

    class Four:
        def __init__(self, frame):
            self.frame = frame

        def asnumpy(self):
            return np.concatenate([self.frame.asnumpy()] * 2, axis=2)[..., :4]

    true = decord.VideoReader.__getitem__
    monkeypatch.setattr(decord.VideoReader, "__getitem__", lambda reader, i: Four(true(reader, i)))
    blob, found, timeline = everything(make(frames=30, options={"g": "10"}))
    assert decord_is_exact(found.packets)
    assert read_decord(blob, timeline, [0, 7], lambda rgb: rgb) is None
    frames = read_sparse(
        blob, found, timeline, {0, 7, 29}, lambda rgb: rgb, limits=LIMITS, deadline=Deadline(60.0)
    )
    assert frames is not None
    assert {i: read_number(pixels) for i, pixels in frames.items()} == {0: 0, 7: 7, 29: 29}


def test_containers_without_an_exact_index_are_left_to_the_full_pass(make):
    for container in ("mpegts", "avi", "flv"):
        blob, found, timeline = everything(make(container=container, options={"g": "8"}))
        read = read_sparse(
            blob, found, timeline, {3, 9}, lambda rgb: rgb, limits=LIMITS, deadline=Deadline(60.0)
        )
        assert read is None
