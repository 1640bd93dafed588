"""Tests the forms in which hits are written down."""

import csv
import io
import json
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.serving.client import Client
from gve_ray.serving.hits import as_csv, as_edl, as_text


def hit(uri: str, start: float, end: float, **metadata: Any) -> dict[str, Any]:
    links = {"video": f"/media/m/{start}#t={start},{end}", "moment": f"/moments/m/{start}.mp4"}
    return {
        "id": "ab" if start else "cd",
        "score": 0.5,
        "confidence": 0.97 if start else None,
        "uri": uri,
        "start": start,
        "end": end,
        "links": links,
        "metadata": metadata,
    }


HITS = [
    hit("/films/a.mp4", 3725.96, 3730.0, caption='a "red" ball,\nrolling'),
    hit("/films/b, c.mp4", 0.0, 0.01),
]


def test_times_are_those_of_a_clock() -> None:
    assert as_text(HITS).splitlines() == [
        "  1   0.500  1:02:06.0 - 1:02:10.0  /films/a.mp4",
        "  2   0.500  0:00:00.0 - 0:00:00.0  /films/b, c.mp4",
    ]
    assert as_text([]) == ""
    moved = [HITS[0] | {"rank_before": 1}, HITS[1] | {"rank_before": 7}]
    assert as_text(moved).splitlines()[1:] == [
        *as_text(HITS).splitlines()[1:],
        "             was at rank 7 before reranking",
    ]
    grouped = {**HITS[1], "moments": [HITS[0], HITS[1]]}
    assert as_text([grouped]).splitlines()[1:] == ["             also at 1:02:06.0, 0:00:00.0"]


def test_a_table_can_be_read_back() -> None:
    first, second = csv.DictReader(io.StringIO(as_csv(HITS), newline=""))
    assert first == {
        "rank": "1", "score": "0.5", "confidence": "0.97", "start": "3725.96", "end": "3730.0",
        "uri": "/films/a.mp4", "id": "ab", "caption": 'a "red" ball,\nrolling',
    }  # fmt: skip
    assert (second["uri"], second["caption"], second["confidence"]) == ("/films/b, c.mp4", "", "")


def test_an_edit_decision_list_has_the_moments_one_after_another() -> None:
    lines = as_edl([*HITS, hit("/films/a\n002  AX.mp4", 1.0, 2.0)]).splitlines()
    assert [line for line in lines if line[:3].isdecimal()] == [
        "001  AX       V     C        01:02:05:24 01:02:10:00 00:00:00:00 00:00:04:01",
        "002  AX       V     C        00:00:00:00 00:00:00:01 00:00:04:01 00:00:04:02",  # at least one frame
        "003  AX       V     C        00:00:01:00 00:00:02:00 00:00:04:02 00:00:05:02",
    ]
    assert "* FROM CLIP NAME: b, c.mp4" in lines
    assert "* SOURCE FILE: /films/a 002  AX.mp4" in lines


def test_a_hit_opens_on_the_page_or_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened: list[str] = []
    saved: list[tuple[str, Path]] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(Client, "search", lambda *_, **__: HITS)
    monkeypatch.setattr(Client, "save", lambda _, link, path: saved.append((link, path)))
    search = ["search", "a ball", "--url", "http://127.0.0.1:9000/"]
    assert cli.main([*search, "--open"]) == 0
    assert cli.main([*search, "--model", "a b", "--open", "2"]) == 0
    assert opened == ["http://127.0.0.1:9000/?moment=ab", "http://127.0.0.1:9000/?model=a+b&moment=cd"]
    assert cli.main([*search, "--save", "2", str(tmp_path / "moment.mp4")]) == 0
    assert saved == [("/moments/m/0.0.mp4", tmp_path / "moment.mp4")]
    capsys.readouterr()
    assert cli.main([*search, "--open", "3"]) == 1
    assert capsys.readouterr().err == "error: --open 3: the number of hits is 2\n"
    with pytest.raises(SystemExit):
        cli.main([*search, "--save", "moment.mp4", "2"])
    assert "begin with the number of a hit" in capsys.readouterr().err
    assert (len(opened), len(saved)) == (2, 1)


def test_weak_hits_are_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON they are printed; hits of an earlier service do not say whether they are weak."""
    monkeypatch.delenv("GVE_API_KEY", raising=False)
    first, second = HITS
    for confident, printed, said in (
        ((True, False), 1, "weak hits left out: 1"),
        ((False, False), 0, "no confident match; weak hits left out: 2"),
        ((True, True), 2, ""),
        ((None, None), 2, ""),
    ):
        hits = [{**hit, "confident": value} for hit, value in zip((first, second), confident, strict=True)]
        monkeypatch.setattr(Client, "search", lambda *_, _hits=hits, **__: _hits)
        assert cli.main(["search", "a ball"]) == 0
        out, err = capsys.readouterr()
        assert (len(out.splitlines()), said in err, bool(err)) == (printed, True, bool(said))
        assert cli.main(["search", "a ball", "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)) == 2
