"""The report: the right numbers, texts from the web kept in their place, nothing loaded."""

import io
import re

import numpy as np
from PIL import Image

from gve_ray.report import picture
from gve_ray.synthesis.consistency import separation
from gve_ray.synthesis.report import Card, Chart, Page, funnel, render, score_charts
from tests.report.tags import Tags

EVIL = '</p><script>alert("x")</script><img src=https://evil.example/x.png onerror=alert(1)>'


def stage(name: str, n_in: int, rejected: int, unit: str = "videos") -> dict[str, object]:
    return {
        "name": name, "unit": unit, "in": n_in, "out": n_in - rejected, "rejected": rejected, "seconds": 1.25
    }  # fmt: skip


def jpeg(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def page(**parts: object) -> Page:
    defaults: dict[str, object] = {"title": "t", "headline": [("videos", "3")], "funnel": []}
    return Page(**{**defaults, **parts})  # type: ignore[arg-type]


def test_funnel_bars_are_relative_to_the_widest_of_their_unit() -> None:
    stages = [stage("rectify", 40, 10, "captions"), stage("integrity", 80, 20), stage("dynamics", 60, 0)]
    steps = funnel(stages, {"integrity": {"empty": 5, "truncated": 10, "audio_only": 5}})
    assert [step.width for step in steps] == [100.0, 100.0, 75.0]
    assert steps[1].reasons == [("truncated", 10), ("audio_only", 5), ("empty", 5)]
    assert steps[2].reasons == []


def test_the_page_says_the_counts() -> None:
    steps = funnel([stage("integrity", 12345, 345)], {"integrity": {"truncated": 345}})
    text = re.sub(r"\s+", " ", Tags(render(page(funnel=steps))).text)
    assert "12,000 of 12,345" in text
    assert "refused: 345 truncated" in text


def test_texts_from_the_web_stay_texts() -> None:
    card = Card(
        name=EVIL, facts=EVIL, texts=[(EVIL, EVIL)], pictures=[picture(jpeg(8, 8))], stage=EVIL, reason=EVIL,
        detail=EVIL,
    )  # fmt: skip
    html = render(
        page(
            title=EVIL,
            headline=[(EVIL, EVIL)],
            funnel=funnel([stage(EVIL, 3, 1)], {EVIL: {EVIL: 1}}),
            charts=[Chart(title=EVIL, svg="<svg></svg>", note=EVIL)],
            samples=[card],
            rejects=[card],
            facts=[(EVIL, EVIL)],
        )
    )
    parsed = Tags(html)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not [attrs for _, attrs in parsed.tags if any(name.startswith("on") for name in attrs)]
    assert {attrs["src"].split(",")[0] for tag, attrs in parsed.tags if tag == "img" and attrs["src"]} == {
        "data:image/jpeg;base64"
    }
    assert parsed.text.count(EVIL) >= 15


def test_the_page_loads_nothing_and_fits_phones_and_dark_rooms() -> None:
    html = render(page())
    parsed = Tags(html)
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", html)
    policies = [a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert any(a.get("name") == "viewport" for t, a in parsed.tags if t == "meta")
    assert "prefers-color-scheme: dark" in html


def test_the_consistency_chart_says_what_the_model_can_tell_apart() -> None:
    given, mismatched = [0.9, 0.5], [0.5, 0.1]
    (chart,) = score_charts(
        {"consistency": given},
        {"consistency": 0.5},
        mismatched=mismatched,
        separation=separation(given, mismatched, 0.5),
    )
    assert "ROC-AUC 0.875" in chart.note
    assert "below the cut 0.500: 0.0% and 50.0%" in chart.note
    assert 'class="outline"' in chart.svg


def test_score_charts_leave_out_what_nobody_has() -> None:
    scores = {"motion": [0.1, 0.4], "consistency": []}
    score_histograms = score_charts(scores, {"motion": 0.2, "consistency": 0.5})
    assert [chart.title for chart in score_histograms] == ["Motion"]
    assert score_histograms[0].note.startswith("2 videos")
    assert 'class="cut"' in score_histograms[0].svg
