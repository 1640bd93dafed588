"""Tests the comparison of two catalogs, and the fields derived from a manifest's columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from gve_ray.indexing.catalog import compare, field_values, read_catalog, user_fields, write_catalog
from gve_ray.job import PreflightError


def row(video_id: str, **more: Any) -> dict[str, Any]:
    return {
        "video_id": video_id, "uri": f"/{video_id}", "version": "1", "subtitles": "[]", "fingerprint": "f",
        "metadata": "{}", "segments": 1, "lost": 0, "reason": None, "detail": None, **more,
    }  # fmt: skip


def test_every_video_has_one_state() -> None:
    broken = {"fingerprint": None, "segments": 0, "reason": "empty"}
    before = [row("same"), row("touched"), row("new bytes"), row("new words"), row("moved"), row("breaks"),
              row("gone"), row("mended", **broken), row("still broken", **broken), row("broken, gone", **broken),
              row("partly"), row("retold"), row("unread", subtitles=None)]  # fmt: skip
    now = [row("same"), row("touched", version="2"), row("new bytes", fingerprint="g", version="2"),
           row("new words", metadata='{"a": 1}'), row("moved", uri="/other"), row("breaks", **broken),
           row("mended"), row("still broken", **broken), row("partly", segments=2), row("added"),
           row("added broken", **broken), row("retold", subtitles="[1]"), row("unread")]  # fmt: skip
    assert compare(before, now) == {
        "same": "unchanged", "touched": "unchanged", "new bytes": "changed", "new words": "changed",
        "moved": "changed", "breaks": "rejected", "mended": "added", "still broken": "rejected",
        "partly": "changed", "added": "added", "added broken": "rejected", "gone": "removed",
        "retold": "changed", "unread": "unchanged",
    }  # fmt: skip


def test_a_catalog_survives_writing_and_reading(tmp_path: Path) -> None:
    assert read_catalog(tmp_path) == []
    rows = [row("a"), row("b", reason="empty", detail="0 bytes", fingerprint=None)]
    write_catalog(tmp_path, rows)
    assert read_catalog(tmp_path) == rows


def test_field_types_fit_all_values() -> None:
    rows = [
        {"year": 2024, "marks": 1, "live": True, "tag": "a", "mixed": 1, "list": [1], "none": None},
        {"year": None, "marks": 0.5, "live": False, "tag": "b", "mixed": "x", "list": [], "none": None},
        {"huge": 2**70},
    ]
    fields = user_fields("m.jsonl", rows)
    assert fields == {
        "year": "int", "marks": "float", "live": "bool", "tag": "string", "mixed": "string", "list": "string",
        "none": "string", "huge": "string",
    }  # fmt: skip
    assert field_values(rows[0], fields) == {
        "year": 2024, "marks": 1.0, "live": True, "tag": "a", "mixed": "1", "list": "[1]", "none": None,
        "huge": None,
    }  # fmt: skip
    for number in ("NaN", "Infinity", "-Infinity", "1e999"):  # as in JSON
        row = json.loads(f'{{"rating": {number}}}')
        assert user_fields("m.jsonl", [row]) == {"rating": "float"}
        assert (
            field_values(row, {"rating": "float"})
            == field_values(row, {"rating": "string"})
            == {"rating": None}
        )


@pytest.mark.parametrize("name", ["start", "id", "_hidden", "two words", ""])
def test_invalid_column_names_are_refused(name: str) -> None:
    with pytest.raises(PreflightError, match=r"input='m\.csv'"):
        user_fields("m.csv", [{name: 1}])
