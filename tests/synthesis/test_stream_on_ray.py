"""Whole synthesis jobs in parts, on Ray, with stand-ins for decoder and captioner (tests/stream_workers.py)."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.inputs.manifest import read_manifest
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.synthesis.job import SynthesisResult, synthesize
from gve_ray.synthesis.stages import decoded_store, parents_store
from gve_ray.synthesis.stream import split
from tests.synthesis.films import seeds_with_cuts, write_film

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

import stream_workers as workers  # noqa: E402

VIDEOS, PART = 60, 20
IN_PARTS = ("--part_videos", str(PART))
SECONDS = 300.0

# Ray starts many processes, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    workers.write_manifest(folder / "manifest.parquet", VIDEOS)
    return folder


def run(folder: Path, output: str, *options: str, **stages: Any) -> SynthesisResult:
    config = workers.config_of(folder, output, *options)
    return synthesize(config, stages=workers.stages(config, **stages))


@pytest.fixture(scope="module")
def undisturbed(cluster: str, folder: Path) -> SynthesisResult:
    """A run in three parts, of which the last is decoded only when the pairs of the first are there."""
    *_, last = parts_of(folder)
    hold = folder / "hold.txt"
    pairs = folder / "undisturbed" / "uvrd" / "task=T2V" / "part-early-00000-00000.parquet"
    hold.write_text("\n".join([str(pairs), *last]))
    return run(folder, "undisturbed", *IN_PARTS, hold=hold)


def parts_of(folder: Path) -> list[list[str]]:
    config = workers.config_of(folder, "none", *IN_PARTS)
    return [part["video_id"].to_pylist() for part in split(read_manifest(config.input), config)]


def test_the_first_pairs_are_there_before_the_last_part_is_decoded(
    folder: Path, undisturbed: SynthesisResult
) -> None:
    """The run would not have ended otherwise. Its last part leaves the pairs of the whole input."""
    output = Path(undisturbed.output)
    names = {path.name for path in (output / "uvrd").rglob("*.parquet")}
    assert names == {"part-00000.parquet"}
    assert json.loads((output / "run.json").read_text())["parts"] == {"finished": 3, "all": 3}


def test_copies_are_dropped_for_the_one_in_the_earliest_part(
    folder: Path, undisturbed: SynthesisResult
) -> None:
    parts = parts_of(folder)
    part_of = {video: i for i, part in enumerate(parts) for video in part}
    expected = {}  # of equal pictures, the smallest id stays within a part
    for number in {video[1:] for video in part_of if video[0] == "c"}:
        kept, other = sorted((f"c{number}", f"v{number}"), key=lambda video: (part_of[video], video))
        expected[other] = f"copy of {kept}"
    rejects = Store(f"{undisturbed.output}/rejects.lance", REJECT_SCHEMA).table(filter="stage = 'duplicates'")
    assert {row["video_id"]: row["detail"] for row in rejects.to_pylist()} == expected
    across = [video for video, text in expected.items() if part_of[video] != part_of[text[-4:]]]
    assert len(expected) == 12
    assert 0 < len(across) < 12


def test_the_counts_add_up_over_parts(folder: Path, undisturbed: SynthesisResult) -> None:
    counts = {stage["name"]: (stage["in"], stage["out"], stage["rejected"]) for stage in undisturbed.stages}
    assert counts["integrity"] == (60, 54, 6)  # x
    assert counts["duplicates"] == (54, 42, 12)  # c
    assert counts["captions"] == (42, 36, 6)  # q
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in undisturbed.stages)
    assert undisturbed.pairs["T2V"] == 36 * 3  # captions_per_video of the recipe
    scores = pq.read_table(Path(undisturbed.output, "scores.parquet")).to_pylist()
    verdicts = Counter((row["kept"], row["stage"]) for row in scores)
    rejected = {(False, name): counts[name][2] for name in ("integrity", "duplicates", "captions")}
    assert verdicts == {(True, None): 36, **rejected}
    assert {row["copy_of"] for row in scores if row["stage"] != "duplicates"} == {None}


@pytest.mark.slow
def test_where_stages_do_not_fit_together_the_result_is_the_same(
    folder: Path, undisturbed: SynthesisResult, caplog: pytest.LogCaptureFixture
) -> None:
    big = '{"actors": 1, "num_cpus": 2, "num_gpus": 0, "memory": 0, "batch_size": 4}'
    result = run(folder, "in_turn", *IN_PARTS, "--resources.media", big, "--resources.captioner", big)
    assert "do not fit on the cluster at the same time" in caplog.text
    assert workers.contents(Path(result.output)) == workers.contents(Path(undisturbed.output))


@pytest.mark.slow
def test_staged_is_streamed_in_one_part(cluster: str, folder: Path) -> None:
    staged = run(folder, "staged", "--pipeline", "staged", *IN_PARTS)
    streamed = run(folder, "one_part", "--part_videos", str(VIDEOS))
    assert workers.contents(Path(staged.output)) == workers.contents(Path(streamed.output))
    assert staged.pairs["T2V"] == 36 * 3


@pytest.mark.slow
def test_a_trial_goes_on_with_the_rest(folder: Path, undisturbed: SynthesisResult) -> None:
    trial = run(folder, "trial", *IN_PARTS, "--limit", str(PART))
    assert trial.estimate is not None
    assert (trial.estimate.videos, trial.estimate.at_once) == (VIDEOS, True)
    run(folder, "trial", *IN_PARTS)
    assert workers.contents(folder / "trial") == workers.contents(Path(undisturbed.output))


# ---- Killed runs


@contextmanager
def driver(
    cluster: str, folder: Path, output: str, *options: str, commit_seconds: float = 0.2
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run the job in a process of its own, with a captioner that takes a fifth of a second for four videos."""
    command = [
        *(sys.executable, str(HERE / "stream_workers.py"), str(folder), output, "0.2"),
        *(*(options or IN_PARTS), "--commit_seconds", str(commit_seconds)),
    ]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    with open(folder / f"{output}.log", "a") as log:
        env = {**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": path}
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        wait(lambda: not actors("StageActor"))


def wait(ready: Callable[[], object], process: "subprocess.Popen[bytes] | None" = None) -> None:
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, f"the driver ended with {process.returncode}"
        time.sleep(0.05)


def actors(name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if name in f"{process.name()} {' '.join(process.cmdline())}":
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def captioned(folder: Path, output: str) -> int:
    return Store(str(folder / output / "annotations.lance"), ANNOTATION_SCHEMA).count()


def files(folder: Path, output: str) -> int:
    return len(list((folder / output / "annotations.lance" / "data").glob("*.lance")))


@pytest.mark.slow
def test_a_stream_that_is_killed_goes_on_to_the_same_result(
    cluster: str, folder: Path, undisturbed: SynthesisResult
) -> None:
    """Kills: the driver before a commit; all actors, while all stages live; the driver between two parts."""
    with driver(cluster, folder, "killed", commit_seconds=3600.0) as process:
        wait(lambda: files(folder, "killed") >= 2, process)
    assert captioned(folder, "killed") == 0
    with driver(cluster, folder, "killed") as process:
        wait(lambda: captioned(folder, "killed") >= 4, process)
        for actor in actors("StageActor"):
            actor.kill()
        before = captioned(folder, "killed")
        wait(lambda: captioned(folder, "killed") > before, process)
    assert captioned(folder, "killed") < 36
    early = folder / "killed" / "uvrd" / "task=T2V" / "part-early-00000-00000.parquet"
    with driver(cluster, folder, "killed") as process:
        wait(early.exists, process)
    with driver(cluster, folder, "killed") as process:
        assert process.wait(SECONDS) == 0, (folder / "killed.log").read_text()[-3000:]
    assert workers.contents(folder / "killed") == workers.contents(Path(undisturbed.output))


# ---- Films

SHOTS = 40
IN_SHOTS = ("--part_videos", "2", "--shots.longer_than", "20", "--shots.shortest", "1")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 40 shots and a copy of it, another film, a short video and a broken film."""
    folder = tmp_path_factory.mktemp("films")
    write_film(folder / "film.mp4", seeds_with_cuts(SHOTS, 0))
    write_film(folder / "other.mp4", seeds_with_cuts(10, 1000), seconds=(2.5, 4.0))
    write_film(folder / "short.mp4", [2000])
    content = (folder / "film.mp4").read_bytes()
    (folder / "copy.mp4").write_bytes(content)
    (folder / "broken.mp4").write_bytes(content[: len(content) // 2])
    names = ["broken", "copy", "film", "other", "short"]
    uris = [str(folder / f"{name}.mp4") for name in names]
    table = pa.table({"video_id": names, "uri": uris, "caption": ["a thing moves before a wall"] * 5})
    pq.write_table(table, folder / "manifest.parquet")
    return folder


@pytest.fixture(scope="module")
def undisturbed_films(cluster: str, films: Path) -> SynthesisResult:
    return run(films, "undisturbed", *IN_SHOTS)


def shots_of(ids: Iterable[str], film: str) -> int:
    return sum(video_id.startswith(f"{film}#") for video_id in ids)


@pytest.mark.slow
def test_counts_are_of_films_until_they_are_split_and_then_of_shots(
    films: Path, undisturbed_films: SynthesisResult
) -> None:
    result = undisturbed_films
    counts = {stage["name"]: (stage["in"], stage["out"], stage["rejected"]) for stage in result.stages}
    assert counts["rectify"] == (5, 5, 0)
    assert counts["shots"] == (5, 4, 1)  # broken
    assert counts["integrity"] == (2 * SHOTS + 10 + 1, 2 * SHOTS + 10 + 1, 0)
    assert counts["duplicates"][2] >= SHOTS
    assert all(stage["in"] == stage["out"] + stage["rejected"] for stage in result.stages)
    assert result.shots == json.loads((films / "undisturbed" / "run.json").read_text())["shots"]
    assert result.shots == {"videos": 3, "shots": 2 * SHOTS + 10}
    assert "shots   90 of 3 long videos" in str(result)
    rejects = Store(f"{result.output}/rejects.lance", REJECT_SCHEMA).table().to_pylist()
    (broken,) = [row for row in rejects if row["stage"] == "shots"]
    assert (broken["video_id"], broken["unit"]) == ("broken", "video")
    dropped = {row["video_id"].partition("#")[0] for row in rejects if row["reason"] == "exact_duplicate"}
    assert len(dropped) == 1  # all of one film, that of the later part if they are in two
    assert dropped < {"film", "copy"}
    assets = Store(f"{result.output}/assets.lance", ASSET_SCHEMA).table(["video_id", "caption", "shot"])
    rows = {row["video_id"]: row for row in assets.to_pylist()}
    assert rows["short"]["caption"] == "a thing moves before a wall"
    assert {row["caption"] for row in rows.values() if row["shot"]} == {None}
    scores = pq.read_table(films / "undisturbed" / "scores.parquet").to_pylist()
    assert len(scores) == 2 * SHOTS + 10 + 2
    assert {row["video_id"] for row in scores if row["kept"]} == set(rows)


@pytest.mark.slow
def test_films_that_are_split_by_killed_runs_are_split_the_same(
    cluster: str, films: Path, undisturbed_films: SynthesisResult
) -> None:
    """Kills: the driver before the shots are committed; all actors while shots are read; the driver meanwhile."""
    config = workers.config_of(films, "killed", *IN_SHOTS)
    parents, decoded = parents_store(config), decoded_store(config)
    assets = Store(f"{config.output}/assets.lance", ASSET_SCHEMA)

    def check() -> None:
        """All shots of a film are visible or none, before they are read and after the filters."""
        for row in parents.table(["video_id", "starts"]).to_pylist() if parents.exists() else []:
            assert (
                len(row["starts"]) == {"film": SHOTS, "copy": SHOTS, "other": 10, "short": 1}[row["video_id"]]
            )
        expected = Store(f"{undisturbed_films.output}/assets.lance", ASSET_SCHEMA).keys()
        for film in ("film", "copy", "other"):
            assert shots_of(assets.keys(), film) in (0, shots_of(expected, film))

    with driver(cluster, films, "killed", *IN_SHOTS, commit_seconds=3600.0) as process:
        wait(lambda: list(Path(parents.uri, "data").glob("*.lance")), process)
    assert parents.count() == 0
    with driver(cluster, films, "killed", *IN_SHOTS) as process:
        wait(lambda: decoded.count() > 0, process)
        check()
        for actor in actors("StageActor"):
            actor.kill()
        before = decoded.count()
        wait(lambda: decoded.count() > before, process)
    check()
    assert decoded.count() < 2 * SHOTS + 10 + 1
    with driver(cluster, films, "killed", *IN_SHOTS) as process:
        wait(lambda: captioned(films, "killed") >= 4, process)
    check()
    with driver(cluster, films, "killed", *IN_SHOTS) as process:
        assert process.wait(SECONDS) == 0, (films / "killed.log").read_text()[-3000:]
    assert workers.contents(films / "killed") == workers.contents(Path(undisturbed_films.output))
