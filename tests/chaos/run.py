"""Kill the processes of jobs at random times, start the jobs again, and compare with undisturbed runs.

    python -m tests.chaos.run [--jobs stream,train] [--kills driver,worker,node] [--seeds 10] [--folder DIR]

Each job first runs undisturbed. Then, for each kind of kill and each seed, it runs in a new folder, and at a
time between its start and its end that the seed decides, a process is killed with SIGKILL: the driver, a
worker of Ray that does a part of the job, or all processes of a node. A driver that was killed or that has
failed is started again with the same command until it succeeds. What it has written then must equal the
undisturbed output. Prints a JSON object with a row for each run. Not part of the test suite, because it takes
hours; `--folder` keeps the outputs, and the runs that are in its results already are not repeated.

The jobs are real, with the tiny model of the package; in `stream` (synthesis in parts, all stages at the same
time), decoder and captioner are stand-ins, in `synthesize` they are the real ones.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.search.library import open_library
from gve_ray.store.runfolder import plain
from tests.embedder.conftest import save_tiny
from tests.integration import (
    test_evaluate_job,
    test_index_job,
    test_synthesis_faults,
    test_training_faults,
)
from tests.integration.nodes import Nodes
from tests.ray_head import LocalHead

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import stream_workers  # noqa: E402

KILLS = ("driver", "worker", "node")
CPUS = 2  # of each of the two nodes
MOST_STARTS = 6
SECONDS = 900.0  # for one run


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job to disturb. command: of a run, from its output folder. contents: what must be equal afterwards."""

    command: Callable[[Path], Sequence[str]]
    contents: Callable[[Path], Any]


def stream(folder: Path) -> Job:
    stream_workers.write_manifest(folder / "manifest.parquet", 120)
    program = [sys.executable, str(TESTS / "stream_workers.py"), str(folder)]
    return Job(
        command=lambda output: [
            *program,
            os.path.relpath(output, folder),
            *("0.2", "--part_videos", "30"),
        ],
        contents=stream_workers.contents,
    )


def synthesize(folder: Path) -> Job:
    (folder / "videos").mkdir()
    for seed in range(test_synthesis_faults.VIDEOS):
        write_mp4(folder / "videos" / f"{seed}.mp4", draw_scene(seed, "corpus", long=False))
    config = test_synthesis_faults.config(folder / "videos") | {"commit_seconds": 0.5}
    return Job(command=gve("synthesize", folder, config), contents=test_synthesis_faults.contents)


def train(folder: Path) -> Job:
    config = test_training_faults.settings(folder, save_tiny(folder / "base", "qwen2_5_vl"))
    return Job(command=gve("train", folder, config), contents=training_contents)


def training_contents(output: Path) -> Any:
    """Return the steps and the weights, rounded as far as the sums of several ranks may differ."""
    from safetensors.torch import load_file

    steps = [json.loads(line) for line in (output / "steps.jsonl").read_text().splitlines()]
    weights = load_file(output / "adapter" / "adapter_model.safetensors")
    return {
        "steps": [(step["step"], step["lr"]) for step in steps],
        "weights": {name: tensor.double().numpy().round(4).tolist() for name, tensor in weights.items()},
    }


def evaluate(folder: Path) -> Job:
    test_evaluate_job.write_sets(folder / "uvrb")
    config = test_evaluate_job.settings(folder / "uvrb")
    return Job(
        command=gve("evaluate", folder, config),
        contents=lambda output: without_times(json.loads((output / "results.json").read_text())),
    )


def without_times(value: Any) -> Any:
    """Return a JSON value without the entries that say when and how fast a run was."""
    if isinstance(value, dict):
        timed = ("second", "started", "ended", "created", "output", "run", "folder")
        return {k: without_times(v) for k, v in value.items() if not any(part in k for part in timed)}
    return [without_times(member) for member in value] if isinstance(value, list) else value


def index(folder: Path) -> Job:
    test_index_job.write_folder(folder / "videos")
    config = plain(test_index_job.config_of(folder / "videos", folder, commit_seconds=0.05))
    return Job(command=gve("index", folder, config), contents=index_contents)


def index_contents(output: Path) -> Any:
    library = open_library(output)
    rows = dict(library.index.metadata())
    vectors, _ = library.index.get(sorted(rows))
    return {"rows": rows, "vectors": vectors.round(5).tolist()}


JOBS: Mapping[str, Callable[[Path], Job]] = {
    "stream": stream,
    "synthesize": synthesize,
    "train": train,
    "evaluate": evaluate,
    "index": index,
}


def gve(verb: str, folder: Path, config: Mapping[str, Any]) -> Callable[[Path], Sequence[str]]:
    """Write a config, and return the command that runs it into an output folder."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    start = [sys.executable, "-m", "gve_ray.cli", verb, "--config", str(path)]
    return lambda output: [*start, "--output", str(output)]


class Cluster:
    """A head without CPUs and two nodes, which outlive the drivers."""

    def __init__(self, head: LocalHead, nodes: Nodes) -> None:
        self._head, self._nodes = head, nodes
        self.complete()

    def complete(self) -> None:
        """Start nodes in place of those that were killed."""
        while len(self._nodes.live) < 2:
            self._nodes.add(num_cpus=CPUS)

    @contextmanager
    def driver(self, command: Sequence[str], log: Path) -> "Iterator[subprocess.Popen[bytes]]":
        """Run a driver, which is killed at the end of the block if it still runs."""
        environment = {**self._head.env, "RAY_ADDRESS": self._head.gcs_address}
        with log.open("ab") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def kill(self, kind: str, process: "subprocess.Popen[bytes]", rng: random.Random) -> str:
        """Kill something, and return what it was; "nothing" if there was no such process."""
        if kind == "driver":
            process.kill()
            process.wait()
            return "driver"
        if kind == "node":
            node = rng.choice(self._nodes.live)
            node.kill()
            return node.name
        workers = self.workers()
        if not workers:
            return "nothing"
        worker = rng.choice(workers)
        try:
            name = worker.name()
            worker.kill()
        except psutil.NoSuchProcess:
            return "nothing"
        return name

    def workers(self) -> list[psutil.Process]:
        """Return the processes that do a part of a job, in the order of their starts."""
        found = [process for node in self._nodes.live for process in node.processes("ray::")]
        return sorted((process for process in found if is_busy(process)), key=lambda process: process.pid)


def is_busy(process: psutil.Process) -> bool:
    """Return whether a process does a part of a job; those of Ray itself end in Agent."""
    try:
        name = process.name()
    except psutil.NoSuchProcess:
        return False
    return name.startswith("ray::") and not name.startswith("ray::IDLE") and not name.endswith("Agent")


def disturbed(cluster: Cluster, job: Job, output: Path, kind: str, delay: float, rng: random.Random) -> Any:
    """Run a job with a kill after a delay, until it has succeeded; return the facts of the run."""
    killed, starts = "nothing", 0
    deadline = time.monotonic() + SECONDS
    log = output.with_suffix(".log")
    while starts < MOST_STARTS:
        starts += 1
        with cluster.driver(job.command(output), log) as process:
            if starts == 1:
                try:
                    process.wait(delay)
                except subprocess.TimeoutExpired:
                    killed = cluster.kill(kind, process, rng)
                cluster.complete()
            try:
                if process.wait(max(1.0, deadline - time.monotonic())) == 0:
                    return {"killed": killed, "starts": starts, "finished": True}
            except subprocess.TimeoutExpired:
                break
    return {"killed": killed, "starts": starts, "finished": False, "log": log.read_text()[-1000:]}


def run(jobs: Sequence[str], kills: Sequence[str], seeds: int, folder: Path) -> list[dict[str, Any]]:
    """Disturb all jobs, and return a row for each run."""
    results = folder / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["job"], row["kill"], row["seed"]) for row in rows}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
        cluster = Cluster(head, nodes)
        for name in jobs:
            todo = [(kind, seed) for kind in kills for seed in range(seeds) if (name, kind, seed) not in done]
            if not todo:
                continue
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir()
            job = JOBS[name](folder / name)
            expected, seconds = undisturbed(cluster, job, folder / name / "undisturbed")
            for kind, seed in todo:
                rng = random.Random(f"{name} {kind} {seed}")
                output = folder / name / f"{kind}-{seed}"
                delay = rng.uniform(0.05, 0.95) * seconds
                facts = disturbed(cluster, job, output, kind, delay, rng)
                facts["equal"] = facts["finished"] and job.contents(output) == expected
                row = {"job": name, "kill": kind, "seed": seed, "after_s": round(delay, 1), **facts}
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                if facts["equal"]:
                    shutil.rmtree(output)
    return rows


def undisturbed(cluster: Cluster, job: Job, output: Path) -> tuple[Any, float]:
    """Run a job twice, so that models and modules are cached; return its output and the seconds of the second run."""
    for number in range(2):
        folder, begun = output.with_name(f"{output.name}-{number}"), time.monotonic()
        log = folder.with_suffix(".log")
        with cluster.driver(job.command(folder), log) as process:
            assert process.wait(SECONDS) == 0, log.read_text()[-3000:]
    contents = job.contents(folder)
    assert contents == job.contents(output.with_name(f"{output.name}-0")), "two undisturbed runs differ"
    return contents, time.monotonic() - begun


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each job and kind of kill: runs, those in which something was killed, and equal ones."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["job"], row["kill"]), []).append(row)
    return [
        {
            "job": job,
            "kill": kind,
            "runs": len(group),
            "killed": sum(row["killed"] != "nothing" for row in group),
            "equal": sum(row["equal"] for row in group),
        }
        for (job, kind), group in groups.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", default=",".join(JOBS), help="default: %(default)s")
    parser.add_argument("--kills", default=",".join(KILLS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="folder to keep; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gve-chaos-") as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = run(args.jobs.split(","), args.kills.split(","), args.seeds, folder)
    summary = table(rows)
    print(json.dumps({"table": summary, "runs": rows}, indent=1))
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
