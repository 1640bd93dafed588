"""Disturb jobs at random times, start them again, and compare with undisturbed runs.

    python -m tests.chaos.run [--jobs stream,train] [--kills driver,worker] [--seeds 10] [--minutes 10] [--folder DIR]

Each job first runs undisturbed. Then, for each kind of kill and each seed, it runs in a new folder, and at a
time between its start and its end that the seed decides, something happens:

driver, worker, node: a process is killed with SIGKILL: the driver, a worker of Ray that does a part of the job,
    or all processes of a node.
disk: the disk of the output becomes full, until the driver has ended. Needs the right to mount file systems.
500, 503, expired, slow, truncated: input and output are in a bucket, whose server fails in this way (tests/s3.py), with
    an even seed until the driver has ended, and for a minute at most, else for four seconds.

A driver that was killed or that has failed is started again with the same command until it succeeds. What it has
written then must equal the undisturbed output. Prints a JSON object with a row for each run. Not part of the
test suite, because it takes hours; `--folder` keeps the outputs, and what is in its results already is not repeated.

The jobs are real, with the tiny model of the package; in `stream` (synthesis in parts, all stages at the same
time), decoder and captioner are stand-ins, in `synthesize` they are the real ones.
"""

import argparse
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psutil
import yaml
from pyarrow import fs

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.search.library import open_library
from gve_ray.store import SharedFolder
from gve_ray.store.runfolder import filesystem, plain
from tests.disk import SmallDisk
from tests.embedder.conftest import save_tiny
from tests.integration import (
    test_evaluate_job,
    test_index_job,
    test_synthesis_faults,
    test_training_faults,
)
from tests.integration.nodes import Nodes
from tests.ray_head import LocalHead
from tests.s3 import FAULTS, S3Server

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import stream_workers  # noqa: E402

KILLS = ("driver", "worker", "node")
KINDS = (*KILLS, "disk", *FAULTS)
FAULT_SECONDS = (60.0, 4.0)  # with an even and an odd seed; clients give up after 6 to 12 s
MOMENTS = (0.1, 0.8)  # of the undisturbed run's time, which is the first one and thus longer than others
CPUS = 2  # of each of the two nodes
DISK_BYTES = 2**30
MOST_STARTS = 6
SECONDS = 900.0  # for one run


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job to disturb.

    command: of a run, from the paths or URIs of its output and its input. contents: what must be equal afterwards,
    from its folder. source: folder of the input; None for a job whose input and output cannot be in a bucket.
    """

    command: Callable[[str, str], Sequence[str]]
    contents: Callable[[Path], Any]
    source: Path | None = None


def stream(folder: Path) -> Job:
    stream_workers.write_manifest(folder / "manifest.parquet", 120)
    program = [sys.executable, str(TESTS / "stream_workers.py"), str(folder)]
    return Job(
        command=lambda output, _: [
            *program,
            os.path.relpath(output, folder),
            *("0.2", "--part_videos", "30"),
        ],
        contents=stream_workers.contents,
    )


def synthesize(folder: Path) -> Job:
    videos = folder / "videos"
    if not videos.exists():
        videos.mkdir()
        for seed in range(test_synthesis_faults.VIDEOS):
            write_mp4(videos / f"{seed}.mp4", draw_scene(seed, "corpus", long=False))
    config = test_synthesis_faults.config(videos) | {"commit_seconds": 0.5}
    return Job(
        command=gve("synthesize", folder, lambda source: config | {"input": source}),
        contents=test_synthesis_faults.contents,
        source=videos,
    )


def train(folder: Path) -> Job:
    base, data = folder / "base", folder / "data"
    data.mkdir(exist_ok=True)
    config = test_training_faults.settings(data, base if base.exists() else save_tiny(base, "qwen2_5_vl"))

    def config_of(source: str) -> Mapping[str, Any]:
        moved = [entry | {"uri": f"{source}/{Path(entry['uri']).name}"} for entry in config["data"]]
        return config | {"data": moved}

    return Job(command=gve("train", folder, config_of), contents=training_contents, source=data)


def training_contents(output: Path) -> Any:
    """Return the steps and the weights, rounded as far as the sums of several ranks may differ."""
    from safetensors.torch import load_file

    steps = [json.loads(line) for line in (output / "steps.jsonl").read_text().splitlines()]
    weights = load_file(output / "adapter" / "adapter_model.safetensors")
    return {
        "steps": [(step["step"], step["learning_rate"]) for step in steps],
        "weights": {name: tensor.double().numpy().round(4).tolist() for name, tensor in weights.items()},
    }


def evaluate(folder: Path) -> Job:
    root = folder / "uvrb"
    if not root.exists():
        test_evaluate_job.write_sets(root)
    config = test_evaluate_job.settings(root)
    return Job(
        command=gve("evaluate", folder, lambda source: config | {"root": source}),
        contents=lambda output: without_times(json.loads((output / "results.json").read_text())),
        source=root,
    )


def without_times(value: Any) -> Any:
    """Return a JSON value without the entries that say when and how fast a run was, and what it found in its cache."""
    if isinstance(value, dict):
        timed, cached = ("second", "started", "ended", "created", "output", "run", "folder"), ("found", "new")
        return {
            k: without_times(v)
            for k, v in value.items()
            if k not in cached and not any(part in k for part in timed)
        }
    return [without_times(member) for member in value] if isinstance(value, list) else value


def index(folder: Path) -> Job:
    videos = folder / "videos"
    if not videos.exists():
        test_index_job.write_folder(videos)
    config = plain(test_index_job.config_of(videos, folder, commit_seconds=0.05))
    return Job(
        command=gve("index", folder, lambda source: config | {"input": source}),
        contents=index_contents,
        source=videos,
    )


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


def gve(
    verb: str, folder: Path, config_of: Callable[[str], Mapping[str, Any]]
) -> Callable[[str, str], Sequence[str]]:
    """Return the command of a job, which writes its config. config_of: from the path or URI of the input."""

    def command(output: str, source: str) -> Sequence[str]:
        path = folder / f"config-{'remote' if '://' in source else 'local'}.yaml"
        path.write_text(yaml.safe_dump(dict(config_of(source))))
        return [sys.executable, "-m", "gve_ray.cli", verb, "--config", str(path), "--output", output]

    return command


class Cluster:
    """A head without CPUs and two nodes, which outlive the drivers."""

    def __init__(self, head: LocalHead, nodes: Nodes) -> None:
        self._head, self._nodes = head, nodes
        self.complete()

    def complete(self) -> None:
        """Start nodes in place of those that were killed."""
        deadline = time.monotonic() + SECONDS
        while len(self._nodes.live) < 2:
            try:
                self._nodes.add(num_cpus=CPUS)
            except AssertionError:  # on a busy machine, a node may not join in time
                if time.monotonic() > deadline:
                    raise

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


class Bucket:
    """A bucket for inputs and outputs of jobs."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self._uri = server.make_bucket("chaos")

    def command(self, job: Job, folder: Path, output: str) -> Sequence[str]:
        """Return the command of a run with its input and output in the bucket; upload the input."""
        source = f"{self._uri}/{folder.name}/source"
        if not SharedFolder(source).names():
            self._copy(str(job.source), source)
        return job.command(output, source)

    def uri(self, output: Path) -> str:
        return f"{self._uri}/{output.parent.name}/{output.name}"

    def fetch(self, output: Path) -> None:
        """Copy an output to its folder on this machine."""
        self._copy(self.uri(output), str(output))

    def _copy(self, source: str, target: str) -> None:
        (source_files, source_path), (target_files, target_path) = filesystem(source), filesystem(target)
        target_files.create_dir(target_path, recursive=True)
        fs.copy_files(
            source_path, target_path, source_filesystem=source_files, destination_filesystem=target_files
        )


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """What happens to a run. begin: gets its driver, and returns what was hit. end: when the driver has ended."""

    begin: Callable[["subprocess.Popen[bytes]"], str]
    end: Callable[[], object] = lambda: None


def disturbed(
    cluster: Cluster, command: Sequence[str], log: Path, delay: float, disturbance: Disturbance
) -> dict[str, Any]:
    """Run a driver that is disturbed after a delay, until it has succeeded; return the facts of the run."""
    hit, starts, codes = "nothing", 0, list[int | None]()
    deadline = time.monotonic() + SECONDS
    while starts < MOST_STARTS and time.monotonic() < deadline:
        starts += 1
        with cluster.driver(command, log) as process:
            if starts == 1:
                try:
                    process.wait(delay)
                except subprocess.TimeoutExpired:
                    hit = disturbance.begin(process)
                cluster.complete()
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(1.0, deadline - time.monotonic()))
        disturbance.end()
        codes.append(process.poll())
        if codes[-1] == 0:
            break
    text = log.read_text()
    facts = {
        "killed": hit,
        "starts": starts,
        "codes": codes,
        "errors": [line for line in text.splitlines() if line.startswith("error: ")],
        "tracebacks": text.count("Traceback (most recent call last)"),
        "finished": codes[-1] == 0,
    }
    return facts if facts["finished"] else {**facts, "log": text[-1000:]}


def run(
    jobs: Sequence[str], kills: Sequence[str], seeds: int, folder: Path, seconds: float
) -> list[dict[str, Any]]:
    """Disturb all jobs, and return a row for each run. seconds: after which no further run is begun."""
    deadline = time.monotonic() + seconds
    results = folder / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    done = {(row["job"], row["kill"], row["seed"]) for row in rows}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    with S3Server() as server:
        os.environ.update(server.environment)
        bucket = Bucket(server)
        with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
            cluster = Cluster(head, nodes)
            for name in jobs:
                todo = [
                    (kind, seed) for seed in range(seeds) for kind in kills if (name, kind, seed) not in done
                ]
                for row in disturb_job(cluster, bucket, name, folder / name, todo, deadline):
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    rows.append(row)
                    with results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
    return rows


def disturb_job(
    cluster: Cluster,
    bucket: Bucket,
    name: str,
    folder: Path,
    todo: Sequence[tuple[str, int]],
    deadline: float,
) -> Iterator[dict[str, Any]]:
    """Disturb one job in each of the ways, kind and seed, until the deadline; yield a row for each run."""
    if not todo or time.monotonic() > deadline:
        return
    folder.mkdir(exist_ok=True)
    job = JOBS[name](folder)
    for kind, seed in todo:
        if time.monotonic() > deadline:
            return
        rng = random.Random(f"{name} {kind} {seed}")
        output = folder / f"{kind}-{seed}"
        is_remote = kind in FAULTS
        if is_remote and job.source is None:
            continue
        expected, seconds = undisturbed(cluster, bucket if is_remote else None, job, folder)
        delay = rng.uniform(*MOMENTS) * seconds
        with ExitStack() as stack:
            if kind == "disk":
                disk = stack.enter_context(SmallDisk(output, DISK_BYTES))
                disturbance = Disturbance(begin=lambda _, disk=disk: disk.fill() or "disk", end=disk.empty)
            elif is_remote:
                disturbance = store_fault(bucket.server, kind, FAULT_SECONDS[seed % 2])
            else:
                disturbance = Disturbance(
                    begin=lambda process, kind=kind, rng=rng: cluster.kill(kind, process, rng)
                )
            command = (
                bucket.command(job, folder, bucket.uri(output))
                if is_remote
                else job.command(str(output), str(job.source))
            )
            facts = disturbed(cluster, command, folder / f"{output.name}.log", delay, disturbance)
            if is_remote and facts["finished"]:
                bucket.fetch(output)
            facts["equal"] = facts["finished"] and job.contents(output) == expected
        if facts["equal"] and output.exists():
            shutil.rmtree(output)
        yield {"job": name, "kill": kind, "seed": seed, "after_s": round(delay, 1), **facts}


def store_fault(server: S3Server, fault: str, seconds: float) -> Disturbance:
    """Return the disturbance by a server that fails for so many seconds, and not longer than the driver runs."""
    healed = threading.Timer(seconds, server.fail, [None])

    def begin(_: object) -> str:
        server.fail(fault)
        healed.start()
        return fault

    def end() -> None:
        healed.cancel()
        server.fail(None)

    return Disturbance(begin=begin, end=end)


def undisturbed(cluster: Cluster, bucket: Bucket | None, job: Job, folder: Path) -> tuple[Any, float]:
    """Run a job undisturbed, and return its output and the seconds that it took.

    The result is kept in the folder, so that the run need not be repeated.
    """
    name = "undisturbed" if bucket is None else "undisturbed-remote"
    kept, output = folder / f"{name}.pickle", folder / name
    if kept.exists():
        return cast(tuple[Any, float], pickle.loads(kept.read_bytes()))
    begun = time.monotonic()
    shutil.rmtree(output, ignore_errors=True)
    if bucket is None:
        command = job.command(str(output), str(job.source))
    else:
        command = bucket.command(job, folder, bucket.uri(output))
    log = folder / f"{name}.log"
    with cluster.driver(command, log) as process:
        assert process.wait(SECONDS) == 0, log.read_text()[-3000:]
    seconds = time.monotonic() - begun
    if bucket is not None:
        bucket.fetch(output)
    contents = job.contents(output)
    kept.write_bytes(pickle.dumps((contents, seconds)))
    return contents, seconds


def table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each job and kind of disturbance.

    runs; hit: those in which it was in time; failed: those in which the driver then ended with an error; equal: those
    that ended with the undisturbed output.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["job"], row["kill"]), []).append(row)
    return [
        {
            "job": job,
            "kill": kind,
            "runs": len(group),
            "hit": sum(row["killed"] != "nothing" for row in group),
            "failed": sum(bool(row["errors"]) for row in group),
            "equal": sum(row["equal"] for row in group),
        }
        for (job, kind), group in groups.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", default=",".join(JOBS), help="default: %(default)s")
    parser.add_argument(
        "--kills", default=",".join(KILLS), help=f"of {', '.join(KINDS)} (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="after which no further run is begun"
    )
    parser.add_argument("--folder", type=Path, help="folder to keep; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gve-chaos-") as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = run(args.jobs.split(","), args.kills.split(","), args.seeds, folder, args.minutes * 60)
    summary = table(rows)
    print(json.dumps({"table": summary, "runs": rows}, indent=1))
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
