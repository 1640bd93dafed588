"""Tests the common frame of all reports, and embedded pictures."""

import base64
import io
import re

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from gve_ray.report import picture, render
from gve_ray.report.drawing import svg


def jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def synthesis_page(**values: object) -> str:
    names = ("headline", "funnel", "charts", "samples", "rejects", "facts")
    return render("gve_ray.synthesis", "report.html.j2", **{**dict.fromkeys(names, ()), **values})


def test_a_template_is_rendered_inside_the_frame() -> None:
    html = synthesis_page(title="a & b")
    assert html.startswith("<!doctype html>")
    assert html.count("</html>") == html.count("<style>") == 1
    assert "<title>a &amp; b</title>" in html
    assert ".step {" in html  # the template's own style
    assert "prefers-color-scheme: dark" in html
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", html)


def test_a_variable_without_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        synthesis_page()


@pytest.mark.parametrize(
    "size,options", [((240, 120), {}), ((160, 80), {"size": (160, 120)}), ((120, 60), {"size": (400, 60)})]
)
def test_pictures_are_reduced_and_keep_their_aspect_ratio(
    size: tuple[int, int], options: dict[str, object]
) -> None:
    header, data = picture(jpeg(640, 320), **options).split(",")  # type: ignore[arg-type]
    assert header == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == size


def test_a_label_is_escaped() -> None:
    assert "<script" not in svg("", label='"><script>', width=10, height=5)
