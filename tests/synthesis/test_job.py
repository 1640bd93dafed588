"""The job around its stages: their order, run.json, the report, and what happens the second time.

The expensive stages are stood in for by rows written directly; assembly, report and run folder are real.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gve_ray.inputs.manifest import MANIFEST_SCHEMA
from gve_ray.job import run_job
from gve_ray.preflight import fit
from gve_ray.schema import AssetRef
from gve_ray.stage import Reject, StageCounts, StageError, StagePace
from gve_ray.store import AssetReader
from gve_ray.synthesis import job
from gve_ray.synthesis.config import CaptionerConfig, ConsistencyConfig, QualityConfig, SynthesisConfig
from gve_ray.synthesis.consistency import separation
from gve_ray.synthesis.cut import threshold_of
from gve_ray.synthesis.ingest import INGEST_SCHEMA
from gve_ray.synthesis.job import manifest_fingerprint
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.pipeline import STAGES
from gve_ray.synthesis.spending import Usage
from gve_ray.synthesis.stages import Stage, SynthesisRun

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


class FakeStages:
    """Stand-ins for the stages that need models, which record their calls and can fail."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.fail = False
        work = {
            "rectify": lambda run: self.counts_of(run, "rectify"),
            "integrity": lambda run: self.counts_of(run, "integrity", rejected=1),
            "dynamics": lambda run: self.counts_of(run, "dynamics", rejected=1, before=1),
            "assets": self.write_assets,
            "captions": self.annotate,
        }
        self.stages = [
            dataclasses.replace(stage, run=partial(self.call, work[stage.name]))
            if stage.name in work
            else stage
            for stage in STAGES
            if stage.name in (*work, "assemble")
        ]

    def call(self, work: Callable[[SynthesisRun], Any], run: SynthesisRun, stage: Stage) -> Any:
        self.called.append(stage.name)
        return work(run)

    def counts_of(self, run: SynthesisRun, name: str, *, rejected: int = 0, before: int = 0) -> StageCounts:
        n = run.manifest.num_rows - before
        return StageCounts(name=name, n_in=n, n_out=n - rejected, n_rejected=rejected, seconds=0.0)

    def write_assets(self, run: SynthesisRun) -> None:
        there = run.assets.create().keys()
        ids = [i for i in run.manifest["video_id"].to_pylist() if i not in {"v4", "v5", *there}]
        run.assets.append(pa.Table.from_pylist([asset(i) for i in ids], schema=run.assets.schema))
        decoded = run.decoded.create()
        if not run.rejects.create().keys():
            static = Reject("static", EVIL, {"motion": 0.01}).row("v4", stage="dynamics", unit="video")
            broken = Reject("truncated", EVIL).row("v5", stage="integrity", unit="video")
            others = [row for rows in run.rejected.values() for row in rows]
            run.rejects.append(pa.Table.from_pylist([static, broken, *others], schema=run.rejects.schema))
            decoded.append(pa.Table.from_pylist([asset("v4")], schema=INGEST_SCHEMA))

    def annotate(self, run: SynthesisRun) -> StageCounts:
        if self.fail:
            raise StageError("stage captions: its worker cannot start")
        ids = sorted(run.assets.keys() - run.annotations.create().keys())
        rows = [annotation(i) for i in ids]
        run.annotations.append(pa.Table.from_pylist(rows, schema=run.annotations.schema))
        return self.counts_of(run, "captions", before=2)


def describe_cluster(monkeypatch: pytest.MonkeyPatch, node: dict[str, float]) -> None:
    """Make the job see a cluster of one node with these resources."""
    for module in (job, fit):
        monkeypatch.setattr(module, "live_nodes", lambda: [node])
    monkeypatch.setattr(fit, "spare_nodes", list)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeStages:
    describe_cluster(monkeypatch, {"CPU": 8.0, "memory": 16.0 * 2**30})
    return FakeStages()


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


def test_a_run_leaves_counts_pairs_and_a_report(
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    config = make(seed=7)
    result = job.synthesize(config, stages=fake.stages)
    facts = run_facts(config)
    assert fake.called == ["rectify", "integrity", "dynamics", "assets", "captions"]
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
    scores = pq.read_table(Path(config.output, "scores.parquet")).to_pylist()
    assert {row["video_id"]: (row["stage"], row["motion"]) for row in scores} == {
        **dict.fromkeys(("v1", "v2", "v3"), (None, None)),  # these fakes decode only one video
        "v4": ("dynamics", 0.5),
        "v5": ("integrity", None),
    }


def test_every_reference_in_the_pairs_resolves(
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    config = make()
    job.synthesize(config, stages=fake.stages)
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
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    config = make()
    page = Path(job.synthesize(config, stages=fake.stages).report).read_text()
    assert EVIL not in page
    assert "rich v1 &lt;script&gt;" in page
    assert "integrity: truncated" in page
    assert "dynamics: static" in page
    assert page.count("data:image/jpeg;base64,") == 4 * 2  # of three kept videos, and of the static one
    assert "4 videos; videos below the cut are static" in page
    for title in ("Motion", "Caption words by style", "Rich caption words by profile", "Pairs by task"):
        assert f"<h3>{title}</h3>" in page


def test_a_filter_of_the_user_s_own_is_in_run_json_and_in_the_funnel(
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    def reject_one(run: SynthesisRun, stage: Stage) -> StageCounts:
        return run.record(stage, 3, {"v3": Reject("too_much_text", "share 0.2")})

    own = Stage(name="text_overlay", unit="videos", reads=(), writes=(), run=reject_one)
    at = [stage.name for stage in fake.stages].index("assets")
    config = make()
    result = job.synthesize(config, stages=[*fake.stages[:at], own, *fake.stages[at:]])
    (entry,) = (stage for stage in run_facts(config)["stages"] if stage["name"] == "text_overlay")
    assert (entry["unit"], entry["in"], entry["out"], entry["rejected"]) == ("videos", 3, 2, 1)
    page = Path(result.report).read_text()
    assert page.index("<b>dynamics</b>") < page.index("<b>text_overlay</b>") < page.index("<b>captions</b>")
    assert "refused: 1 too_much_text" in page
    assert "text_overlay: too_much_text" in page


def test_what_the_filter_can_tell_apart_is_kept_for_a_later_call(
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    def score(run: SynthesisRun, stage: Stage) -> StageCounts:
        run.shared.cosines[run.part] = [0.9, 0.5], [0.5, 0.1]
        return run.record(stage, 3, {})

    scoring = Stage(name="consistency", unit="videos", reads=(), writes=(), run=score)
    config = make()
    threshold = threshold_of(config.quality.consistency, [0.9, 0.5])
    expected = separation([0.9, 0.5], [0.5, 0.1], threshold)
    result = job.synthesize(config, stages=[scoring, *fake.stages])
    assert "filter  ROC-AUC 0.875 " in str(result)
    assert run_facts(config)["separation"] == expected.to_dict()
    again = job.synthesize(config, stages=[])
    assert again.was_finished
    assert again.separation == expected


def test_a_trial_says_in_the_report_what_the_whole_takes(
    fake: FakeStages, make: Callable[..., SynthesisConfig]
) -> None:
    class Ledger:
        def usage(self) -> Usage:
            return Usage(answers=12, prompt_tokens=3000, output_tokens=600)

        close = usage

    def annotate(run: SynthesisRun) -> StageCounts:
        run.shared.ledger = Ledger()  # type: ignore[assignment]
        run.shared.paces["captions"] = StagePace(rows=3, start_seconds=0.0, row_seconds=720.0)
        return fake.annotate(run)

    stages = [
        dataclasses.replace(stage, run=lambda run, _: annotate(run)) if stage.name == "captions" else stage
        for stage in fake.stages
    ]
    config = make(limit=3)
    result = job.synthesize(config, stages=stages)
    whole = (
        "20 answers, 5,000 and 1,000 tokens of prompts and output; measured on 3 of them"  # of five videos
    )
    assert result.estimate is not None
    assert whole in str(result)
    assert run_facts(config)["estimate"]["endpoint"]["prompt_tokens"] == 5000
    page = Path(result.report).read_text()
    assert whole in page
    assert "12 answers, 3,000 and 600 tokens of prompts and output<" in page
    assert "20 answers" not in Path(job.synthesize(make(), stages=fake.stages).report).read_text()


def test_a_finished_run_is_left_as_it_is(
    fake: FakeStages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    assert (
        run_job("synthesize", lambda: job.synthesize(config, stages=fake.stages, connect=lambda: None)) == 0
    )
    before = {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")}
    fake.called.clear()
    capsys.readouterr()

    def connect() -> None:
        raise AssertionError("a finished run needs no cluster")

    assert run_job("synthesize", lambda: job.synthesize(config, stages=fake.stages, connect=connect)) == 0
    output = capsys.readouterr().out
    assert "finished before; nothing was done" in output
    assert "integrity" in output
    assert fake.called == []
    assert {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")} == before


def test_a_longer_manifest_goes_on(fake: FakeStages, make: Callable[..., SynthesisConfig]) -> None:
    job.synthesize(make(), stages=fake.stages)
    result = job.synthesize(make((*VIDEOS, "v6")), stages=fake.stages)
    assert not result.was_finished
    assert result.pairs["T2V"] == 4


def test_a_failed_stage_says_so_and_is_started_again(
    fake: FakeStages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make()
    fake.fail = True
    assert (
        run_job("synthesize", lambda: job.synthesize(config, stages=fake.stages, connect=lambda: None)) == 1
    )
    output = capsys.readouterr().err
    assert "stage captions: its worker cannot start" in output
    assert "start the job again to continue" in output
    assert "StageError" in run_facts(config)["runs"][0]["error"]
    fake.fail = False
    assert (
        run_job("synthesize", lambda: job.synthesize(config, stages=fake.stages, connect=lambda: None)) == 0
    )
    assert [run["error"] is None for run in run_facts(config)["runs"]] == [False, True]


def test_a_folder_of_another_config_is_refused(
    fake: FakeStages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run_job("synthesize", lambda: job.synthesize(make(seed=1), stages=fake.stages, connect=lambda: None))
        == 0
    )
    fake.called.clear()
    assert (
        run_job("synthesize", lambda: job.synthesize(make(seed=2), stages=fake.stages, connect=lambda: None))
        == 2
    )
    output = capsys.readouterr().err
    assert "belongs to another config" in output
    assert "seed (1, now 2)" in output
    assert fake.called == []


def test_nothing_is_written_when_resources_are_missing(
    fake: FakeStages,
    make: Callable[..., SynthesisConfig],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    describe_cluster(monkeypatch, {"CPU": 0.5, "memory": 16.0 * 2**30})
    config = make()
    assert (
        run_job("synthesize", lambda: job.synthesize(config, stages=fake.stages, connect=lambda: None)) == 2
    )
    assert (
        "resources.media: needs 1 x (1 CPU, 1.0 GiB memory), the cluster has 0.5 CPU"
        in capsys.readouterr().err
    )
    assert not Path(config.output).exists()


@pytest.mark.parametrize(
    ("cpus", "parts", "expected"),
    [
        # actors of media, of the embedder and of the captioner, and whether they live at the same time
        (2.0, 1, ((2, 1.0), (2, 1.0), (1, 2.0), False)),  # each may have the whole machine
        (4.0, 3, ((1, 1.0), (1, 1.0), (1, 2.0), True)),
        (2.0, 3, ((1, 0.5), (1, 0.5), (1, 1.0), True)),
        (1.0, 3, ((1, 1.0), (1, 1.0), (1, 1.0), False)),
    ],
)
def test_the_stages_of_several_parts_share_the_cluster(
    fake: FakeStages,
    make: Callable[..., SynthesisConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cpus: float,
    parts: int,
    expected: tuple[Any, ...],
) -> None:
    describe_cluster(monkeypatch, {"CPU": cpus, "memory": 16.0 * 2**30})
    config = make()
    with caplog.at_level("WARNING"):
        config, at_once = job.fit_stages(config, needs_of(config, list), parts=parts)
    pools = config.resources.media, config.resources.consistency, config.resources.captioner
    assert (*((pool.count, pool.demands["CPU"]) for pool in pools), at_once) == expected
    assert ("do not fit on the cluster at the same time" in caplog.text) == (parts > 1 and not at_once)


def test_ctrl_c_is_an_orderly_end(
    fake: FakeStages, make: Callable[..., SynthesisConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    def connect() -> None:
        raise KeyboardInterrupt

    assert run_job("synthesize", lambda: job.synthesize(make(), stages=fake.stages, connect=connect)) == 130
    assert "start the job again to continue" in capsys.readouterr().err


def manifest_of(*rows: tuple[str, str, str | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(MANIFEST_SCHEMA.names, row, strict=True)) for row in rows], schema=MANIFEST_SCHEMA
    )


def test_a_manifest_s_fingerprint_is_that_of_its_rows_as_json() -> None:
    text = (
        '[{"caption":"für \\"A\\"","uri":"/a.mp4","video_id":"a"},'
        '{"caption":null,"uri":"/b.mp4","video_id":"b"}]'
    )
    rows = [("a", "/a.mp4", 'für "A"'), ("b", "/b.mp4", None)]
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert manifest_fingerprint(manifest_of(*rows)) == expected
    parts = [manifest_of(row) for row in rows]
    for tables in (parts, parts[::-1]):  # the parts of a run are not in the order of ids
        assert manifest_fingerprint(pa.concat_tables(tables)) == expected
    assert manifest_fingerprint(manifest_of(*rows[:1])) != expected
