"""Charts: what is drawn is what was counted, and texts cannot break out of the SVG."""

import re
from xml.etree import ElementTree

import pytest

from gve_ray.synthesis import charts


def rects(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<rect class="{kind}"[^>]*><title>([^<]*)</title>', svg)


def test_histogram_counts_every_value_on_its_side_of_the_cut() -> None:
    svg = charts.histogram([0.1, 0.1, 0.2, 0.6, 0.9], label="x", threshold=0.5, bins=8)
    ElementTree.fromstring(svg)
    # bins of 0.1 from 0.1 to 0.9: two videos in the first, one in the second, below the cut; two above
    assert [title.split(": ")[1] for title in rects(svg, "cut")] == ["2", "1"]
    assert [title.split(": ")[1] for title in rects(svg, "bar")] == ["1", "1"]


def test_other_values_are_an_outline_on_the_same_scale() -> None:
    svg = charts.histogram([0.5, 0.9], label="x", others=[0.1, 0.1, 0.9], bins=8)
    (line,) = (node for node in ElementTree.fromstring(svg) if node.tag == "polyline")
    points = [tuple(map(float, point.split(","))) for point in str(line.get("points")).split()]
    floor = charts.HEIGHT - charts.BOTTOM
    # bins of 0.1 from 0.1 to 0.9: two values in the first, which is the highest, one in the last
    assert points[0] == (charts.LEFT, charts.TOP)
    assert points[-1] == (charts.WIDTH - charts.RIGHT, (charts.TOP + floor) / 2)
    assert {y for _, y in points[2:-2]} == {floor}
    (bar, _) = re.findall(r'<rect class="bar"[^>]*height="([^"]*)"', svg)
    assert float(bar) == (floor - charts.TOP) / 2


def test_a_single_value_has_a_chart() -> None:
    svg = charts.histogram([0.3], label="x")
    assert [title.split(": ")[1] for title in rects(svg, "bar")] == ["1"]


@pytest.mark.parametrize("draw", [
    lambda: charts.histogram([], label="motion"),
    lambda: charts.spans({"short": []}, label="motion", unit="words"),
    lambda: charts.bars({}, label="motion"),
])  # fmt: skip
def test_a_chart_of_nothing_is_refused(draw: object) -> None:
    with pytest.raises(ValueError, match="'motion': no"):
        draw()  # type: ignore[operator]


def test_spans_show_the_median() -> None:
    svg = charts.spans({"short": [10, 12, 30], "rich": [100]}, label="words", unit="words")
    texts = [node.text for node in ElementTree.fromstring(svg) if node.tag == "text"]
    assert texts[:4] == ["short", "12", "rich", "100"]


def test_bars_are_as_long_as_their_counts() -> None:
    svg = charts.bars({"T2T": 50, "T2V": 100, "V2V": 0}, label="pairs")
    widths = [float(node.get("width", "nan")) for node in ElementTree.fromstring(svg) if node.tag == "rect"]
    assert widths[0] == pytest.approx(widths[1] / 2, abs=0.1)
    assert widths[2] == 0


def test_names_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    for svg in (charts.bars({evil: 1}, label=evil), charts.spans({evil: [1]}, label=evil, unit=evil)):
        assert "<script" not in svg
        ElementTree.fromstring(svg)


def test_funnel_png_is_a_picture() -> None:
    png = charts.funnel_png([("integrity", 10, 8), ("captions", 8, 8)], {"integrity": {"empty": 2}})
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
