"""Tests `gve index --watch` with a real service and Ray, while files are added, changed, renamed and removed.

In the end, the index must equal one that is made anew from the same files.
"""

import json
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from gve_ray.indexing.catalog import read_catalog
from gve_ray.indexing.config import IndexConfig, PollingConfig
from gve_ray.indexing.files import look_at
from gve_ray.search import open_library
from gve_ray.serving.run import running
from gve_ray.store.runfolder import filesystem, plain
from tests.integration.drivers import driver, log_of
from tests.integration.test_index_job import config_of, write_video
from tests.integration.test_serving_swaps import config_for, load
from tests.s3 import S3Server

DEADLINE = 300.0
SECONDS = 60.0
FILES, FIRST = 200, 20  # in all, and at the beginning
CHANGED, RENAMED, REMOVED = 60, 40, 40  # of these files
SRT = "1\n00:00:00,200 --> 00:00:01,500\n{}\n"

pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]


@pytest.fixture(scope="module")
def s3_folder() -> Iterator[str]:
    """Return the URI of a bucket, whose server Ray's processes know as well."""
    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server.make_bucket("videos")


@pytest.fixture(scope="module")
def cluster(s3_folder: str) -> Iterator[str]:
    import ray

    ray.init(num_cpus=4, include_dashboard=False)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the content of small videos that look different."""
    folder = tmp_path_factory.mktemp("clips")
    return [Path(write_video(folder / f"{i}.mp4", i)).read_bytes() for i in range(2 * FILES)]


class Watcher:
    """`gve index --watch` in its own process, which can be killed and started again."""

    def __init__(self, config: IndexConfig, address: str, path: Path) -> None:
        self.config, self.output = config, Path(config.output)
        path.write_text(yaml.safe_dump(plain(config)))
        self._arguments: dict[str, Any] = {"config": path, "output": self.output, "address": address}
        self._driver: Any = None
        self.process: subprocess.Popen[bytes]

    def start(self, *options: str) -> None:
        self._driver = driver("index", *(options or ("--watch",)), **self._arguments)
        self.process = self._driver.__enter__()

    def kill(self) -> None:
        if self._driver is not None:
            self._driver.__exit__(None, None, None)

    def wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not ready():
            assert time.monotonic() < deadline, log_of(self.output)
            assert self.process.poll() is None, log_of(self.output)
            time.sleep(0.1)

    def is_current(self) -> bool:
        """Return whether the last update has indexed the files as they are now."""

        def states(files: Any) -> set[tuple[str, str, str]]:
            return {
                (file["uri"], file["version"], json.dumps(file.get("subtitle_files", file.get("subtitles"))))
                for file in files
            }

        catalog = [
            row | {"subtitle_files": json.loads(row["subtitles"])} for row in read_catalog(self.output)
        ]
        return states(catalog) == states(look_at(self.config).files)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE) == 0, log_of(self.output)
        assert log_of(self.output).rstrip().splitlines()[-1].startswith("stopped  after ")


def content_of(output: Path) -> tuple[Mapping[str, Any], np.ndarray, Mapping[str, str]]:
    """Return the metadata by segment, the vectors in the order of the segments, and the digests of the words."""
    library = open_library(output)
    metadata = dict(library.index.metadata())
    assert library.words is not None
    return metadata, library.index.get(sorted(metadata))[0], library.words.digests()


def assert_equals_a_new_index(watcher: Watcher, tmp_path: Path, address: str) -> None:
    config = replace(watcher.config, output=str(tmp_path / "new"), watch=False)
    new = Watcher(config, address, tmp_path / "new.yaml")
    new.start("--watch", "false")
    assert new.process.wait(DEADLINE) == 0, log_of(new.output)
    metadata, vectors, words = content_of(watcher.output)
    expected = content_of(new.output)
    assert metadata == expected[0]
    np.testing.assert_allclose(vectors, expected[1], atol=2e-5)
    assert words == expected[2]


def play(folder: Path, clips: list[bytes]) -> Counter[str]:
    """Add, change, rename and remove files at random times for SECONDS; return how often each was done."""
    dice = random.Random(0)
    added = {i: dice.uniform(0, 2 * SECONDS / 3) for i in range(FIRST, FILES)}
    kinds = ["change"] * CHANGED + ["rename"] * RENAMED + ["remove"] * REMOVED
    later = zip(dice.sample(range(FILES), len(kinds)), kinds, strict=True)
    events = [(at, "add", i) for i, at in added.items()]
    events += [(dice.uniform(added.get(i, 0.0), SECONDS), kind, i) for i, kind in later]
    begun = time.monotonic()
    for at, kind, i in sorted(events):
        time.sleep(max(0.0, begun + at - time.monotonic()))
        path = folder / f"v{i:03d}.mp4"
        if kind == "rename":
            path.rename(folder / f"renamed{i:03d}.mp4")
        elif kind == "remove":
            path.unlink()
        else:
            clip = clips[-i if kind == "change" else i]
            with path.open("wb", buffering=0) as file:
                file.write(clip[: len(clip) // 2])
                if i % 7 == 0:
                    time.sleep(0.2)  # and two more looks may see half of it
                file.write(clip[len(clip) // 2 :])
            if i % 10 == 0:
                path.with_suffix(".srt").write_text(SRT.format(f"{kind} of number {i}"))
    return Counter(kind for _, kind, _ in events)


def segments(url: str) -> int:
    """Return the number of segments that the service has."""
    models = httpx.get(f"{url}/v1/models", timeout=90, trust_env=False).json()["data"]
    return int(models[0]["index"]["segments"])


def test_a_folder_that_changes_under_load(cluster: str, clips: list[bytes], tmp_path: Path) -> None:
    """The job is killed once in the middle, and started again."""
    videos = tmp_path / "videos"
    videos.mkdir()
    for i in range(FIRST):
        (videos / f"v{i:03d}.mp4").write_bytes(clips[i])
    polling = PollingConfig(seconds=1.0, settle_seconds=1.0)
    config = config_of(videos, tmp_path / "index", watch=True, polling=polling)
    watcher = Watcher(config, cluster, tmp_path / "config.yaml")
    watcher.start()
    try:
        watcher.wait(watcher.is_current)
        with running(config_for(watcher.output)) as url, load(url) as answers, ThreadPoolExecutor(1) as pool:
            begun = time.monotonic()
            writer = pool.submit(play, videos, clips)
            watcher.wait(lambda: len(list(videos.glob("*.mp4"))) > FILES / 2)
            watcher.kill()
            watcher.start()
            done = writer.result()
            ended = time.monotonic()
            watcher.wait(lambda: log_of(watcher.output).count("watching  ") == 2 and watcher.is_current())
            behind = time.monotonic() - ended
            count = len(list(videos.glob("*.mp4")))
            watcher.wait(lambda: segments(url) == count)
            searches = len(answers())
        watcher.stop()
    finally:
        watcher.kill()
    updates = log_of(watcher.output).count(" segments in ")
    figures = {
        **done, "seconds": round(ended - begun, 1), "searches": searches, "updates": updates, "videos": count,
        "seconds_behind": round(behind, 1),
    }  # fmt: skip
    print(json.dumps(figures))
    assert_equals_a_new_index(watcher, tmp_path, cluster)


def test_objects_below_a_prefix(cluster: str, s3_folder: str, clips: list[bytes], tmp_path: Path) -> None:
    files, root = filesystem(s3_folder)

    def write(name: str, data: bytes) -> None:
        with files.open_output_stream(f"{root}/in/{name}") as stream:
            stream.write(data)

    for i in range(4):
        write(f"deep/v{i}.mp4", clips[i])
    polling = PollingConfig(seconds=0.5, settle_seconds=0.5)
    config = config_of(f"{s3_folder}/in", tmp_path / "index", watch=True, polling=polling)
    watcher = Watcher(config, cluster, tmp_path / "config.yaml")
    watcher.start()
    try:
        watcher.wait(watcher.is_current)
        write("new.mp4", clips[10])
        write("deep/v1.mp4", clips[11])
        write("deep/v2.srt", SRT.format("words of the second").encode())
        files.delete_file(f"{root}/in/deep/v3.mp4")
        watcher.wait(watcher.is_current)
        watcher.stop()
    finally:
        watcher.kill()
    assert len(read_catalog(watcher.output)) == 4
    assert_equals_a_new_index(watcher, tmp_path, cluster)
