"""Fixtures of a real service, started once per test worker by `gve serve` as a subprocess, over an index that an
index job has made in this process, and of a browser for its page.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect, sync_playwright

from gve_ray.config import load_config
from gve_ray.demo.render import encode_mp4
from gve_ray.demo.retrieval import Benchmark, write_heldout
from gve_ray.indexing.config import IndexConfig
from gve_ray.indexing.run import index
from gve_ray.media import read_frames
from tests.local_actors import local_actors, ray_started
from tests.serving.pages import BROWSER, Visitor

VIDEOS = 12
TARGET = 3  # index of the video that the searches of the page should find
START_SECONDS = 240.0
INDEX = ["--frames", "8", "--max_pixels", "12544", "--min_pixels", "3136", "--segments.mode", "whole"]
INDEX += ["--model.name", "tiny", "--model.model", "package://demo/tiny_vl/model"]
INDEX += ["--model.adapter", "package://demo/tiny_vl/adapter"]
INDEX += ["--resources.probe.actors", "1", "--resources.embed.actors", "1", "--commit_seconds", "0.5"]
# Small enough for tests to exceed each limit.
LIMITS = ["--limits.max_body_bytes", "3000000", "--limits.receive_seconds", "3"]
LIMITS += [
    "--limits.max_duration",
    "100",
    "--limits.max_side_pixels",
    "1000000",
    "--limits.decode_seconds",
    "10",
]
LIMITS += ["--connections.header_seconds", "2"]
LIMITS += ["--gateway.max_ongoing", "16", "--gateway.max_queued", "16", "--gateway.replicas.num_cpus", "0.3"]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service.

    heldout: the indexed videos and queries. index: folder of the index. process: `gve serve`.
    """

    url: str
    heldout: Benchmark
    index: Path
    process: psutil.Process

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Return the processes of the replicas of a deployment."""
        return [
            process for process in self.process.children(recursive=True)
            if any(f":{deployment}" in part for part in process.cmdline()[:1])
        ]  # fmt: skip


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a `gve` that starts its own Ray cluster and connects to no other."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GVE_"))}
    return env | {"RAY_TMPDIR": str(folder), "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


def gve(*args: str) -> list[str]:
    return [sys.executable, "-m", "gve_ray.cli", *args]


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Yield a folder with a short path, because the paths of Ray's sockets are limited in length."""
    with tempfile.TemporaryDirectory(prefix="gve-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return write_heldout(tmp_path_factory.mktemp("heldout") / "videos", n=VIDEOS, seed=11, workers=1)


@pytest.fixture(scope="session")
def index_folder(heldout: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("library") / "index"
    source = str(Path(heldout.videos[0]).parent)
    with ray_started(), local_actors():
        index(load_config(IndexConfig, ["--input", source, "--output", str(output), *INDEX]))
    return output


@pytest.fixture(scope="session")
def server(
    heldout: Benchmark, index_folder: Path, ray_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("serve") / "serve.log"
    models = f'[{{"name": "demo", "index": "{index_folder}", "replicas": {{"num_cpus": 0.5}}}}]'
    command = gve("serve", "--models", models, "--port", "0", *LIMITS)
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment(ray_folder), stdout=out, stderr=subprocess.STDOUT)
    try:
        url = wait_for_url(process, log)
        assert httpx.get(f"{url}/readyz", timeout=60, trust_env=False).status_code == 200
        yield Service(url=url, heldout=heldout, index=index_folder, process=psutil.Process(process.pid))
    finally:
        process.terminate()
        code = process.wait(timeout=120)
    assert code == 0, log.read_text()[-3000:]
    assert log.read_text().rstrip().endswith("stopped")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until `gve serve` prints its URL, and return it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("serving  "):
                return line.split()[1]
        time.sleep(0.2)
    raise AssertionError(f"gve serve: {process.poll()}\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=30_000)  # the service shares the machine with other tests
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=args)
        yield browser
        browser.close()


@pytest.fixture
def visitor(browser: Browser, server: Service) -> Iterator[Visitor]:
    """Check after each test: no console message, no uncaught error, no request to another host."""
    visitor = Visitor(browser, server.url)
    yield visitor
    for context in browser.contexts:
        context.close()
    assert visitor.troubles == []


@pytest.fixture(scope="module")
def target(server: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return name, text, image and clip of the video that the searches should find."""
    video = server.heldout.videos[TARGET]
    frames = read_frames(video, k=16, max_pixels=10**6)
    picture, clip = io.BytesIO(), tmp_path_factory.mktemp("clip") / "clip.mp4"
    Image.fromarray(frames.pixels[7]).save(picture, "PNG")
    height, width = frames.pixels.shape[1:3]
    encode_mp4(clip, frames.pixels, fps=8, width=width, height=height)
    text = server.heldout.queries["fine"][TARGET].text
    return {"name": Path(video).name, "uri": video, "text": text, "picture": picture.getvalue(), "clip": clip}


@pytest.fixture(scope="module")
def moments(server: Service) -> list[dict[str, Any]]:
    """Return all indexed moments, as the service lists them."""
    body = {"content": "anything", "top_k": 100}
    answer = httpx.post(f"{server.url}/v1/search", json=body, timeout=60, trust_env=False)
    hits: list[dict[str, Any]] = answer.json()["data"]
    return hits
