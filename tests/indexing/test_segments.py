"""Tests segments against spans worked out by hand."""

from itertools import pairwise

import pytest

from gve_ray.indexing.config import SegmentsConfig
from gve_ray.indexing.segments import spans_of, windows


@pytest.mark.parametrize(
    "duration,seconds,overlap,shortest,expected",
    [
        (4.0, 10, 2, 1, [(0, 4)]),
        (10.0, 10, 2, 1, [(0, 10)]),
        (10.5, 10, 2, 1, [(0, 10), (8, 10.5)]),
        (26.0, 10, 2, 1, [(0, 10), (8, 18), (16, 26)]),
        (20.4, 10, 0, 1, [(0, 10), (10, 20.4)]),  # the last 0.4 s are merged
        (21.0, 10, 0, 1, [(0, 10), (10, 20), (20, 21)]),
        (0.3, 10, 0, 1, [(0, 0.3)]),
    ],
)
def test_windows(
    duration: float, seconds: float, overlap: float, shortest: float, expected: list[tuple[float, float]]
) -> None:
    spans = windows(duration, seconds, overlap, shortest)
    assert [time for span in spans for time in span] == pytest.approx(
        [time for span in expected for time in span]
    )


@pytest.mark.parametrize("duration", [0.04, 7.77, 59.94, 3600.5])
@pytest.mark.parametrize("mode", ["whole", "windows", "scenes"])
def test_segments_cover_the_video(mode, duration: float) -> None:  # type: ignore[no-untyped-def]
    spans = spans_of(SegmentsConfig(mode=mode), duration, [duration * x for x in (0.1, 0.5, 0.52)])
    assert (spans[0][0], spans[-1][1]) == (0.0, duration)
    assert all(start < end for start, end in spans)
    assert all(a[0] < b[0] <= a[1] < b[1] for a, b in pairwise(spans))


@pytest.mark.parametrize(
    "options,message",
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
def test_invalid_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentsConfig(**options)  # type: ignore[arg-type]


def test_the_largest_overlap_puts_each_second_into_ten_windows() -> None:
    assert len(spans_of(SegmentsConfig(seconds=10.0, overlap=9.0), 100.0, [])) == 91
    assert 0.9 * 3.3 < 2.97
    SegmentsConfig(seconds=3.3, overlap=2.97)
