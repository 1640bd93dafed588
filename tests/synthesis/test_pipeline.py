"""The job around its stages: their order, run.json, the report, and what happens the second time.

The expensive stages are stood in for by rows written directly; assembly, report and run folder are real.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from gve_ray.job import run_job
from gve_ray.schema import AssetRef
from gve_ray.stage import Reject, StageCounts, StageError
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis import pipeline
from gve_ray.synthesis.config import CaptionerConfig, ConsistencyConfig, QualityConfig, SynthesisConfig
from gve_ray.synthesis.ingest import INGEST_SCHEMA, ingest_fingerprint

VIDEOS = ("v1", "v2", "v3", "v4", "v5")  # v4 is refused as static, v5 as broken
EVIL = "<script>alert(1)</script>"
STYLES = ("short", "rich", "abstract", "keywords", "partial")


def jpeg(grey: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((28, 56, 3), grey, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def asset(video_id: str) -> dict[str, Any]:
    times, frames = [0.0, 1.0], [jpeg(10), jpeg(200)]
    clip = {"start": 0.0, "end": 2.0, "frames": frames, "timestamps": times, "indices": [0, 8]}
    return {
        "video_id": video_id, "uri": f"/videos/{video_id}.mp4", "caption": EVIL, "content_hash": video_id,
        "repaired": False, "container": "mp4", "codec": "h264", "width": 56, "height": 28, "fps": 8.0,
        "duration": 2.0, "total_frames": 16, "frames": frames, "timestamps": times, "indices": [0, 8],
        "reference_frames": [jpeg(90)], "reference_timestamps": [0.5], "clips": [clip], "signature": b"",
        "motion": 0.5, "consistency": 0.25,
    }  # fmt: skip


def annotation(video_id: str) -> dict[str, Any]:
    video, frame, clip = (str(AssetRef(video_id, part)) for part in ("video", "frame", "clip"))

    def texts(ref: str, styles: tuple[str, ...], profile: str | None) -> list[dict[str, Any]]:
        return [
            {"ref": ref, "style": s, "profile": profile, "text": f"{s} {video_id} {EVIL}"} for s in styles
        ]

    return {
        "video_id": video_id, "duration": 2.0, "reference_timestamps": [0.5],
        "clip_spans": [{"start": 0.0, "end": 2.0}], "captions": texts(video, STYLES, "temporal"),
        "frame_captions": texts(frame, STYLES, "spatial"),
        "composed_image": texts(frame, ("action change",), None),
        "composed_clip": texts(clip, ("temporal continuation",), None), "generations": [],
    }  # fmt: skip


def counts(name: str, n_in: int, rejected: int = 0) -> StageCounts:
    return StageCounts(name=name, n_in=n_in, n_out=n_in - rejected, n_rejected=rejected, seconds=1.0)


class Stages:
    """Stand-ins for build_assets and build_annotations that remember who was called, and can fail."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.fail = False

    def build_assets(
        self, manifest: pa.Table, *, assets: Store, rejects: Store, work: str, media: Any, seed: int, **_: Any
    ) -> list[StageCounts]:
        self.called.append("assets")
        ids = manifest["video_id"].to_pylist()
        there = assets.create().keys()
        new = [asset(i) for i in ids if i not in ("v4", "v5") and i not in there]
        assets.append(pa.Table.from_pylist(new, schema=assets.schema))
        decoded = Store(f"{work}/ingest-{ingest_fingerprint(media, seed)[:16]}.lance", INGEST_SCHEMA).create()
        if not rejects.create().keys():
            static = Reject("static", EVIL, {"motion": 0.01}).row("v4", stage="dynamics", unit="video")
            broken = Reject("truncated", EVIL).row("v5", stage="integrity", unit="video")
            rejects.append(pa.Table.from_pylist([static, broken], schema=rejects.schema))
            decoded.append(pa.Table.from_pylist([asset("v4")], schema=INGEST_SCHEMA))
        left = len(ids) - 1
        return [
            counts("rectify", len(ids)),
            counts("integrity", len(ids), rejected=1),
            counts("dynamics", left, rejected=1),
        ]

    def build_annotations(
        self, config: SynthesisConfig, *, assets: Store, annotations: Store, rejects: Store, **_: Any
    ) -> list[StageCounts]:
        self.called.append("annotations")
        if self.fail:
            raise StageError("stage captions: its worker cannot start")
        ids = sorted(assets.keys() - annotations.create().keys())
        rows = [annotation(i) for i in ids]
        annotations.append(pa.Table.from_pylist(rows, schema=annotations.schema))
        return [counts("captions", assets.count())]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    stand_in = Stages()
    monkeypatch.setattr(pipeline, "build_assets", stand_in.build_assets)
    monkeypatch.setattr(pipeline, "build_annotations", stand_in.build_annotations)
    monkeypatch.setattr(pipeline, "live_nodes", lambda: [{"CPU": 8.0}])
    return stand_in


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., SynthesisConfig]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def config(videos: tuple[str, ...] = VIDEOS, **options: Any) -> SynthesisConfig:
        manifest = tmp_path / "manifest.jsonl"
        rows = [{"video_id": v, "uri": f"/videos/{v}.mp4", "caption": EVIL} for v in videos]
        manifest.write_text("\n".join(json.dumps(row) for row in rows))
        return SynthesisConfig(
            input=str(manifest),
            output=str(tmp_path / "run"),
            captioner=CaptionerConfig(model=str(model)),
            quality=QualityConfig(consistency=ConsistencyConfig(model=str(model), threshold=0.1)),
            **options,
        )

    return config


def run_facts(config: SynthesisConfig) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(Path(config.output, "run.json").read_text())
    return facts


def test_a_run_leaves_counts_pairs_and_a_report(stages: Stages, make: Callable[..., SynthesisConfig]) -> None:
    config = make(seed=7)
    result = pipeline.synthesize(config)
    facts = run_facts(config)
    assert stages.called == ["assets", "annotations"]
    assert [stage["name"] for stage in facts["stages"]] == [
        "rectify",
        "integrity",
        "dynamics",
        "captions",
        "assemble",
    ]
    assert [stage["unit"] for stage in facts["stages"]] == ["captions", "videos", "videos", "videos", "pairs"]
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in facts["stages"])
    # three annotated videos; quotas scaled to one T2V a video give the other tasks their share, rounded up
    assert facts["pairs"] == {"T2T": 1, "T2I": 1, "T2V": 3, "TI2V": 1, "TV2V": 1, "I2V": 1, "V2V": 1}
    assert (facts["config"]["seed"], facts["job"]) == (7, "synthesize")
    assert facts["versions"]["python"]
    assert result.pairs == facts["pairs"]
    assert Path(config.output, "funnel.png").read_bytes()[:4] == b"\x89PNG"


def test_every_reference_in_the_pairs_resolves(stages: Stages, make: Callable[..., SynthesisConfig]) -> None:
    config = make()
    pipeline.synthesize(config)
    pairs = ds.dataset(f"{config.output}/uvrd", format="parquet").to_table().to_pylist()
    refs = {
        item[kind]
        for pair in pairs
        for item in (pair["query"], pair["target"])
        for kind in ("image", "video")
    } - {None}
    reader = AssetReader(f"{config.output}/assets.lance")
    assert {len(reader.frames(ref).pixels) for ref in refs} == {1, 2}  # stills; videos and clips


def test_the_report_shows_the_run_and_escapes_its_texts(
    stages: Stages, make: Callable[..., SynthesisConfig]
) -> None:
    config = make()
    page = Path(pipeline.synthesize(config).report).read_text()
    assert EVIL not in page
    assert "rich v1 &lt;script&gt;" in page
    assert "integrity: truncated" in page
    assert "dynamics: static" in page
    assert page.count("data:image/jpeg;base64,") == 4 * 2  # of three kept videos, and of the static one
    assert "4 videos; videos below the cut are static" in page
    for title in ("Motion", "Caption words by style", "Rich caption words by profile", "Pairs by task"):
        assert f"<h3>{title}</h3>" in page


def test_a_finished_run_is_left_as_it_is(
    stages: Stages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    assert run_job(lambda: pipeline.synthesize(config, connect=lambda: None)) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")}
    stages.called.clear()
    capsys.readouterr()

    def connect() -> None:
        raise AssertionError("a finished run needs no cluster")

    assert run_job(lambda: pipeline.synthesize(config, connect=connect)) == 0
    output = capsys.readouterr().out
    assert "finished before; nothing was done" in output
    assert "integrity" in output
    assert stages.called == []
    assert {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")} == before


def test_a_longer_manifest_goes_on(stages: Stages, make: Callable[..., SynthesisConfig]) -> None:
    pipeline.synthesize(make())
    result = pipeline.synthesize(make((*VIDEOS, "v6")))
    assert not result.was_finished
    assert result.pairs["T2V"] == 4


def test_a_failed_stage_says_so_and_is_started_again(
    stages: Stages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    stages.fail = True
    assert run_job(lambda: pipeline.synthesize(config, connect=lambda: None)) == 1
    output = capsys.readouterr().err
    assert "stage captions: its worker cannot start" in output
    assert "start the job again to continue" in output
    assert "StageError" in run_facts(config)["runs"][0]["error"]
    stages.fail = False
    assert run_job(lambda: pipeline.synthesize(config, connect=lambda: None)) == 0
    assert [run["error"] is None for run in run_facts(config)["runs"]] == [False, True]


def test_a_folder_of_another_config_is_refused(
    stages: Stages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_job(lambda: pipeline.synthesize(make(seed=1), connect=lambda: None)) == 0
    stages.called.clear()
    assert run_job(lambda: pipeline.synthesize(make(seed=2), connect=lambda: None)) == 2
    output = capsys.readouterr().err
    assert "belongs to another config" in output
    assert "seed (1, now 2)" in output
    assert stages.called == []


def test_nothing_is_written_when_resources_are_missing(
    stages: Stages,
    make: Callable[..., SynthesisConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pipeline, "live_nodes", lambda: [{"CPU": 0.5}])
    config = make()
    assert run_job(lambda: pipeline.synthesize(config, connect=lambda: None)) == 2
    assert "resources.media: needs 1 x (1 CPU), the cluster has 0.5 CPU" in capsys.readouterr().err
    assert not Path(config.output).exists()


def test_ctrl_c_is_an_orderly_end(
    stages: Stages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        raise KeyboardInterrupt

    assert run_job(lambda: pipeline.synthesize(make(), connect=connect)) == 130
    assert "start the job again to continue" in capsys.readouterr().err
