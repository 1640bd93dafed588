"""Spans of segments, worked out by hand."""

from itertools import pairwise

import pytest

from gve_ray.indexing.config import SegmentsConfig
from gve_ray.indexing.segments import scenes, spans_of, windows


@pytest.mark.parametrize(
    "duration,seconds,overlap,shortest,expected",
    [
        (4.0, 10, 2, 1, [(0, 4)]),
        (10.0, 10, 2, 1, [(0, 10)]),
        (10.5, 10, 2, 1, [(0, 10), (8, 10.5)]),
        (26.0, 10, 2, 1, [(0, 10), (8, 18), (16, 26)]),
        (20.4, 10, 0, 1, [(0, 10), (10, 20.4)]),  # 0.4 s joins the window before
        (21.0, 10, 0, 1, [(0, 10), (10, 20), (20, 21)]),
        (0.3, 10, 0, 1, [(0, 0.3)]),
    ],
)
def test_windows(
    duration: float, seconds: float, overlap: float, shortest: float, expected: list[tuple[float, float]]
) -> None:
    found = windows(duration, seconds, overlap, shortest)
    assert [one for span in found for one in span] == pytest.approx(
        [one for span in expected for one in span]
    )


@pytest.mark.parametrize(
    "duration,cuts,shortest,longest,expected",
    [
        (9.0, [], 1, 30, [(0, 9)]),
        (9.0, [2.0, 7.0], 1, 30, [(0, 2), (2, 7), (7, 9)]),
        (9.0, [7.0, 2.0], 1, 30, [(0, 2), (2, 7), (7, 9)]),
        (9.0, [0.5, 4.0, 4.3, 8.9], 1, 30, [(0, 4), (4, 9)]),  # flashes are no scenes
        (9.0, [2.0], 1, 3, [(0, 2), (2, 4.333333), (4.333333, 6.666667), (6.666667, 9)]),
        (6.0, [], 1, 3, [(0, 3), (3, 6)]),
    ],
)
def test_scenes(
    duration: float, cuts: list[float], shortest: float, longest: float, expected: list[tuple[float, float]]
) -> None:
    found = scenes(duration, cuts, shortest, longest)
    assert [one for span in found for one in span] == pytest.approx(
        [one for span in expected for one in span], abs=1e-5
    )


@pytest.mark.parametrize("duration", [0.04, 7.77, 59.94, 3600.5])
@pytest.mark.parametrize("mode", ["whole", "windows", "scenes"])
def test_segments_cover_the_video(mode, duration: float) -> None:  # type: ignore[no-untyped-def]
    found = spans_of(SegmentsConfig(mode=mode), duration, [duration * x for x in (0.1, 0.5, 0.52)])
    assert (found[0][0], found[-1][1]) == (0.0, duration)
    assert all(start < end for start, end in found)
    assert all(a[0] < b[0] <= a[1] < b[1] for a, b in pairwise(found))


@pytest.mark.parametrize(
    "options,says",
    [
        ({"seconds": 0.0}, "segments.seconds=0"),
        ({"seconds": 5.0, "overlap": 5.0}, "segments.overlap=5.0: use 0 to 4.5, 90% of segments.seconds=5;"),
        (
            {"seconds": 10.0, "overlap": 9.999},
            "segments.overlap=9.999: use 0 to 9, 90% of segments.seconds=10;",
        ),
        ({"overlap": -1.0}, "segments.overlap=-1.0: use 0 to 9"),
        ({"threshold": 0.0}, "segments.threshold"),
        ({"shortest": 4.0, "longest": 6.0}, "at most half"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SegmentsConfig(**options)  # type: ignore[arg-type]


def test_the_largest_overlap_makes_ten_windows_for_each() -> None:
    assert len(spans_of(SegmentsConfig(seconds=10.0, overlap=9.0), 100.0, [])) == 91
    assert 0.9 * 3.3 < 2.97
    SegmentsConfig(seconds=3.3, overlap=2.97)
