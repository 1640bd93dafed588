"""A whole synthesis job whose captioner is an endpoint: the limit of its cost, and a run that goes on after it."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA, StageError
from gve_ray.store import Store
from gve_ray.synthesis.job import SynthesisResult, synthesize
from gve_ray.synthesis.pipeline import STAGES
from tests.endpoint import Reply, completion, http_endpoint
from tests.synthesis.scripted import CAPTIONS, CLIP_QUERY, IMAGE_QUERY

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import stream_workers as workers

VIDEOS, CONCURRENCY = 30, 2
TEXTS = {
    "video_captions": CAPTIONS,
    "frame_captions": {**CAPTIONS, "5": "One part of the picture is a red circle on the left side."},
    "composed_image": {"query": IMAGE_QUERY},
    "composed_clip": {"query": CLIP_QUERY},
}

# Ray starts many processes, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(600)


def answer(number: int, body: dict[str, Any]) -> Reply:
    """Every seventh request fails in a way that passes; the others get a valid answer of 100 + 10 tokens."""
    if number % 7 == 6:
        return Reply(429, b"slow down", {"Retry-After": "0"})
    return completion(json.dumps(TEXTS[body["response_format"]["json_schema"]["name"]]))


def run(folder: Path, url: str, max_cost: float) -> SynthesisResult:
    """Run with the stand-in for the decoder, and with the real captioner. A token costs one."""
    stages = [
        replace(stage, worker=workers.Ingest, worker_args={"hold": ""})
        if stage.name == "integrity"
        else stage
        for stage in STAGES
    ]
    captioner = {
        "model": "m", "engine": "openai", "url": url, "concurrency": CONCURRENCY, "max_cost": max_cost,
        "price_per_million_prompt_tokens": 1e6, "price_per_million_output_tokens": 1e6,
    }  # fmt: skip
    options = [part for name, value in captioner.items() for part in (f"--captioner.{name}", str(value))]
    config = workers.config_of(folder, "run", *options, "--captioner.engine_args", "{}")
    return synthesize(config, stages=stages)


@pytest.mark.slow
def test_a_job_ends_at_its_cost_and_goes_on_with_a_higher_one(cluster: str, tmp_path: Path) -> None:
    workers.write_manifest(tmp_path / "manifest.parquet", VIDEOS)
    output = tmp_path / "run"
    annotations = Store(f"{output}/annotations.lance", ANNOTATION_SCHEMA)
    rejects = Store(f"{output}/rejects.lance", REJECT_SCHEMA)
    with http_endpoint(answer) as endpoint:
        # 40 answers: ten videos of four questions, of which few are half done.
        with pytest.raises(
            StageError, match=r"rows are not done: captioner.max_cost=4400: 4. answers have cost 4,.*raise"
        ):
            run(tmp_path, endpoint.url, 40 * 110.0)
        first = json.loads((output / "run.json").read_text())["spending"]
        assert 40 <= first["answers"] < 40 + CONCURRENCY
        assert first["cost"] == first["prompt_tokens"] + first["output_tokens"] == 110 * first["answers"]
        done = annotations.keys()
        assert 7 <= len(done) <= 10
        assert rejects.keys("stage = 'captions'") == set()
        before = sum(number % 7 != 6 for number in range(len(endpoint.requests)))
        result = run(tmp_path, endpoint.url, 1e9)
        answered = sum(number % 7 != 6 for number in range(len(endpoint.requests)))
    videos = Store(f"{output}/assets.lance", ASSET_SCHEMA).keys()
    assert annotations.keys() == videos
    assert rejects.keys("stage = 'captions'") == set()
    # Nothing is asked about a video that was committed, and all of both runs is counted.
    assert answered - before == 4 * (len(videos) - len(done))
    assert result.spending is not None
    assert result.spending["answers"] == answered
    assert f"endpoint  {answered} answers" in str(result)
    cost = f"{110 * answered:,.2f}"
    page = Path(result.report).read_text()
    assert f"<b>{cost}</b>" in page
    assert f"tokens of prompts and output, cost {cost}" in page
