"""scores.parquet: one row per video, with the verdict and every score that is known."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.stage import Reject
from gve_ray.store import Store
from gve_ray.synthesis.config import CaptionerConfig, SynthesisConfig
from gve_ray.synthesis.consistency import CONSISTENCY_SCHEMA
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.scores import VERDICT_SCHEMA, write_scores
from gve_ray.synthesis.stages import SynthesisRun

IDS = ("broken", "copy", "kept", "own", "static", "undecided", "unlike", "wordless")


def row(schema: pa.Schema, **values: Any) -> dict[str, Any]:
    return dict.fromkeys(schema.names) | values


def table(schema: pa.Schema, *rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


@pytest.fixture
def run(tmp_path: Path) -> SynthesisRun:
    """A run in which each video but three was rejected by another stage."""
    manifest = pa.table(
        {
            "video_id": list(IDS),
            "uri": [f"/{name}.mp4" for name in IDS],
            "caption": pa.nulls(len(IDS), pa.string()),
        }
    )
    config = SynthesisConfig(input="in", output=str(tmp_path / "out"), captioner=CaptionerConfig(model="m"))
    run = SynthesisRun(config=config, manifest=manifest)
    decoded = [
        row(INGEST_SCHEMA, video_id=name, width=64, duration=2.0, motion=0.01 if name == "static" else 0.5)
        for name in (*IDS[1:], "of another run")
    ]
    run.decoded.create().append(table(INGEST_SCHEMA, *decoded))
    cosines = Store(f"{tmp_path}/cosines.lance", CONSISTENCY_SCHEMA).create()
    cosines.append(
        table(
            CONSISTENCY_SCHEMA,
            *(
                row(CONSISTENCY_SCHEMA, video_id=name, consistency=value, mismatched=0.05)
                for name, value in {"unlike": 0.1, "own": 0.4, "wordless": 0.5}.items()
            ),
        )
    )
    run.shared.score_stores["consistency"] = cosines
    rejects = [
        Reject("empty", "").row("kept", stage="rectify", unit="caption"),
        Reject("truncated", "").row("broken", stage="integrity", unit="video"),
        Reject("near_duplicate", "", {"copy_of": "kept", "distance": 0.02}).row(
            "copy", stage="duplicates", unit="video"
        ),
        Reject("static", "", {"motion": 0.01}).row("static", stage="dynamics", unit="video"),
        Reject("inconsistent", "", {"consistency": 0.1, "threshold": 0.2}).row(
            "unlike", stage="consistency", unit="video"
        ),
        Reject("too_much_text", "", {"text_share": 0.5, "where": "top", "motion": 0.5}).row(
            "own", stage="overlays", unit="video"
        ),
        Reject("invalid_json", "", {"rejected": [{"answer": "?"}]}).row(
            "wordless", stage="captions", unit="caption"
        ),
        Reject("invalid_json", "").row("kept", stage="composed_image", unit="query"),
    ]
    run.rejects.create().append(table(run.rejects.schema, *rejects))
    run.annotations.create().append(
        table(run.annotations.schema, row(run.annotations.schema, video_id="kept"))
    )
    return run


def rows_of(run: SynthesisRun) -> dict[str, dict[str, Any]]:
    write_scores(run)
    written = pq.read_table(f"{run.config.output}/scores.parquet")
    assert written.schema.names[: len(VERDICT_SCHEMA)] == VERDICT_SCHEMA.names
    return {row["video_id"]: row for row in written.to_pylist()}


def test_every_video_has_its_verdict(run: SynthesisRun) -> None:
    rows = rows_of(run)
    assert {name: (row["kept"], row["stage"], row["reason"]) for name, row in rows.items()} == {
        "broken": (False, "integrity", "truncated"),
        "copy": (False, "duplicates", "near_duplicate"),
        "kept": (True, None, None),
        "own": (False, "overlays", "too_much_text"),
        "static": (False, "dynamics", "static"),
        "undecided": (None, None, None),
        "unlike": (False, "consistency", "inconsistent"),
        "wordless": (False, "captions", "invalid_json"),
    }
    assert rows["kept"]["uri"] == "/kept.mp4"


def test_rejected_videos_have_the_scores_that_are_known(run: SynthesisRun) -> None:
    rows = rows_of(run)
    assert {name: row["motion"] for name, row in rows.items()} == {
        **dict.fromkeys(IDS, 0.5),
        "broken": None,
        "static": 0.01,
    }
    assert rows["copy"]["copy_of"] == "kept"
    assert rows["copy"]["distance"] == 0.02
    assert [rows[name]["consistency"] for name in ("unlike", "own", "wordless", "copy")] == [
        0.1,
        0.4,
        0.5,
        None,
    ]
    assert rows["own"]["text_share"] == 0.5
    assert rows["own"]["where"] == "top"
    assert "rejected" not in rows["own"]  # the captioner's answers are no scores
    assert {row["width"] for row in rows.values()} == {64, None}


def test_a_score_in_rejects_fills_a_gap_and_hides_nothing(run: SynthesisRun) -> None:
    run.decoded.delete(["static"])  # as with a work folder that has lost rows
    name_taken = Reject("error", "", {"stage": "inside"}).row("undecided", stage="overlays", unit="video")
    run.rejects.append(table(run.rejects.schema, name_taken))
    rows = rows_of(run)
    assert rows["static"]["motion"] == 0.01
    assert rows["static"]["width"] is None
    assert (rows["undecided"]["stage"], rows["undecided"]["rejected_stage"]) == ("overlays", "inside")
