"""Tests that `gve synthesize` makes the same pairs when it is killed and restarted, on videos with the tiny captioner.

The tests send SIGKILL to the driver or to actors when annotations.lance has a given number of fragments or of
committed rows, plus a delay that depends on a seed. One Ray cluster outlives all drivers, as with a job server.
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
from gve_ray.schema import ANNOTATION_SCHEMA, UVRD_TASKS
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from tests.integration import drivers

VIDEOS = 12
BATCH = 3
DEADLINE = 300.0  # seconds per wait; on two idle cores, a wait takes a fifth of this
NEVER = 3600.0  # seconds: a commit interval longer than the test

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Baseline:
    """A cluster, a config, a finished run, and a copy of its folder from before the first caption."""

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
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Baseline]:
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
        baseline = Baseline(address, path, folder / "finished", folder / "uncaptioned")
        with driver(baseline, baseline.finished) as process:
            wait(lambda: (baseline.finished / "annotations.lance").exists(), process)
            # Nothing in the folder changes during the seconds that loading the captioner takes.
            shutil.copytree(
                baseline.finished, baseline.uncaptioned, ignore=shutil.ignore_patterns("annotations.lance")
            )
            assert process.wait(DEADLINE) == 0
        assert done(baseline.finished) == VIDEOS
        yield baseline
    finally:
        ray.shutdown()


def driver(
    baseline: Baseline, output: Path, *, commit_seconds: float = 0.5
) -> "AbstractContextManager[subprocess.Popen[bytes]]":
    """Run `gve synthesize` with the config of `baseline`."""
    options = ("--commit_seconds", str(commit_seconds))
    return drivers.driver(
        "synthesize", *options, config=baseline.config, output=output, address=baseline.address
    )


def wait(ready: Callable[[], object], process: "subprocess.Popen[bytes] | None" = None) -> None:
    """Wait until `ready()`. Fails at the deadline, or if the driver ends first."""
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, f"the driver ended with {process.returncode}"
        time.sleep(0.05)


def fragments(output: Path) -> int:
    """Count the data files of annotations and rejects, committed or not. Each batch writes at least one."""
    return sum(
        len(list((output / store / "data").glob("*.lance")))
        for store in ("annotations.lance", "rejects.lance")
    )


def done(output: Path) -> int:
    """Count the videos whose captions or rejects of the stage `captions` are committed."""
    annotations = Store(str(output / "annotations.lance"), ANNOTATION_SCHEMA)
    rejects = Store(str(output / "rejects.lance"), REJECT_SCHEMA)
    return annotations.count() + rejects.count("stage = 'captions'")


def captioners() -> list[psutil.Process]:
    """Return the processes of stage actors in this test's cluster."""
    matches = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "StageActor" in process.name() or "StageActor" in " ".join(process.cmdline()):
                matches.append(process)
        except psutil.NoSuchProcess:
            continue
    return matches


def contents(output: Path) -> dict[str, Any]:
    """Return the output of a run: pair files as bytes, annotations and rejects as rows."""
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


def assert_same(baseline: Baseline, output: Path) -> None:
    actual, expected = contents(output), contents(baseline.finished)
    assert actual["rejects"] == expected["rejects"]
    assert actual["annotations"] == expected["annotations"]
    assert actual["pairs"] == expected["pairs"]


def test_the_uninterrupted_run_has_all_tasks(baseline: Baseline) -> None:
    """If tasks were missing, the comparisons with this run would prove little."""
    tasks = {path.parent.name for path in (baseline.finished / "uvrd").rglob("*.parquet")}
    assert tasks == {f"task={task.value}" for task in UVRD_TASKS}
    captioned = Store(str(baseline.finished / "annotations.lance"), ANNOTATION_SCHEMA).count()
    assert captioned > VIDEOS // 2


def kill_captioner(baseline: Baseline, output: Path, seed: int) -> None:
    """Kill the captioner, and the driver when the new captioner has started."""
    with driver(baseline, output) as process:
        wait_for_batches(output, 1, process)
        pause(seed)
        (captioner,) = captioners()
        captioner.kill()
        captioner.wait(DEADLINE)
        assert done(output) < VIDEOS
        wait(captioners, process)
        kill(process)


def kill_mid_caption(baseline: Baseline, output: Path, seed: int) -> None:
    """Kill the driver while the captioner works."""
    with driver(baseline, output) as process:
        wait(captioners, process)
        wait_for_batches(output, 1, process)
        pause(seed)
        kill(process)


def kill_before_commit(baseline: Baseline, output: Path, seed: int) -> None:
    """Kill the driver between write and commit: the written rows must not become visible."""
    before = done(output)
    with driver(baseline, output, commit_seconds=NEVER) as process:
        wait(captioners, process)
        wait_for_batches(output, 1, process)
        pause(seed)
        kill(process)
    assert done(output) == before


def pause(seed: int) -> None:
    time.sleep(random.Random(seed).uniform(0.0, 0.5))


Kill = Callable[[Baseline, Path, int], None]
ONE_EACH = ((kill_before_commit, 0), (kill_captioner, 0), (kill_mid_caption, 0))


def twice(kill: Kill) -> Any:
    """Return a test case with the same kill at two other times."""
    return pytest.param(((kill, 1), (kill, 2)), id=kill.__name__)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(ONE_EACH, id="one of each"),
        *map(twice, (kill_captioner, kill_mid_caption, kill_before_commit)),
    ],
)
def test_output_after_kills_and_restarts(
    baseline: Baseline, tmp_path: Path, kills: tuple[tuple[Kill, int], ...]
) -> None:
    output = baseline.copy(tmp_path)
    for kill_it, seed in kills:
        kill_it(baseline, output, seed)
        assert done(output) < VIDEOS
    with driver(baseline, output) as process:
        assert process.wait(DEADLINE) == 0
    assert_same(baseline, output)


def wait_for_batches(output: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until `count` more batches have been written."""
    before = fragments(output)
    wait(lambda: fragments(output) >= before + count, process)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Send SIGKILL to the driver and wait until the cluster has ended its actors."""
    assert process.poll() is None
    process.kill()
    process.wait()
    wait(lambda: not captioners())
