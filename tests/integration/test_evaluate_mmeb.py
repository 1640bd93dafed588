"""Tests `gve evaluate` on MMEB-V2's video tasks as they lie on a disk, with the tiny model.

The expected scores are computed here from the vectors of an `Embedder` and the rules of the benchmark.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gve_ray.config import resolve_model
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.media import encode_jpeg
from gve_ray.schema import Item
from tests.integration import drivers
from tests.integration.drivers import log_of

MODEL, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"
SEQUENCE = {"frames": 8, "max_pixels": 12544, "min_pixels": 3136}
CLASSES = (
    "coffee",
    "tea",
    "milk",
    "juice",
    "pancake",
    "cereal",
    "sandwich",
    "salad",
    "friedegg",
    "scrambledegg",
)
CLIPS = ("negative_0", "negative_1", "positive")
COUNT = 4

pytestmark = pytest.mark.timeout(600)


def write_rows(root: Path, file: str, rows: list[dict[str, Any]]) -> None:
    path = root / "video-tasks/data" / file
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_frames(root: Path, folder: str, seed: int) -> str:
    """Eight frames of moving tiles; returns their folder."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    path = root / "video-tasks/frames" / folder
    path.mkdir(parents=True)
    for i in range(8):
        (path / f"frame_{i:04d}.jpg").write_bytes(encode_jpeg(np.roll(tiles, 8 * i, axis=seed % 2)))
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One data set of each group; a video of Breakfast has no frames."""
    root = tmp_path / "MMEB-V2"
    for i in range(COUNT):
        write_frames(root, f"video_cls/Breakfast/P{i}", i)
        write_frames(root, f"video_ret/MSR-VTT/video{i}", 10 + i)
        write_frames(root, f"video_qa/ActivityNetQA/v_{i}", i)  # the videos of Breakfast
        for j, clip in enumerate((*CLIPS, "query")):
            is_given = clip == "query" and i % 2  # then the positive clip is the video of the query itself
            seed = 30 + 4 * i + (CLIPS.index("positive") if is_given else j)
            write_frames(root, f"video_mret/QVHighlight/m{i}/{clip}", seed)
    rows = range(COUNT)
    write_rows(
        root,
        "Breakfast/data/test.jsonl",
        [{"video_id": f"P{i}", "pos_text": CLASSES[i % 2]} for i in range(COUNT + 1)],
    )
    write_rows(
        root,
        "MSR-VTT/msrvtt_test_1k.jsonl",
        [{"video_id": f"video{i}", "caption": f"kind {i}"} for i in rows],
    )
    write_rows(
        root, "QVHighlight/test.jsonl", [{"video_path": f"m{i}.mp4", "query": f"kind {i}"} for i in rows]
    )
    questions = [
        {"video_name": str(i), "question": f"is it {i}", "answer": "yes" if i else "no"} for i in rows
    ]
    write_rows(
        root, "ActivityNetQA/test.jsonl", [*questions, {"video_name": "0", "question": "why", "answer": "so"}]
    )
    return root


def expected_scores(root: Path) -> dict[str, float]:
    """hit@1 of each data set, from the vectors of the same model."""
    embedder = Embedder.from_pretrained(
        resolve_model(MODEL), resolve_model(ADAPTER), settings=EmbedderSettings(**SEQUENCE), dtype="float32"
    )
    frames = root / "video-tasks/frames"
    question = (
        "Given a video and a question, select the most accurate answer from the provided candidates. "
        "Return only the exact text of your chosen answer."
    )

    def hits(queries: list[Item], corpus: list[list[Item]], right: list[int]) -> list[bool]:
        vectors = embedder.embed(queries)
        return [
            int((embedder.embed(items) @ vector).argmax()) == answer
            for vector, items, answer in zip(vectors, corpus, right, strict=True)
        ]

    rows = range(COUNT)
    dishes = hits(
        [
            Item(
                video=str(frames / f"video_cls/Breakfast/P{i}"),
                instruction="Recognize the breakfast type that the person is cooking in the video.",
            )
            for i in rows
        ],
        [[Item(text=name) for name in CLASSES]] * COUNT,
        [i % 2 for i in rows],
    )
    captions = hits(
        [
            Item(text=f"kind {i}", instruction="Find a video that contains the following visual content:")
            for i in rows
        ],
        [[Item(video=str(frames / f"video_ret/MSR-VTT/video{i}")) for i in rows]] * COUNT,
        list(rows),
    )
    moments = hits(
        [
            Item(
                text=f"kind {i}",
                video=str(frames / f"video_mret/QVHighlight/m{i}/query"),
                instruction="Find the clip that corresponds to the described scene in the given video:",
            )
            for i in rows
        ],
        [[Item(video=str(frames / f"video_mret/QVHighlight/m{i}/{clip}")) for clip in CLIPS] for i in rows],
        [CLIPS.index("positive")] * COUNT,
    )
    answers = hits(
        [
            Item(
                text=f"Question: is it {i}? (A) yes; (B) no.",
                video=str(frames / f"video_qa/ActivityNetQA/v_{i}"),
                instruction=question,
            )
            for i in rows
        ],
        [[Item(text="yes"), Item(text="no")]] * COUNT,
        [0 if i else 1 for i in rows],
    )
    return {
        "MMEB-Breakfast": sum(dishes) / (COUNT + 1),  # the video without frames is a miss
        "MMEB-MSR-VTT": sum(captions) / COUNT,
        "MMEB-QVHighlight": sum(moments) / COUNT,
        "MMEB-ActivityNetQA": sum(answers) / COUNT,
    }


@pytest.mark.slow
def test_a_data_set_of_each_group_is_scored_by_its_own_candidates(
    cluster: str, root: Path, tmp_path: Path
) -> None:
    config, output = tmp_path / "config.yaml", tmp_path / "out"
    settings = {
        "models": [{"name": "tiny", "model": MODEL, "adapter": ADAPTER, "dtype": "float32"}],
        "root": str(root),
        "resources": {"actors": 1, "num_cpus": 0.5, "batch_size": 8},
        **SEQUENCE,
    }
    config.write_text(yaml.safe_dump(settings))
    with drivers.driver("evaluate", config=config, output=output, address=cluster) as process:
        assert process.wait(300) == 0, log_of(output)
    results = json.loads((output / "results.json").read_text())
    sets, scored = results["datasets"], results["models"]["tiny"]["datasets"]
    assert {name: entry["score"] for name, entry in scored.items()} == pytest.approx(expected_scores(root))
    fields = ("metric", "n_queries", "n_corpus", "candidates")
    assert {name: tuple(entry[field] for field in fields) for name, entry in sets.items()} == {
        "MMEB-Breakfast": ("hit@1", COUNT + 1, len(CLASSES), False),
        "MMEB-MSR-VTT": ("hit@1", COUNT, COUNT, False),
        "MMEB-QVHighlight": ("hit@1", COUNT, COUNT * len(CLIPS), True),
        "MMEB-ActivityNetQA": ("hit@1", COUNT, 2, True),
    }
    assert scored["MMEB-Breakfast"]["missing"]["queries"] == 1
    assert [fault for entry in sets.values() for fault in entry["faults"]] == [
        "MMEB-ActivityNetQA: video-tasks/data/ActivityNetQA/test.jsonl line 5: answer='so': neither yes nor no"
    ]
    # Questions with equal answers are not joined; those about one video are, and the videos are Breakfast's.
    clusters = results["clusters"]
    assert clusters["datasets"]["MMEB-ActivityNetQA"] == COUNT
