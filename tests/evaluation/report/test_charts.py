"""The charts of the evaluation report show the values that they are given."""

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from gve_ray.evaluation.report.charts import (
    HeatMap,
    Series,
    difference,
    heat_map,
    inline_svg,
    interval,
    radar,
)
from gve_ray.evaluation.scores.statistics import Interval

EVIL = '"><script>alert(1)</script>'


def corners(plot: Any, label: str) -> list[tuple[float, float]]:
    """Where the corners of a model's outline are drawn, in pixels from the bottom left."""
    labels = [text.get_text() for text in plot.get_legend().get_texts()]
    outlines = [line for line in plot.lines if len(line.get_xdata()) > 1]
    return plot.transData.transform(outlines[labels.index(label)].get_xydata()).tolist()


def test_radar_points_are_at_the_scores() -> None:
    """The scale ends at 0.8, the first multiple of 0.2 above 0.75; the four axes point up, right,
    down and left.
    """
    own = Series(name="mine", values={"CG": 0.4, "FG": 0.75, "LC": 0.0, "S": 0.2, "T": 0.1})
    other = Series(name="other", values={"CG": 0.8, "FG": 0.4, "LC": 0.4, "S": 0.4}, published=True)
    figure = radar([own, other])
    svg = inline_svg(figure)  # draws the figure, which gives the axes their final place
    (plot,) = figure.axes
    assert [label.get_text() for label in plot.get_xticklabels()] == [
        "CG 0.40",
        "FG 0.75",
        "LC 0.00",
        "S 0.20",
    ]
    top, right, down, left, end = corners(plot, "other")
    assert end == pytest.approx(top)
    centre = (down[0], left[1])
    assert right[1] == pytest.approx(centre[1])
    radius = top[1] - centre[1]
    assert radius == pytest.approx(plot.bbox.height / 2)
    assert right[0] - centre[0] == pytest.approx(radius / 2)
    distances = [math.dist(point, centre) for point in corners(plot, "mine")[:4]]
    assert distances == pytest.approx([radius / 2, radius * 0.75 / 0.8, 0, radius / 4], abs=1e-6)
    titles = [title.text for title in ElementTree.fromstring(svg).iter("title")]
    assert sorted(titles)[:2] == ["mine, CG: 0.400", "mine, FG: 0.750"]
    assert len(titles) == 8


def test_a_radar_needs_three_abilities() -> None:
    with pytest.raises(ValueError, match="radar of CG, S: it needs at least three"):
        radar([Series(name="a", values={"CG": 0.1, "S": 0.2})])


def correlation(estimate: float, low: float, high: float) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, clusters=12)


def test_heat_map_shows_sign_size_and_certainty() -> None:
    cells = [
        [None, correlation(-0.714, -0.9, -0.1)],
        [correlation(0.3, -0.2, 0.6), correlation(1.0, 1.0, 1.0)],
    ]
    data = HeatMap(name="x", title="t", note="n", rows=["S", EVIL], columns=["CG", "T"], cells=cells)
    figure = heat_map(data)
    (plot,) = figure.axes
    shades = [(to_hex(patch.get_facecolor()), patch.get_alpha()) for patch in plot.patches]
    assert shades == [("#d98032", 0.714), ("#2f6f8f", 0.3), ("#2f6f8f", 1.0)]
    assert [patch.get_center().round().tolist() for patch in plot.patches] == [[1, 0], [0, 1], [1, 1]]
    values = [(text.get_text(), text.get_position(), text.get_weight()) for text in plot.texts]
    assert values == [("-.71", (1, 0), "bold"), (".30", (0, 1), "normal"), ("1", (1, 1), "bold")]
    titles = [title.text for title in ElementTree.fromstring(inline_svg(figure)).iter("title")]
    assert titles[0] == "S, T: -0.71 [-0.90, -0.10]"
    assert len(titles) == 3


def test_drawings_on_the_page_have_the_colours_of_the_page_and_no_ids() -> None:
    svg = inline_svg(radar([Series(name="a", values={"CG": 0.1, "S": 0.2, "T": 1.0})]))
    assert "stroke: var(--s0)" in svg
    assert "fill: var(--ink)" in svg
    groups = ElementTree.fromstring(svg).iter("g")
    assert not [group for group in groups if group.get("id")]


def test_intervals_are_drawn_to_scale() -> None:
    svg = ElementTree.fromstring(interval(0.5, 0.25, 1.0, label="a", chance=0.0))
    start, end = (float(svg.find("line").get(side)) for side in ("x1", "x2"))  # type: ignore[union-attr, arg-type]
    bar, dot = svg.find("rect"), svg.find("circle")
    assert bar is not None
    assert dot is not None
    assert float(bar.get("x", "")) == pytest.approx(start + (end - start) / 4, abs=0.1)
    assert float(bar.get("width", "")) == pytest.approx((end - start) * 3 / 4, abs=0.1)
    assert float(dot.get("cx", "")) == pytest.approx((start + end) / 2, abs=0.1)
    (chance,) = (node for node in svg if node.get("class") == "chance")
    assert float(chance.get("x1", "")) == start


@pytest.mark.parametrize(
    "value,is_sure,kind", [(0.3, True, "bar"), (-0.3, True, "cut"), (0.3, False, "flat")]
)
def test_a_difference_is_coloured_only_if_it_is_sure(value: float, is_sure: bool, kind: str) -> None:
    svg = ElementTree.fromstring(difference(value, value - 0.1, value + 0.1, label="a", is_sure=is_sure))
    assert svg.find("circle").get("class") == kind  # type: ignore[union-attr]


def test_names_are_escaped() -> None:
    evil = Series(name=EVIL, values={EVIL: 0.1, "b": 0.2, "c": 0.3})
    drawn = inline_svg(radar([evil]))
    for svg in (drawn, interval(0, 0, 1, label=EVIL), difference(0, 0, 1, label=EVIL, is_sure=True)):
        assert "<script" not in svg
        ElementTree.fromstring(svg)
