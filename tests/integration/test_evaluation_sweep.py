"""Tests a sweep over a zero-shot classification with a contaminated video, on Ray, with the tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.store import Store
from gve_ray.synthesis.config import MediaConfig
from gve_ray.synthesis.ingest import IngestWorker

PER_CLASS = 3
MODEL, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"

pytestmark = pytest.mark.timeout(600)


def write_data(root: Path) -> dict[str, Any]:
    """Write videos in one folder per background and return the config; one video is also a training asset."""
    counts: dict[str, int] = {}
    seed = 0
    while len(counts) < 2 or min(counts.values()) < PER_CLASS:
        scene = draw_scene(seed, "heldout", long=False)
        background = scene.chapters[0].background.replace(" ", "_")
        seed += 1
        if background not in ("desert", "ocean") or counts.get(background, 0) == PER_CLASS:
            continue
        counts[background] = counts.get(background, 0) + 1
        (root / "classes" / background).mkdir(parents=True, exist_ok=True)
        write_mp4(root / "classes" / background / f"{counts[background]}.mp4", scene)
    ingest = IngestWorker(MediaConfig(clips=0, reference_frames=0), seed=1)
    rows = ingest([{"video_id": "seen", "uri": str(root / "classes/ocean/1.mp4")}])
    Store(str(root / "assets.lance"), ASSET_SCHEMA).create().append(
        pa.Table.from_pylist(rows, schema=ASSET_SCHEMA)
    )
    data = {"name": "places", "folder": str(root / "classes"), "format": "classes"}
    return {
        "models": [{"name": "tiny", "model": MODEL, "adapter": ADAPTER}],
        "data": [data | {"template": "in front of a {label}", "prompt": "Find the words."}],
        "output": str(root / "run"),
        "frames": 8,
        "max_pixels": 12544,
        "min_pixels": 3136,
        "depth": 10,
        "contamination": {"training": str(root / "assets.lance"), "on_hit": "flag"},
        "resources": {"actors": 1, "num_cpus": 1, "batch_size": 8},
        "sweep": {"frames": [4, 8]},
    }


@pytest.mark.slow
def test_a_sweep_over_a_classification(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(write_data(tmp_path)))
    command = [sys.executable, "-m", "gve_ray.cli", "evaluate", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    sweep = json.loads((tmp_path / "run/sweep.json").read_text())
    assert (sweep["frames"], sweep["max_pixels"]) == ([4, 8], [12544])
    assert [point["models"]["tiny"]["new"] for point in sweep["points"]] == [2 * PER_CLASS + 2] * 2
    assert all(point["models"]["tiny"]["seconds"] > 0 for point in sweep["points"])
    for point in sweep["points"]:
        results = json.loads(Path(point["results"]).read_text())
        facts = results["models"]["tiny"]["datasets"]["places"]
        classification = facts["classification"]
        assert (
            point["models"]["tiny"]["datasets"]["places"]
            == facts["score"]
            == classification["accuracy@1"]["score"]
        )
        assert classification["accuracy@5"]["score"] == 1.0  # there are two labels
        assert sum(sum(row.values()) for row in classification["confusion"].values()) == 2 * PER_CLASS
        assert results["datasets"]["places"]["prompt"] == "Find the words."
        (hit,) = results["contamination"]["hits"]
        assert (hit["video"], hit["training_video"]) == (str(tmp_path / "classes/ocean/1.mp4"), "seen")
    assert "frames x visual tokens a frame" in done.stdout
    assert "1 hits among 6 videos" in done.stderr
    again = subprocess.run(
        [*command, "--contamination.on_hit", "refuse", "--output", str(tmp_path / "other")],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )
    assert again.returncode == 2
    assert "error: contamination: 1 hits among 6 videos" in again.stderr
    assert "is training video 'seen' (the same path)" in again.stderr
    assert not (tmp_path / "other/sweep.json").exists()
