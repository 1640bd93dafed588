"""The four jobs on three Ray nodes; all that they read and write is on an S3 server.

The head runs no work. Each node has the cores of one captioner or one rank, so the ranks lie on two nodes. What
comes out equals what the same jobs make on one node and a local disk, also when a node is lost in the middle.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import fs
from safetensors.torch import load

from gve_ray.demo.corpus import CorpusShares, write_corpus
from gve_ray.demo.ray_head import LocalHead
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY
from gve_ray.schema import ANNOTATION_SCHEMA, Task
from gve_ray.search.library import SEGMENT_SCHEMA
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem
from tests.integration.nodes import Node, Nodes
from tests.integration.test_evaluate_job import write_sets
from tests.s3 import S3Server

REPOSITORY = Path(__file__).resolve().parents[2]
SHARES = CorpusShares(**{name: 0.1 if name == "static" else 0.0 for name in vars(CorpusShares())})
VIDEOS, STEPS, EPOCHS = 12, 10, 2
DEADLINE = 600.0  # seconds for any one wait; a tenth of it on two idle cores
MODEL = "package://demo/tiny_vl/model"
RANK = "RayTrainWorker"  # in the titles of Ray Train's processes
ACTOR = "StageActor"  # in those of a stage's

# Seconds on two idle cores: about a tenth of it.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Place:
    """Where the jobs read and write: a local folder, or a bucket. Both hold the same videos and data sets."""

    head: LocalHead
    root: str

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def command(self, job: str, output: str, *more: str) -> list[str]:
        """A job of the demo's recipe, in miniature; its output is `output` below the root."""
        return ["python", f"jobs/{job}.py", "--config", "demo.yaml", *_options(self, job),
                "--output", self.path(output), *more]  # fmt: skip

    def run(self, job: str, output: str, *more: str) -> None:
        self.head.submit(self.command(job, output, *more), working_dir=REPOSITORY)

    def start(self, job: str, output: str, *more: str) -> str:
        return self.head.start(self.command(job, output, *more), working_dir=REPOSITORY)

    def store(self, name: str, schema: Any, key: str = "video_id") -> Store:
        return Store(self.path(name), schema, key=key)

    def files(self, name: str) -> dict[str, bytes]:
        """Contents of all files below a folder, by their path in it."""
        files, root = filesystem(self.path(name))
        found = files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return {
            one.path.removeprefix(f"{root}/"): files.open_input_file(one.path).read()
            for one in found
            if one.type == fs.FileType.File
        }


def _options(place: Place, job: str) -> list[str]:
    if job == "synthesize":
        return [
            *("--input", place.path("raw/manifest.jsonl"), "--commit_seconds", "0.5"),
            # A cosine that every pair passes: few captions say nothing about a filter, tests/synthesis does.
            *("--quality.consistency.threshold", "-1", "--resources.captioner.batch_size", "3"),
        ]
    if job == "train":
        data = [{"name": "uvrd", "uri": place.path("pairs/uvrd"), "tasks": ["T2V"], "batch_size": 4}]
        return [
            *("--data", json.dumps(data), "--assets", place.path("pairs/assets.lance"), "--dtype", "float32"),
            *("--curriculum.epochs", str(EPOCHS), "--loop.steps", str(STEPS), "--loop.save_steps", "3"),
        ]
    adapter = place.path("trained/adapter")
    if job == "evaluate":
        models = [{"name": "trained", "model": MODEL, "adapter": adapter}]
        return [
            *("--models", json.dumps(models), "--root", place.path("uvrb"), "--commit_seconds", "0.2"),
            *("--contamination.training", place.path("pairs/assets.lance"), "--resources.batch_size", "4"),
            *("--cache", place.path("embeddings"), "--depth", "10"),
        ]
    return [
        *("--input", place.path("raw/manifest.jsonl"), "--model.adapter", adapter),
        *("--commit_seconds", "0.2", "--resources.embed.batch_size", "2"),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw videos and two data sets."""
    folder = tmp_path_factory.mktemp("source")
    write_corpus(folder / "raw", n=VIDEOS, seed=3, shares=SHARES, workers=2)
    write_sets(folder / "uvrb")
    return folder


@pytest.fixture(scope="module")
def one_node(source: Path) -> Place:
    """What the jobs make on one node, on its disk."""
    with LocalHead(num_cpus=2) as head:
        place = Place(head, str(source))
        for job, output in JOBS.items():
            place.run(job, output)
    return place


@pytest.fixture(scope="module")
def cluster(s3_server: S3Server, source: Path) -> Iterator[tuple[Place, Nodes]]:
    """The bucket and its cluster, whose processes know the server from the environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.environment.items():
            environment.setenv(name, value)
        yield from _cluster(s3_server.make_bucket("multinode"), source)


def _cluster(root: str, source: Path) -> Iterator[tuple[Place, Nodes]]:
    files, target = filesystem(root)
    for name in ("raw", "uvrb"):
        fs.copy_files(str(source / name), f"{target}/{name}", destination_filesystem=files)
    with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
        yield Place(head, root), nodes


JOBS = {"synthesize": "pairs", "train": "trained", "evaluate": "scores", "index": "index"}


@pytest.fixture(scope="module")
def many_nodes(cluster: tuple[Place, Nodes]) -> Place:
    """The bucket after all jobs have run on two nodes."""
    place, nodes = cluster
    both(nodes)
    for job, output in JOBS.items():
        place.run(job, output, *(CORES if job == "train" else ()))
    return place


CORES = ("--resources.num_cpus", "2")  # of a rank: all that a node has


def both(nodes: Nodes) -> list[Node]:
    """Two live nodes of two cores, those that are missing made anew."""
    while len(nodes.live) < 2:
        nodes.add(num_cpus=2)
    return nodes.live


def wait(ready: Callable[[], object], place: Place, job: str) -> None:
    """Until `ready`; fails if that takes too long or the job has ended before."""
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, place.head.log_of(job)
        assert place.head.state(job) in ("PENDING", "RUNNING"), place.head.log_of(job)
        time.sleep(0.1)


def finish(place: Place, job: str) -> None:
    """Until the job has ended, well."""
    deadline = time.monotonic() + DEADLINE
    while place.head.state(job) in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, place.head.log_of(job)
        time.sleep(0.2)
    assert place.head.state(job) == "SUCCEEDED", place.head.log_of(job)


def lose(nodes: Nodes, named: str) -> None:
    """Kill a node that runs such a process."""
    victim = next(node for node in nodes.live if node.processes(named))
    victim.kill()


# ---- what came out


def synthesized(place: Place, output: str) -> dict[str, Any]:
    annotations = place.store(f"{output}/annotations.lance", ANNOTATION_SCHEMA).table().sort_by("video_id")
    rejects = place.store(f"{output}/rejects.lance", REJECT_SCHEMA).table(["video_id", "stage", "reason"])
    stages = json.loads(place.files(output)["run.json"])["stages"]
    return {
        "pairs": place.files(f"{output}/uvrd"),
        "annotations": annotations.to_pylist(),
        "rejects": sorted(tuple(row.values()) for row in rejects.to_pylist()),
        "counts": [{name: one[name] for name in ("name", "in", "out", "rejected")} for one in stages],
    }


def steps_of(place: Place, output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.files(output)["steps.jsonl"].splitlines()]


def assert_same_training(place: Place, output: str, wanted: Place) -> None:
    told, expected = steps_of(place, output), steps_of(wanted, "trained")
    assert [one["step"] for one in told] == list(range(1, STEPS * EPOCHS + 1))
    for name in ("task", "learning_rate", "epoch"):
        assert [one[name] for one in told] == [one[name] for one in expected]
    made, right = (load(one.files(f"{name}/adapter")["adapter_model.safetensors"])
                   for one, name in ((place, output), (wanted, "trained")))  # fmt: skip
    assert made.keys() == right.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, right[name], rtol=0, atol=1e-5)


def scored(place: Place, output: str) -> dict[str, Any]:
    results = json.loads(place.files(output)["results.json"])
    return {
        name: {key: one[key] for key in ("scores", "n_queries", "n_corpus", "skipped")}
        for name, one in results["models"]["trained"]["datasets"].items()
    } | {"contamination": results["contamination"]["hits"]}


def indexed(place: Place, output: str) -> dict[str, np.ndarray]:
    rows = place.store(f"{output}/segments.lance", SEGMENT_SCHEMA, "segment").table(["segment", "vector"])
    return {row["segment"]: np.asarray(row["vector"]) for row in rows.to_pylist()}


def assert_same_index(place: Place, output: str, wanted: Place) -> None:
    made, right = indexed(place, output), indexed(wanted, "index")
    assert made.keys() == right.keys()
    assert min(float(made[name] @ right[name]) for name in right) > 0.9999
    assert {"library.json", "catalog.parquet"} <= place.files(output).keys()


# ---- nothing happens


def test_one_node_has_all_tasks(one_node: Place) -> None:
    """Otherwise equality with it would say little."""
    assert {name.split("/")[0] for name in one_node.files("pairs/uvrd")} == {f"task={t.value}" for t in Task}
    assert len(indexed(one_node, "index")) > VIDEOS // 2


def test_synthesis_equals_one_node(one_node: Place, many_nodes: Place) -> None:
    assert synthesized(many_nodes, "pairs") == synthesized(one_node, "pairs")


def test_training_equals_one_node(one_node: Place, many_nodes: Place) -> None:
    assert_same_training(many_nodes, "trained", one_node)


def test_evaluation_equals_one_node(one_node: Place, many_nodes: Place) -> None:
    assert scored(many_nodes, "scores") == scored(one_node, "scores")
    assert b"data:image/jpeg" in many_nodes.files("scores")["report.html"]


def test_the_index_equals_one_node(one_node: Place, many_nodes: Place) -> None:
    assert_same_index(many_nodes, "index", one_node)


def test_finished_jobs_do_nothing(many_nodes: Place) -> None:
    before = {job: many_nodes.files(output)["run.json"] for job, output in JOBS.items() if job != "index"}
    for job in before:
        many_nodes.run(job, JOBS[job])
    assert {job: many_nodes.files(JOBS[job])["run.json"] for job in before} == before


# ---- a node is lost


def test_a_node_lost_while_captioning(
    cluster: tuple[Place, Nodes], one_node: Place, many_nodes: Place
) -> None:
    place, nodes = cluster
    both(nodes)
    job = place.start("synthesize", "pairs-lost")
    wait(lambda: place.store("pairs-lost/annotations.lance", ANNOTATION_SCHEMA).count(), place, job)
    lose(nodes, ACTOR)
    finish(place, job)
    assert synthesized(place, "pairs-lost") == synthesized(one_node, "pairs")


def test_a_node_lost_and_replaced_while_training(
    cluster: tuple[Place, Nodes], one_node: Place, many_nodes: Place
) -> None:
    place, nodes = cluster
    both(nodes)
    job = place.start("train", "trained-lost", *CORES)
    wait(lambda: checkpoints(place, "trained-lost"), place, job)
    assert [len(node.processes(RANK)) for node in nodes.live] == [1, 1]  # the ranks lie on two nodes
    lose(nodes, RANK)
    both(nodes)
    finish(place, job)
    assert "starting the ranks again" in place.head.log_of(job)
    assert_same_training(place, "trained-lost", one_node)


def checkpoints(place: Place, output: str) -> list[str]:
    """Names of the whole checkpoints."""
    return [name for name in place.files(f"{output}/checkpoints") if name.endswith("digests.json")]


def test_a_node_lost_while_evaluating(
    cluster: tuple[Place, Nodes], one_node: Place, many_nodes: Place
) -> None:
    place, nodes = cluster
    both(nodes)
    job = place.start("evaluate", "scores-lost", "--cache", place.path("embeddings-lost"))
    wait(lambda: embedded(place, "embeddings-lost"), place, job)
    lose(nodes, ACTOR)
    finish(place, job)
    assert scored(place, "scores-lost") == scored(one_node, "scores")
    assert embedded(place, "embeddings-lost") == embedded(place, "embeddings")


def embedded(place: Place, cache: str) -> Sequence[str]:
    """Keys of all vectors in a cache, each as often as it is there."""
    files, root = filesystem(place.path(cache))
    folders = files.get_file_info(fs.FileSelector(root, allow_not_found=True))
    names = [one.base_name for one in folders if one.type == fs.FileType.Directory]
    tables = [place.store(f"{cache}/{name}/embeddings.lance", EMBEDDING_SCHEMA, KEY) for name in names]
    return sorted(key for one in tables if one.exists() for key in one.table([KEY])[0].to_pylist())


def test_a_node_lost_while_indexing(cluster: tuple[Place, Nodes], one_node: Place, many_nodes: Place) -> None:
    place, nodes = cluster
    both(nodes)
    job = place.start("index", "index-lost")
    wait(lambda: place.store("index-lost/segments.lance", SEGMENT_SCHEMA, "segment").count(), place, job)
    lose(nodes, ACTOR)
    finish(place, job)
    assert_same_index(place, "index-lost", one_node)


def test_a_node_that_comes_later_is_taken_in(cluster: tuple[Place, Nodes], many_nodes: Place) -> None:
    place, nodes = cluster
    for node in both(nodes)[1:]:
        node.kill()
    elastic = ("--resources.min_workers", "1", "--resources.resize_seconds", "1", "--loop.steps", "60")
    job = place.start("train", "trained-elastic", *CORES, *elastic)
    wait(lambda: checkpoints(place, "trained-elastic"), place, job)
    assert [len(node.processes(RANK)) for node in nodes.live] == [1]
    nodes.add(num_cpus=2)
    wait(lambda: [len(node.processes(RANK)) for node in nodes.live] == [1, 1], place, job)
    finish(place, job)
    assert "continuing with 2 ranks after 1" in place.head.log_of(job)
    steps = steps_of(place, "trained-elastic")
    assert [one["step"] for one in steps] == list(range(1, 60 * EPOCHS + 1))  # none lost, none twice
    assert {"adapter_config.json", "adapter_model.safetensors", "embedder.json"} <= place.files(
        "trained-elastic/adapter"
    ).keys()
