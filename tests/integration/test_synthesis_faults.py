"""Killed at any point, the job ends with the same pairs: real videos, the real pipeline, the shipped captioner.

Everything is killed from outside with SIGKILL, at moments that are read off the files: fragments of
annotations.lance that are written, and rows of it that are committed. A seed says how long after. One Ray
cluster outlives all drivers, as under a job server.
"""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.schema import ANNOTATION_SCHEMA, Task
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from tests.integration import drivers

VIDEOS = 12
BATCH = 3
DEADLINE = 300.0  # seconds for any one wait; a fifth of it on two idle cores
NEVER = 3600.0  # a commit interval longer than the test

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class World:
    """A cluster, a config, a finished run, and a copy of its folder as it was before the first caption."""

    address: str
    config: Path
    finished: Path
    uncaptioned: Path

    def copy(self, folder: Path) -> Path:
        return Path(shutil.copytree(self.uncaptioned, folder / "run"))


def config(folder: Path) -> dict[str, Any]:
    return {
        "input": str(folder),
        "output": "set on the command line",
        "media": {"max_pixels": 112 * 112, "min_pixels": 56 * 56},
        "quality": {"near_duplicate_threshold": 0.0, "motion_threshold": 0.0},
        "captioner": {
            "model": "package://demo/tiny_vl/model",
            "max_attempts": 2,
            "max_tokens": 640,
            "temperature": 0.5,
            "engine_args": {"enforce_eager": True, "dtype": "float32", "max_model_len": 2048},
        },
        "resources": {"captioner": {"batch_size": BATCH}},
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    import ray

    folder = tmp_path_factory.mktemp("faults")
    (folder / "videos").mkdir()
    for seed in range(VIDEOS):
        write_mp4(folder / "videos" / f"{seed}.mp4", draw_scene(seed, "corpus", long=False))
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config(folder / "videos")))
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        address = ray.get_runtime_context().gcs_address
        made = World(address, path, folder / "finished", folder / "uncaptioned")
        with driver(made, made.finished) as process:
            wait(lambda: (made.finished / "annotations.lance").exists(), process)
            # Loading the captioner takes seconds; until then nothing in the folder changes.
            shutil.copytree(
                made.finished, made.uncaptioned, ignore=shutil.ignore_patterns("annotations.lance")
            )
            assert process.wait(DEADLINE) == 0
        assert done(made.finished) == VIDEOS
        yield made
    finally:
        ray.shutdown()


def driver(
    world: World, output: Path, *, commit_seconds: float = 0.5
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """`gve synthesize` on the world's config."""
    options = ("--commit_seconds", str(commit_seconds))
    return drivers.driver("synthesize", *options, config=world.config, output=output, address=world.address)


def wait(ready: Callable[[], object], process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Until `ready`; fails if that takes too long or the driver has ended before."""
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, f"the driver ended with {process.returncode}"
        time.sleep(0.05)


def fragments(output: Path) -> int:
    """Files of annotations and rejects, whether committed or not: each batch leaves at least one."""
    return sum(
        len(list((output / store / "data").glob("*.lance")))
        for store in ("annotations.lance", "rejects.lance")
    )


def done(output: Path) -> int:
    """Videos whose captions, or whose lack of them, is committed."""
    annotations = Store(str(output / "annotations.lance"), ANNOTATION_SCHEMA)
    rejects = Store(str(output / "rejects.lance"), REJECT_SCHEMA)
    return annotations.count() + rejects.count("stage = 'captions'")


def captioners() -> list[psutil.Process]:
    """Stage actors of this test's cluster that are at work on rows."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "StageActor" in process.name() or "StageActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def contents(output: Path) -> dict[str, Any]:
    """All that a run made: pair files byte for byte, annotations and rejects row for row."""
    annotations = Store(str(output / "annotations.lance"), ANNOTATION_SCHEMA).table().sort_by("video_id")
    rejects = Store(str(output / "rejects.lance"), REJECT_SCHEMA).table()
    files = sorted((output / "uvrd").rglob("*.parquet"))
    return {
        "pairs": {str(path.relative_to(output)): path.read_bytes() for path in files},
        "annotations": annotations.to_pylist(),
        "rejects": sorted(
            (row["video_id"], row["stage"], row["reason"], row["scores"]) for row in rejects.to_pylist()
        ),
    }


def assert_same(world: World, output: Path) -> None:
    made, wanted = contents(output), contents(world.finished)
    assert made["rejects"] == wanted["rejects"]
    assert made["annotations"] == wanted["annotations"]
    assert made["pairs"] == wanted["pairs"]


def test_the_undisturbed_run_has_all_tasks(world: World) -> None:
    """Otherwise equality with it would say little."""
    tasks = {path.parent.name for path in (world.finished / "uvrd").rglob("*.parquet")}
    assert tasks == {f"task={task.value}" for task in Task}
    captioned = Store(str(world.finished / "annotations.lance"), ANNOTATION_SCHEMA).count()
    assert captioned > VIDEOS // 2


def kill_captioner(world: World, output: Path, seed: int) -> None:
    """The captioner dies, and the driver soon after its replacement has begun."""
    with driver(world, output) as process:
        wait_for_batches(output, 1, process)
        pause(seed)
        (captioner,) = captioners()
        captioner.kill()
        captioner.wait(DEADLINE)
        assert done(output) < VIDEOS
        wait(captioners, process)
        kill(process)


def kill_mid_caption(world: World, output: Path, seed: int) -> None:
    with driver(world, output) as process:
        wait(captioners, process)
        wait_for_batches(output, 1, process)
        pause(seed)
        kill(process)


def kill_before_commit(world: World, output: Path, seed: int) -> None:
    """The driver dies between write and commit: what it has written stays invisible."""
    before = done(output)
    with driver(world, output, commit_seconds=NEVER) as process:
        wait(captioners, process)
        wait_for_batches(output, 1, process)
        pause(seed)
        kill(process)
    assert done(output) == before


def pause(seed: int) -> None:
    time.sleep(random.Random(seed).uniform(0.0, 0.5))


Kill = Callable[[World, Path, int], None]
ONE_EACH = ((kill_before_commit, 0), (kill_captioner, 0), (kill_mid_caption, 0))


def twice(kill: Kill) -> Any:
    """The same kill at two moments more."""
    return pytest.param(((kill, 1), (kill, 2)), id=kill.__name__)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(ONE_EACH, id="one of each"),
        *map(twice, (kill_captioner, kill_mid_caption, kill_before_commit)),
    ],
)
def test_killed_and_started_again(world: World, tmp_path: Path, kills: tuple[tuple[Kill, int], ...]) -> None:
    output = world.copy(tmp_path)
    for kill_it, seed in kills:
        kill_it(world, output, seed)
        assert done(output) < VIDEOS
    with driver(world, output) as process:
        assert process.wait(DEADLINE) == 0
    assert_same(world, output)


def wait_for_batches(output: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Until so many more batches are written than now."""
    before = fragments(output)
    wait(lambda: fragments(output) >= before + count, process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL, and wait until the cluster has ended the driver's actors."""
    assert process.poll() is None
    process.kill()
    process.wait()
    wait(lambda: not captioners())
