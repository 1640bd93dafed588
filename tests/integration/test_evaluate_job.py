"""Tests `gve evaluate` with the tiny model: a job that is killed and restarted gets the same scores.

Two data sets share most of their videos under different names, as in UVRB. The actors of the fast tests are in this
process; those of the slow tests, with drivers that may be killed, are on one Ray cluster, as with a job server.
"""

import json
import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from gve_ray.config import load_config
from gve_ray.demo.render import encode_mp4
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.data.eval_sets import check
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY
from gve_ray.evaluation.run import evaluate
from gve_ray.job import PreflightError
from gve_ray.store import Store
from tests.embedder.dual_encoders import save_dual_encoder
from tests.endpoint import embeddings_endpoint
from tests.integration import drivers
from tests.integration.drivers import log_of
from tests.local_actors import local_actors

SHARED, OWN, IMAGES = 16, 4, 8
DISTINCT = SHARED + OWN + 1 + SHARED + IMAGES  # videos (one is broken), texts and images
DEADLINE = 300.0  # seconds per wait; on two idle cores, a wait takes a fifth of this
SIZE = 112
MODEL = "package://demo/tiny_vl/model"
BASE_ONLY = ("--models", json.dumps([{"name": "base", "model": MODEL}]))

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Baseline:
    """A cluster, a config, and the output folder of an uninterrupted run and what it printed."""

    address: str
    config: Path
    finished: Path
    printed: str


def pictures(seed: int) -> np.ndarray:
    """Return eight frames of moving colored tiles, uint8 [8, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return np.stack([np.roll(tiles, 4 * i, axis=seed % 2) for i in range(8)])


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_sets(root: Path) -> None:
    """Write two data sets.

    MSRVTT maps texts to videos. MSRVTT-I2V maps images to the same videos under other names, plus
    OWN more videos and a broken one.
    """
    text, image = root / "MSRVTT", root / "MSRVTT-I2V"
    for folder in (text / "videos", image / "videos", image / "images"):
        folder.mkdir(parents=True)
    for i in range(SHARED + OWN):
        path = image / "videos" / f"clip{i}.mp4"
        encode_mp4(path, pictures(i), fps=4, width=SIZE, height=SIZE)
        if i < SHARED:
            (text / "videos" / f"v{i}.mp4").write_bytes(path.read_bytes())
    (image / "videos" / "broken.mp4").write_bytes(b"not a video")
    for i in range(IMAGES):
        Image.fromarray(pictures(i)[3]).save(image / "images" / f"{i}.png")
    jsonl(
        text / "jsonl/queries.jsonl", [{"id": f"q{i}", "text": f"tiles of kind {i}"} for i in range(SHARED)]
    )
    jsonl(text / "jsonl/corpus.jsonl", [{"id": f"v{i}", "video": f"v{i}.mp4"} for i in range(SHARED)])
    jsonl(text / "jsonl/instances.jsonl", [{"qid": f"q{i}", "pos": [f"v{i}"]} for i in range(SHARED)])
    names = [*(f"clip{i}" for i in range(SHARED + OWN)), "broken"]
    jsonl(image / "jsonl/queries.jsonl", [{"id": f"q{i}", "image": f"{i}.png"} for i in range(IMAGES)])
    jsonl(image / "jsonl/corpus.jsonl", [{"id": name, "video": f"{name}.mp4"} for name in names])
    jsonl(image / "jsonl/instances.jsonl", [{"qid": f"q{i}", "pos": [f"clip{i}"]} for i in range(IMAGES)])


def settings(root: Path) -> dict[str, Any]:
    return {
        "models": [
            {"name": "base", "model": MODEL},
            {"name": "trained", "model": MODEL, "adapter": "package://demo/tiny_vl/adapter"},
        ],
        "root": str(root),
        "output": "set on the command line",
        "frames": 8,
        "max_pixels": 12544,
        "vectors": [
            {"dimension": 16},
            {"dtype": "int8"},
            {"dtype": "binary", "rescore": True},
            {"dimension": 999},
        ],
        "min_pixels": 3136,
        "resources": {"actors": 1, "num_cpus": 0.5, "batch_size": 2},
        "commit_seconds": 0.2,
        "resamples": 500,
    }


@pytest.fixture(scope="module")
def baseline(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Baseline:
    folder = tmp_path_factory.mktemp("evaluation")
    write_sets(folder / "uvrb")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(folder / "uvrb")))
    with local_actors():
        result = evaluate(config_of(path, folder / "finished"))
    return Baseline(cluster, path, folder / "finished", str(result))


def config_of(path: Path, output: Path) -> EvaluationJobConfig:
    return load_config(EvaluationJobConfig, ["--config", str(path), "--output", str(output)])


def driver(
    baseline: Baseline, output: Path, *options: str
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """Run `gve evaluate` with the config of `baseline`."""
    return drivers.driver(
        "evaluate", *options, config=baseline.config, output=output, address=baseline.address
    )


def cache_of(baseline: Baseline) -> str:
    """Return the folder with the embeddings of the baseline's models."""
    return str(baseline.finished / "embeddings")


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "results.json").read_text())


def committed(output: Path) -> int:
    """Count the committed rows without reading them, because compaction may delete their files meanwhile."""
    stores = (output / "embeddings").glob("*/embeddings.lance")
    return sum(Store(str(path), EMBEDDING_SCHEMA, key=KEY).count() for path in stores)


def stored(output: Path) -> dict[str, int]:
    """Count the committed embeddings and the distinct ones among them, over the stores of all models."""
    keys = []
    for path in sorted((output / "embeddings").glob("*/embeddings.lance")):
        keys += [
            (path, key) for key in Store(str(path), EMBEDDING_SCHEMA, key=KEY).table([KEY])[0].to_pylist()
        ]
    return {"rows": len(keys), "distinct": len(set(keys))}


def test_smaller_vectors_are_scored(baseline: Baseline) -> None:
    """Those with more dimensions than the model has are left out."""
    found = results(baseline.finished)
    rows = found["smaller_vectors"]
    forms = ("16", "int8", "binary-rescored")
    assert list(rows) == [f"{model}@{form}" for model in ("base", "trained") for form in forms]
    full = rows["base@int8"]["full_bytes"]
    assert [rows[f"base@{form}"]["bytes"] for form in forms] == [64, full // 4, full // 32]
    for name, row in rows.items():
        for comparison in row["comparisons"]:
            scores = [
                entry["datasets"][comparison["name"]]["score"]
                for entry in (row, found["models"][row["model"]])
            ]
            assert comparison["difference"] == pytest.approx(scores[0] - scores[1])
        assert (baseline.finished / f"runs/{name}/MSRVTT.trec").is_file()


def test_each_distinct_item_is_embedded_once(baseline: Baseline) -> None:
    models = results(baseline.finished)["models"]
    for counts in (model["embedding"] for model in models.values()):
        assert {name: counts[name] for name in ("items", "found", "new", "missing", "cut")} == {
            "items": DISTINCT,
            "found": 0,
            "new": DISTINCT - 1,
            "missing": 1,
            "cut": 0,
        }
    assert stored(baseline.finished) == {"rows": 2 * (DISTINCT - 1), "distinct": 2 * (DISTINCT - 1)}


def test_output_of_a_run(baseline: Baseline) -> None:
    summary = results(baseline.finished)
    text, image = (summary["models"]["base"]["datasets"][name] for name in ("MSRVTT", "MSRVTT-I2V"))
    assert (text["metric"], text["n_queries"], text["n_corpus"]) == ("hit@1", SHARED, SHARED)
    assert (image["n_queries"], image["n_corpus"]) == (IMAGES, SHARED + OWN + 1)
    assert image["missing"] == {"queries": 0, "corpus": 1, "queries_without_positives": 0}
    assert text["interval"][0] <= text["score"] <= text["interval"][1]
    assert summary["datasets"]["MSRVTT"]["prompt"].startswith("Find the clip")
    # Even a weak model ranks the video that a frame was taken from among the first ten more often than chance.
    assert summary["models"]["trained"]["datasets"]["MSRVTT-I2V"]["scores"]["hit@10"] > 10 / (SHARED + OWN)
    assert {(row["model"], row["against"]) for row in summary["comparisons"]} == {("trained", "base")}
    skipped = [json.loads(line) for line in (baseline.finished / "skipped.jsonl").read_text().splitlines()]
    assert [(row["model"], row["where"]) for row in skipped] == [
        ("base", "corpus id 'broken'"),
        ("trained", "corpus id 'broken'"),
    ]
    lines = (baseline.finished / "runs/base/MSRVTT.trec").read_text().splitlines()
    assert len(lines) == SHARED * SHARED
    rows = pq.read_table(baseline.finished / "per_query.parquet").to_pylist()
    full = [row for row in rows if row["model"] in ("base", "trained")]  # not those of smaller vectors
    assert len(full) == 2 * (SHARED + IMAGES)
    page = (baseline.finished / "report.html").read_text()
    assert "corpus id &#39;broken&#39;" in page  # the report also names what was left out
    assert page.count("data:image/jpeg") > 4 * len(summary["models"])
    mean = np.mean([row["score"] for row in rows if (row["model"], row["dataset"]) == ("base", "MSRVTT")])
    assert mean == pytest.approx(text["score"])
    assert f"base: {DISTINCT} distinct items, {DISTINCT - 1} embedded by this run" in baseline.printed


def colours(text: str, pictures: list[np.ndarray]) -> np.ndarray:
    """An embedder: the colours of the pictures in 64 kinds; texts have vectors that mean nothing."""
    if not pictures:
        return np.random.default_rng(sum(text.encode())).random(64)
    kinds = np.stack(pictures).astype(int) // 64 @ [16, 4, 1]
    return np.bincount(kinds.ravel(), minlength=64)


@pytest.mark.slow
def test_models_of_three_engines_side_by_side(baseline: Baseline, tmp_path: Path) -> None:
    clip = save_dual_encoder(tmp_path / "clip", "clip")
    output = tmp_path / "run"
    with embeddings_endpoint(colours) as url:
        models = [
            {"name": "tiny", "model": MODEL},
            {"name": "clip", "model": str(clip), "engine": "frames"},
            {"name": "far", "model": "colours", "engine": "openai", "url": url, "video_as": "images"},
        ]
        options = ("--models", json.dumps(models), "--vectors", "[]", "--cache", cache_of(baseline))
        with driver(baseline, output, *options) as process:
            assert process.wait(DEADLINE) == 0, log_of(output)
    summary = results(output)
    assert list(summary["models"]) == ["tiny", "clip", "far"]
    assert summary["models"]["tiny"]["embedding"]["new"] == 0  # from the cache
    assert [summary["models"][name]["embedding"]["new"] for name in ("clip", "far")] == [DISTINCT - 1] * 2
    image = {name: model["datasets"]["MSRVTT-I2V"]["score"] for name, model in summary["models"].items()}
    assert image["far"] > 0.5  # a frame has the colours of its video
    compared = {
        (row["model"], row["against"]): row for row in summary["comparisons"] if row["name"] == "MSRVTT-I2V"
    }
    assert set(compared) == {("far", "tiny"), ("far", "clip")}
    for (_, other), row in compared.items():
        assert row["difference"] == pytest.approx(image["far"] - image[other])
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]


@pytest.mark.slow
def test_restart_after_a_kill_while_embedding(baseline: Baseline, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with driver(baseline, output, *BASE_ONLY) as process:
        deadline = time.monotonic() + DEADLINE
        while committed(output) < 10:
            assert time.monotonic() < deadline, "waited too long"
            assert process.poll() is None, log_of(output)
            time.sleep(0.005)
        process.kill()
    before = stored(output)["rows"]
    assert 10 <= before < DISTINCT - 1
    assert not (output / "results.json").exists()
    with driver(baseline, output, *BASE_ONLY) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    counts = results(output)["models"]["base"]["embedding"]
    assert (counts["found"], counts["new"], counts["missing"]) == (before, DISTINCT - 1 - before, 1)
    assert stored(output) == {"rows": DISTINCT - 1, "distinct": DISTINCT - 1}
    expected = results(baseline.finished)
    for name, facts in results(output)["models"]["base"]["datasets"].items():
        assert facts["scores"] == expected["models"]["base"]["datasets"][name]["scores"]


@pytest.mark.slow
def test_another_run_reads_the_vectors_from_the_cache(baseline: Baseline, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with driver(baseline, output, "--cache", cache_of(baseline), "--depth", "10", *BASE_ONLY) as process:
        assert process.wait(DEADLINE) == 0, log_of(output)
    actual, expected = (results(folder)["models"]["base"] for folder in (output, baseline.finished))
    counts = actual["embedding"]
    assert (counts["found"], counts["new"], counts["missing"]) == (DISTINCT - 1, 0, 1)
    for name, facts in actual["datasets"].items():
        assert facts["score"] == expected["datasets"][name]["score"]


def test_a_finished_run_is_not_changed(baseline: Baseline) -> None:
    before = (baseline.finished / "results.json").stat().st_mtime_ns
    result = evaluate(config_of(baseline.config, baseline.finished), connect=lambda: pytest.fail("connected"))
    assert "finished before; nothing was done" in str(result)
    assert (baseline.finished / "results.json").stat().st_mtime_ns == before


def test_check_names_the_broken_video(baseline: Baseline, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"^1 errors in 2 data sets\nMSRVTT-I2V: corpus id 'broken'"):
        check(config_of(baseline.config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
