"""Held-out videos and their queries, recall with constructed embeddings, and the scores of a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.demo.corpus import read_truth
from gve_ray.demo.facts import judge
from gve_ray.demo.retrieval import Benchmark, format_training, recall, score_training, write_heldout
from gve_ray.demo.scenes import SPLIT_OF
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.embedder import EmbedderSettings, add_lora, load_processor, load_torch_model, save_adapter
from gve_ray.schema import Frames, Item
from gve_ray.training.curriculum import History


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heldout")


@pytest.fixture(scope="module")
def heldout(folder: Path) -> Benchmark:
    return write_heldout(folder, n=6, seed=3, workers=1)


def test_videos_are_held_out_and_their_queries_are_true(heldout: Benchmark, folder: Path) -> None:
    entries = read_truth(folder)
    assert [entry.kind for entry in entries] == ["healthy"] * 6
    looks = {
        (t.colour, t.shape, t.size, c.background, t.column, t.row)
        for entry in entries
        for c in entry.scene.chapters
        for t in c.things
    }
    assert {SPLIT_OF[look] for look in looks} == {"heldout"}
    assert {len(queries) for queries in heldout.queries.values()} == {6}
    for entry, query, video in zip(entries, heldout.queries["fine"], heldout.videos, strict=True):
        assert Path(video).is_file()
        judgement = judge(str(query.text), entry.scene)
        assert judgement.stated == judgement.true > 0
    for name, kind in (("composed_image", "image"), ("composed_clip", "video")):
        for query in heldout.queries[name]:
            assert query.text
            frames = getattr(query, kind)
            assert isinstance(frames, Frames)
            assert len(frames.pixels) == (1 if kind == "image" else 8)


def test_a_second_call_renders_nothing_and_returns_the_same_queries(heldout: Benchmark, folder: Path) -> None:
    times = [Path(video).stat().st_mtime_ns for video in heldout.videos]
    again = write_heldout(folder, n=6, seed=3, workers=1)
    assert [Path(video).stat().st_mtime_ns for video in again.videos] == times
    for name in ("coarse", "fine", "partial"):
        assert again.queries[name] == heldout.queries[name]
    clips = zip(again.queries["clip"], heldout.queries["clip"], strict=True)
    assert all(np.array_equal(a.video.pixels, b.video.pixels) for a, b in clips)  # type: ignore[union-attr]


class FixedEmbedder:
    """An embedder that gives text i the vector of video `order[i]`."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def embed(self, items: Sequence[Item], progress: bool = False) -> np.ndarray:
        rows = np.eye(len(items), dtype=np.float32)
        return rows if items[0].video is not None else rows[list(self.order)]


def test_recall_counts_the_videos_ranked_before_the_right_one(heldout: Benchmark) -> None:
    embedder: Any = FixedEmbedder([0, 1, 2, 3, 5, 4])  # texts 4 and 5 are closest to each other's videos
    scores = recall(embedder, heldout, abilities=("fine", "coarse"), ranks=(1, 2))
    assert scores == {"fine": {1: 4 / 6, 2: 1.0}, "coarse": {1: 4 / 6, 2: 1.0}}


def test_training_is_scored_from_the_run_folder(heldout: Benchmark, tmp_path: Path) -> None:
    settings = EmbedderSettings(frames=8, max_pixels=112 * 112, min_pixels=56 * 56)
    model = load_torch_model(MODEL, processor=load_processor(MODEL), dtype="float32", device="cpu")
    add_lora(model, r=4, alpha=8, dropout=0.0, seed=0)
    save_adapter(model, tmp_path / "adapter", settings)
    facts = {
        "config": {"model": "package://demo/tiny_vl/model"},
        "runs": [{"started": 10.0, "ended": None}, {"started": 20.0, "ended": 25.5}],
    }
    (tmp_path / "run.json").write_text(json.dumps(facts))
    steps = [
        {"data_wait": 9.0, "seconds": 10.0, "loss": 2.0},
        {"data_wait": 0.5, "seconds": 2.0, "loss": 1.0},
    ]
    History(kind="pyramid").save(str(tmp_path / "adapter" / "curriculum.json"))
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    summary = score_training(tmp_path, heldout)
    assert (summary["seconds"], summary["steps"], summary["n"]) == (5.5, 2, 6)
    assert summary["data_wait"] == 0.25  # the first step is not counted
    # The adapter's matrix B is zero, so the adapter changes nothing.
    assert summary["r1_before"] == summary["r1_after"]
    assert summary["r10_after"] == 1.0  # of six videos, all are among the first ten
    assert "25.0 % of the time waiting for data" in format_training(summary)
