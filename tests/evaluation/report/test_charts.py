"""The charts of the evaluation report show the values they are given."""

import math
import re
from xml.etree import ElementTree

import pytest

from gve_ray.evaluation.report.charts import (
    Cell,
    HeatMap,
    Series,
    difference,
    heat_map,
    heat_map_png,
    interval,
    radar,
    radar_png,
)

EVIL = '"><script>alert(1)</script>'
PNG = b"\x89PNG\r\n\x1a\n"


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    match = re.search(rf'<polygon class="series {kind}[^"]*" points="([^"]*)"', svg)
    assert match
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in match[1].split())]


def test_radar_points_are_at_the_scores() -> None:
    """The scale ends at 0.8, the first multiple of 0.2 above 0.75; the four axes point up, right,
    down and left.
    """
    own = Series(name="mine", values={"CG": 0.4, "FG": 0.75, "LC": 0.0, "S": 0.2, "T": 0.1})
    other = Series(name="other", values={"CG": 0.8, "FG": 0.4, "LC": 0.4, "S": 0.4}, published=True)
    svg = radar([own, other])
    ElementTree.fromstring(svg)
    assert "T</text>" not in svg  # the other has no such ability
    top, right, down, left = points(svg, "s1 published")
    centre = (down[0], left[1])
    assert right[1] == pytest.approx(centre[1])
    radius = centre[1] - top[1]
    assert right[0] - centre[0] == pytest.approx(radius / 2, abs=0.2)
    distances = [math.dist(point, centre) for point in points(svg, "s0 first")]
    assert distances == pytest.approx([radius / 2, radius * 0.75 / 0.8, 0, radius / 4], abs=0.2)
    assert "mine, FG: 0.750" in svg


def test_a_radar_needs_three_abilities() -> None:
    for draw in (radar, radar_png):
        with pytest.raises(ValueError, match="radar of CG, S: it needs at least three"):
            draw([Series(name="a", values={"CG": 0.1, "S": 0.2})])


def test_heat_map_shows_sign_size_and_certainty() -> None:
    cells = [
        [None, Cell(value=-0.714, low=-0.9, high=-0.1)],
        [Cell(value=0.3, low=-0.2, high=0.6), Cell(value=1.0, low=1.0, high=1.0)],
    ]
    data = HeatMap(name="x", title="t", note="n", rows=["S", EVIL], columns=["CG", "T"], cells=cells)
    svg = heat_map(data)
    groups = [node for node in ElementTree.fromstring(svg) if node.tag == "g"]
    rects = [node.find("rect") for node in groups]
    texts = [node.find("text") for node in groups]
    assert [rect.get("class") for rect in rects] == ["neg", "pos", "pos"]  # type: ignore[union-attr]
    assert [rect.get("fill-opacity") for rect in rects] == ["0.71", "0.30", "1.00"]  # type: ignore[union-attr]
    assert [text.text for text in texts] == ["-.71", ".30", "1"]  # type: ignore[union-attr]
    assert [text.get("class") for text in texts] == ["cell against sure", "cell", "cell on sure"]  # type: ignore[union-attr]
    assert groups[0].findtext("title") == "S, T: -0.71 [-0.90, -0.10]"
    assert heat_map_png(data)[:8] == PNG


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
    for svg in (radar([evil]), interval(0, 0, 1, label=EVIL), difference(0, 0, 1, label=EVIL, is_sure=True)):
        assert "<script" not in svg
        ElementTree.fromstring(svg)


def test_the_radar_png_is_a_picture() -> None:
    assert radar_png([Series(name="a", values={"CG": 0.1, "S": 0.2, "T": 1.0})])[:8] == PNG
