"""Tests that a running service switches to a new index and to another model without failing a request."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gve_ray.indexing.run import index
from gve_ray.serving.config import GatewayConfig, ReplicasConfig, ServeConfig, ServedModel
from gve_ray.serving.deploy import application
from gve_ray.serving.needs import resolve
from gve_ray.serving.run import APPLICATION, running
from tests.integration.test_index_job import MODEL, config_of, write_video

DEADLINE = 120.0

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=3, include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def config_for(folder: Path) -> ServeConfig:
    small = ReplicasConfig(num_cpus=0.5)
    model = ServedModel(name="demo", index=str(folder), replicas=small)
    return resolve(ServeConfig(models=[model], gateway=GatewayConfig(replicas=small), port=0))


@contextmanager
def load(url: str) -> Iterator[Callable[[], list[Any]]]:
    """Send searches continuously during the block. Yields a function that returns the answers so far."""
    stop, answers = threading.Event(), list[Any]()

    def send_searches() -> None:
        with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
            while not stop.is_set():
                answer = client.post("/v1/search", json={"content": "a red ball", "top_k": 100})
                answers.append(
                    (answer.status_code, len(answer.json()["data"]), answer.json()["data"][0]["score"])
                    if answer.is_success else (answer.status_code, answer.text, 0.0)
                )  # fmt: skip

    threads = [threading.Thread(target=send_searches) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield lambda: list(answers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert Counter(status for status, _, _ in answers) == {200: len(answers)}, Counter(answers).most_common(3)


def wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def test_a_new_index_and_a_new_model_under_load(cluster: None, tmp_path: Path) -> None:
    from ray import serve

    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(4):
        write_video(videos / f"v{i}.mp4", i)
    trained, base = tmp_path / "trained", tmp_path / "base"
    index(config_of(videos, trained))
    index(config_of(videos, base, model=replace(MODEL, adapter=None)))
    with running(config_for(trained)) as url, load(url) as answers:
        wait(lambda: len(answers()) > 20)
        ((_, count, before),) = set(answers())
        assert count == 4

        write_video(videos / "v4.mp4", 4)
        index(config_of(videos, trained))
        wait(lambda: answers()[-1][1] == 5)  # the service notices the new index without a restart
        assert {count for _, count, _ in answers()} == {4, 5}
        with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
            hits = client.post("/v1/search", json={"content": "a red ball"}).json()["data"]
            links = [hit["links"][name] for hit in hits for name in ("poster", "video")]
            assert [client.get(link).status_code for link in links] == [200] * 10

        serve.run(application(config_for(base), None), name=APPLICATION, route_prefix="/")
        wait(lambda: answers()[-1][1] == 4)
        after = answers()[-1][2]
        assert after != pytest.approx(before, abs=1e-4)
        # A third score would mean that the vector of one model was searched in the index of the other.
        scores = {round(score, 4) for _, count, score in answers() if count == 4}
        assert scores == {round(before, 4), round(after, 4)}
