import numpy as np
import pytest

from gve_ray.media import FrameRequest, uniform_indices

TEN = np.arange(30) / 10.0  # 30 frames at 10 fps


@pytest.mark.parametrize(
    "total, k, expected",
    [
        (10, 4, [0, 3, 6, 9]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (390, 8, [0, 56, 111, 167, 222, 278, 333, 389]),  # 389/7 = 55.571...
        (3, 8, [0, 0, 1, 1, 1, 1, 2, 2]),  # 2/7 steps: 0 .29 .57 .86 1.14 1.43 1.71 2
        (1, 4, [0, 0, 0, 0]),
        (5, 1, [0]),
    ],
)
def test_uniform_indices_spread_over_the_whole_and_include_both_ends(total, k, expected):
    indices = uniform_indices(total, k)
    assert indices.tolist() == expected
    assert indices.dtype == np.int64


@pytest.mark.parametrize("total, k, name", [(10, 0, "k=0"), (0, 4, "total=0")])
def test_uniform_indices_refuse_nothing_to_sample(total, k, name):
    with pytest.raises(ValueError, match=name):
        uniform_indices(total, k)


def test_a_span_takes_first_and_last_frame_within_it():
    # frames at 0.5, 0.6 ... 1.5 s are numbers 5..15; four of 11 are 5, 5+10/3, 5+20/3, 15
    assert FrameRequest(k=4, start=0.5, end=1.5).indices(TEN).tolist() == [5, 8, 12, 15]


def test_a_span_hits_frames_at_its_ends_in_spite_of_float_error():
    seconds = np.arange(90) * (1001 / 30000)  # 29.97 fps
    request = FrameRequest(k=2, start=float(seconds[7]) + 1e-9, end=float(seconds[70]) - 1e-9)
    assert request.indices(seconds).tolist() == [7, 70]


def test_a_span_without_an_end_runs_to_the_last_frame():
    assert FrameRequest(k=2, start=2.0).indices(TEN).tolist() == [20, 29]


def test_a_span_between_two_frames_gives_the_frame_on_screen():
    assert FrameRequest(k=3, start=0.51, end=0.59).indices(TEN).tolist() == [5, 5, 5]


def test_a_span_inside_the_last_frame_gives_the_last_frame():
    assert FrameRequest(k=2, start=2.95, end=3.0).indices(TEN).tolist() == [29, 29]


def test_a_span_after_the_end_is_an_error():
    with pytest.raises(ValueError, match=r"start=7.*2\.900 s"):
        FrameRequest(k=2, start=7.0).indices(TEN)


def test_moments_give_the_frame_on_screen_then():
    # 0.2 s is frame 2 exactly, 0.29 still shows 2, beyond the end the last stays
    assert FrameRequest(at=(0.0, 0.2, 0.29, 99.0)).indices(TEN).tolist() == [0, 2, 2, 29]


def test_spans_follow_the_clock_where_frames_are_uneven():
    seconds = np.array([0.0, 1.0, 1.1, 1.2, 5.0])
    assert FrameRequest(k=3, start=1.0, end=2.0).indices(seconds).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "exactly one of k and at"),
        ({"k": 2, "at": (1.0,)}, "exactly one of k and at"),
        ({"k": 0}, "k=0"),
        ({"k": 2, "start": 3.0, "end": 3.0}, "end must come after"),
        ({"k": 2, "end": 0.0}, "end must come after"),
        ({"k": 2, "start": -1.0}, "start=-1"),
        ({"at": ()}, "at least one moment"),
        ({"at": (-0.1,)}, "none below 0"),
        ({"at": (1.0,), "end": 2.0}, "no start or end"),
    ],
)
def test_requests_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FrameRequest(**settings)
