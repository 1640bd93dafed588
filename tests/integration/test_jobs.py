"""Tests a whole synthesis job with rendered videos whose properties are known and with the real engines.

Slow tests run jobs/synthesize.py and jobs/train.py, which trains on its output, on Ray's job server, and
`gve synthesize` on a folder of other videos; by default, the job server gets a job that cannot run. For more tests of
restarts, see test_synthesis_faults.py and test_training_faults.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from gve_ray.config import load_config
from gve_ray.demo.corpus import CorpusShares, Entry, read_truth, write_corpus
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.embedder import Embedder
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA, UVRD_TASKS, Item
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.job import synthesize
from gve_ray.training.runlog import read_log
from tests.local_actors import local_actors
from tests.ray_head import HeadError, LocalHead

REPOSITORY = Path(__file__).resolve().parents[2]
MEDIA = Path(os.environ.get("GVE_MEDIA_DIR", REPOSITORY.parent / "shared" / "media"))
# One defective file of each kind that the first stages must find; the other files are valid.
VIDEOS = 6
DEFECTS = dict.fromkeys(("static", "not_a_video", "exact_duplicate", "junk_caption"), 1 / VIDEOS)
SHARES = CorpusShares(**{name: DEFECTS.get(name, 0.0) for name in vars(CorpusShares())})
# Every pair passes this threshold, because four captions are too few to test the filter; tests/synthesis tests it.
OPTIONS = ["--config", "demo.yaml", "--quality.consistency.threshold", "-1", "--resources.media.actors", "1"]

pytestmark = pytest.mark.timeout(600)  # seconds; on two idle cores, a test takes about a fifth of this


@pytest.fixture(scope="module")
def head() -> Iterator[LocalHead]:
    with LocalHead(num_cpus=2) as running:
        yield running


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_corpus(folder, n=VIDEOS, seed=3, shares=SHARES, workers=1)
    return folder


@pytest.fixture(scope="module")
def output(cluster: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job whose captioner is an actor of Ray."""
    folder = tmp_path_factory.mktemp("runs") / "job"
    with local_actors(on_ray=["captions"]):
        synthesize(load_config(SynthesisConfig, options(corpus / "manifest.jsonl", folder)))
    return folder


def options(source: Path, output: Path) -> list[str]:
    return [*OPTIONS, "--input", str(source), "--output", str(output)]


def job(source: Path, output: Path, *more: str) -> list[str]:
    return ["python", "jobs/synthesize.py", *options(source, output), *more]


def run_json(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "run.json").read_text())
    return content


def ids(entries: list[Entry], **values: str) -> set[str]:
    """Return the ids of the videos whose attributes have these values."""
    return {e.video_id for e in entries if all(getattr(e, k) == v for k, v in values.items())}


def test_the_job_rejects_the_defective_files_and_loses_no_video(corpus: Path, output: Path) -> None:
    truth = read_truth(corpus)
    stages = {stage["name"]: stage for stage in run_json(output)["stages"]}
    assert stages["integrity"]["in"] == len(truth)
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in stages.values())
    rejects = Store(f"{output}/rejects.lance", REJECT_SCHEMA)
    rejected = {stage: rejects.keys(f"stage = '{stage}'") for stage in ("rectify", "integrity", "dynamics")}
    assert rejected == {
        "rectify": ids(truth, caption_kind="junk"),
        "integrity": ids(truth, kind="not_a_video"),
        "dynamics": ids(truth, kind="static"),
    }
    rejected_videos = rejects.keys("unit = 'video'")
    kept = Store(f"{output}/assets.lance", ASSET_SCHEMA).keys()
    assert kept | rejected_videos == {entry.video_id for entry in truth}
    assert not kept & rejected_videos


def test_every_kept_video_is_captioned_once_or_rejected(output: Path) -> None:
    captioned = Store(f"{output}/annotations.lance", ANNOTATION_SCHEMA).table(["video_id"])[0].to_pylist()
    assert len(set(captioned)) == len(captioned)
    failed = Store(f"{output}/rejects.lance", REJECT_SCHEMA).keys("stage = 'captions'")
    assert set(captioned) | failed == Store(f"{output}/assets.lance", ASSET_SCHEMA).keys()


def test_all_tasks_have_pairs_whose_references_resolve(output: Path) -> None:
    pairs = ds.dataset(f"{output}/uvrd", format="parquet").to_table().to_pylist()
    assert {pair["task"] for pair in pairs} == {task.value for task in UVRD_TASKS}
    items = [pair[side] for pair in pairs for side in ("query", "target")]
    refs = {item[kind] for item in items for kind in ("image", "video")} - {None}
    frames = AssetReader(f"{output}/assets.lance").frames_many(sorted(refs))
    assert {len(clip.pixels) for clip in frames} == {1, 8}


def test_the_report_is_written(output: Path) -> None:
    page = (output / "report.html").read_text()
    assert run_json(output)["report"] == str(output / "report.html")
    assert "Sampled videos" in page
    assert "dynamics: static" in page
    assert (output / "funnel.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_finished_job_does_nothing(head: LocalHead, corpus: Path, output: Path) -> None:
    before = (output / "run.json").read_bytes()
    head.submit(job(corpus / "manifest.jsonl", output), working_dir=REPOSITORY)
    assert (output / "run.json").read_bytes() == before


@pytest.mark.slow
def test_the_training_job_trains_an_adapter_on_the_pairs(
    head: LocalHead, output: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    data = json.dumps([{"name": "uvrd", "uri": f"{output}/uvrd", "tasks": ["T2V"], "batch_size": 4}])
    head.submit(
        [
            *("python", "jobs/train.py", "--config", "demo.yaml", "--data", data),
            *("--assets", f"{output}/assets.lance", "--output", str(trained)),
            *("--curriculum.epochs", "1", "--loop.steps", "3", "--resources.workers", "1"),
        ],
        working_dir=REPOSITORY,
    )
    printed = capfd.readouterr().out
    assert "steps    3 in" in printed
    assert "uvrd-T2V" in printed
    steps = list(read_log(trained / "steps.jsonl"))
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert any(step["hardest_gap"] is not None for step in steps)  # there were negatives
    embedder = Embedder.from_pretrained(MODEL, trained / "adapter")
    vectors = embedder.embed([Item(text="a red bar"), Item(text="a blue ring")])
    assert vectors.shape == (2, embedder.dimension)


def test_a_job_that_cannot_run_fails_before_any_work(
    head: LocalHead, corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = job(corpus / "manifest.jsonl", tmp_path / "run", "--resources.captioner.num_gpus", "1")
    with pytest.raises(HeadError, match="FAILED"):
        head.submit(command, working_dir=REPOSITORY)
    assert "1 GPU" in capfd.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(not MEDIA.is_dir(), reason=f"no folder {MEDIA}; set GVE_MEDIA_DIR")
def test_gve_synthesize_runs_on_any_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "gve_ray.cli", "synthesize", "--config", "demo.yaml"]
    done = subprocess.run(
        [*command, "--input", str(MEDIA), "--output", str(out)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    stages = {stage["name"]: stage for stage in run_json(out)["stages"]}
    videos = [path for path in MEDIA.iterdir() if path.suffix in (".mp4", ".mkv")]
    assert stages["integrity"]["in"] == len(videos)
    assert stages["rectify"]["in"] == 0  # the videos have no captions
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in stages.values())
    assert f"report  {out}/report.html" in done.stdout
