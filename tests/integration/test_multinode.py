"""Tests four jobs on a cluster of three Ray nodes whose input and output are on an S3 server.

The head runs no actors. Each of the other two nodes has the cores for one captioner or one rank, so the ranks
are on different nodes. The output must equal that of the same jobs on one node with a local disk, even if a node
is killed while a job runs.
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
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY
from gve_ray.schema import ANNOTATION_SCHEMA, UVRD_TASKS
from gve_ray.search.library import SEGMENT_SCHEMA
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem
from tests.integration.nodes import Node, Nodes
from tests.integration.test_evaluate_job import write_sets
from tests.ray_head import LocalHead
from tests.s3 import S3Server

REPOSITORY = Path(__file__).resolve().parents[2]
SHARES = CorpusShares(**{name: 0.1 if name == "static" else 0.0 for name in vars(CorpusShares())})
VIDEOS, STEPS, EPOCHS = 12, 10, 2
DEADLINE = 600.0  # seconds per wait; on two idle cores, a wait takes a tenth of this
MODEL = "package://demo/tiny_vl/model"
RANK = "RayTrainWorker"  # in the process titles of Ray Train's workers
ACTOR = "StageActor"  # in the process titles of stage actors

# In seconds; on two idle cores, a test takes about a tenth of this.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Workspace:
    """The local folder or bucket in which jobs read and write, and the cluster that runs them."""

    head: LocalHead
    root: str

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def command(self, job: str, output: str, *more: str) -> list[str]:
        """Return the command of a small job with the demo's recipe; `output` is relative to the root."""
        return ["python", f"jobs/{job}.py", "--config", "demo.yaml", *_options(self, job),
                "--output", self.path(output), *more]  # fmt: skip

    def run(self, job: str, output: str, *more: str) -> None:
        self.head.submit(self.command(job, output, *more), working_dir=REPOSITORY)

    def start(self, job: str, output: str, *more: str) -> str:
        return self.head.start(self.command(job, output, *more), working_dir=REPOSITORY)

    def store(self, name: str, schema: Any, key: str = "video_id") -> Store:
        return Store(self.path(name), schema, key=key)

    def files(self, name: str) -> dict[str, bytes]:
        """Return the contents of all files below a folder by their relative paths."""
        files, root = filesystem(self.path(name))
        entries = files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return {
            entry.path.removeprefix(f"{root}/"): files.open_input_file(entry.path).read()
            for entry in entries
            if entry.type == fs.FileType.File
        }


def _options(workspace: Workspace, job: str) -> list[str]:
    if job == "synthesize":
        return [
            *("--input", workspace.path("raw/manifest.jsonl"), "--commit_seconds", "0.5"),
            # Every pair passes this threshold: there are too few to test the filter, which tests/synthesis does.
            *("--quality.consistency.threshold", "-1", "--resources.captioner.batch_size", "3"),
        ]
    assets = workspace.path("pairs/assets.lance")
    if job == "train":
        data = [{"name": "uvrd", "uri": workspace.path("pairs/uvrd"), "tasks": ["T2V"], "batch_size": 4}]
        return [
            *("--data", json.dumps(data), "--assets", assets, "--dtype", "float32"),
            *("--curriculum.epochs", str(EPOCHS), "--loop.steps", str(STEPS), "--loop.save_steps", "3"),
        ]
    adapter = workspace.path("trained/adapter")
    if job == "evaluate":
        models = [{"name": "trained", "model": MODEL, "adapter": adapter}]
        return [
            *("--models", json.dumps(models), "--root", workspace.path("uvrb"), "--commit_seconds", "0.2"),
            *("--contamination.training", assets, "--resources.batch_size", "4"),
            *("--cache", workspace.path("embeddings"), "--depth", "10"),
        ]
    return [
        *("--input", workspace.path("raw/manifest.jsonl"), "--model.adapter", adapter),
        *("--commit_seconds", "0.2", "--resources.embed.batch_size", "2"),
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with raw videos and two data sets."""
    folder = tmp_path_factory.mktemp("source")
    write_corpus(folder / "raw", n=VIDEOS, seed=3, shares=SHARES, workers=2)
    write_sets(folder / "uvrb")
    return folder


@pytest.fixture(scope="module")
def one_node(source: Path) -> Workspace:
    """Return the local folder after all jobs have run on one node."""
    with LocalHead(num_cpus=2) as head:
        workspace = Workspace(head, str(source))
        for job, output in JOBS.items():
            workspace.run(job, output)
    return workspace


@pytest.fixture(scope="module")
def cluster(s3_server: S3Server, source: Path) -> Iterator[tuple[Workspace, Nodes]]:
    """Yield the bucket and its cluster, whose processes get the server's address from the environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in s3_server.environment.items():
            environment.setenv(name, value)
        yield from _cluster(s3_server.make_bucket("multinode"), source)


def _cluster(root: str, source: Path) -> Iterator[tuple[Workspace, Nodes]]:
    files, target = filesystem(root)
    for name in ("raw", "uvrb"):
        fs.copy_files(str(source / name), f"{target}/{name}", destination_filesystem=files)
    with LocalHead(num_cpus=0) as head, Nodes(head) as nodes:
        yield Workspace(head, root), nodes


JOBS = {"synthesize": "pairs", "train": "trained", "evaluate": "scores", "index": "index"}


@pytest.fixture(scope="module")
def many_nodes(cluster: tuple[Workspace, Nodes]) -> Workspace:
    """Return the bucket after all jobs have run on two nodes."""
    workspace, nodes = cluster
    two_nodes(nodes)
    for job, output in JOBS.items():
        workspace.run(job, output, *(CORES if job == "train" else ()))
    return workspace


CORES = ("--resources.num_cpus", "2")  # a rank takes all cores of a node


def two_nodes(nodes: Nodes) -> list[Node]:
    """Return two running nodes of two cores each; start those that are missing."""
    while len(nodes.live) < 2:
        nodes.add(num_cpus=2)
    return nodes.live


def wait(ready: Callable[[], object], workspace: Workspace, job: str) -> None:
    """Wait until `ready()`. Fails at the deadline, or if the job ends first."""
    deadline = time.monotonic() + DEADLINE
    while not ready():
        assert time.monotonic() < deadline, workspace.head.log_of(job)
        assert workspace.head.state(job) in ("PENDING", "RUNNING"), workspace.head.log_of(job)
        time.sleep(0.1)


def finish(workspace: Workspace, job: str) -> None:
    """Wait until the job has ended; fail unless it succeeded."""
    deadline = time.monotonic() + DEADLINE
    while workspace.head.state(job) in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline, workspace.head.log_of(job)
        time.sleep(0.2)
    assert workspace.head.state(job) == "SUCCEEDED", workspace.head.log_of(job)


def kill_node(nodes: Nodes, pattern: str) -> None:
    """Kill a node that runs a process whose title or command line contains `pattern`."""
    victim = next(node for node in nodes.live if node.processes(pattern))
    victim.kill()


# ---- output of the jobs


def synthesis_output(workspace: Workspace, output: str) -> dict[str, Any]:
    annotations = (
        workspace.store(f"{output}/annotations.lance", ANNOTATION_SCHEMA).table().sort_by("video_id")
    )
    rejects = workspace.store(f"{output}/rejects.lance", REJECT_SCHEMA).table(["video_id", "stage", "reason"])
    stages = json.loads(workspace.files(output)["run.json"])["stages"]
    return {
        "pairs": workspace.files(f"{output}/uvrd"),
        "annotations": annotations.to_pylist(),
        "rejects": sorted(tuple(row.values()) for row in rejects.to_pylist()),
        "counts": [{name: stage[name] for name in ("name", "in", "out", "rejected")} for stage in stages],
    }


def training_steps(workspace: Workspace, output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in workspace.files(output)["steps.jsonl"].splitlines()]


def assert_same_training(workspace: Workspace, output: str, reference: Workspace) -> None:
    steps, expected = training_steps(workspace, output), training_steps(reference, "trained")
    assert [step["step"] for step in steps] == list(range(1, STEPS * EPOCHS + 1))
    for name in ("dataset", "learning_rate", "epoch"):
        assert [step[name] for step in steps] == [step[name] for step in expected]
    weights, expected_weights = (
        load(source.files(f"{name}/adapter")["adapter_model.safetensors"])
        for source, name in ((workspace, output), (reference, "trained"))
    )
    assert weights.keys() == expected_weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected_weights[name], rtol=0, atol=1e-5)


def scores_of(workspace: Workspace, output: str) -> dict[str, Any]:
    results = json.loads(workspace.files(output)["results.json"])
    return {
        name: {key: dataset[key] for key in ("scores", "n_queries", "n_corpus", "missing")}
        for name, dataset in results["models"]["trained"]["datasets"].items()
    } | {"contamination": results["contamination"]["hits"]}


def index_vectors(workspace: Workspace, output: str) -> dict[str, np.ndarray]:
    rows = workspace.store(f"{output}/segments.lance", SEGMENT_SCHEMA, "segment").table(["segment", "vector"])
    return {row["segment"]: np.asarray(row["vector"]) for row in rows.to_pylist()}


def assert_same_index(workspace: Workspace, output: str, reference: Workspace) -> None:
    vectors, expected = index_vectors(workspace, output), index_vectors(reference, "index")
    assert vectors.keys() == expected.keys()
    assert min(float(vectors[name] @ expected[name]) for name in expected) > 0.9999
    assert {"library.json", "catalog.parquet"} <= workspace.files(output).keys()


# ---- undisturbed runs


def test_one_node_has_all_tasks(one_node: Workspace) -> None:
    """If tasks were missing, the comparisons with this run would prove little."""
    assert {name.split("/")[0] for name in one_node.files("pairs/uvrd")} == {
        f"task={t.value}" for t in UVRD_TASKS
    }
    assert len(index_vectors(one_node, "index")) > VIDEOS // 2


def test_synthesis_equals_one_node(one_node: Workspace, many_nodes: Workspace) -> None:
    assert synthesis_output(many_nodes, "pairs") == synthesis_output(one_node, "pairs")


def test_training_equals_one_node(one_node: Workspace, many_nodes: Workspace) -> None:
    assert_same_training(many_nodes, "trained", one_node)


def test_evaluation_equals_one_node(one_node: Workspace, many_nodes: Workspace) -> None:
    assert scores_of(many_nodes, "scores") == scores_of(one_node, "scores")
    assert b"data:image/jpeg" in many_nodes.files("scores")["report.html"]


def test_the_index_equals_one_node(one_node: Workspace, many_nodes: Workspace) -> None:
    assert_same_index(many_nodes, "index", one_node)


def test_finished_jobs_do_nothing(many_nodes: Workspace) -> None:
    before = {job: many_nodes.files(output)["run.json"] for job, output in JOBS.items() if job != "index"}
    for job in before:
        many_nodes.run(job, JOBS[job])
    assert {job: many_nodes.files(JOBS[job])["run.json"] for job in before} == before


# ---- runs in which nodes are killed or added


def test_a_node_killed_while_captioning(
    cluster: tuple[Workspace, Nodes], one_node: Workspace, many_nodes: Workspace
) -> None:
    workspace, nodes = cluster
    two_nodes(nodes)
    job = workspace.start("synthesize", "pairs-lost")
    wait(lambda: workspace.store("pairs-lost/annotations.lance", ANNOTATION_SCHEMA).count(), workspace, job)
    kill_node(nodes, ACTOR)
    finish(workspace, job)
    assert synthesis_output(workspace, "pairs-lost") == synthesis_output(one_node, "pairs")


def test_a_node_killed_and_replaced_while_training(
    cluster: tuple[Workspace, Nodes], one_node: Workspace, many_nodes: Workspace
) -> None:
    workspace, nodes = cluster
    two_nodes(nodes)
    job = workspace.start("train", "trained-lost", *CORES)
    wait(lambda: checkpoints(workspace, "trained-lost"), workspace, job)
    assert [len(node.processes(RANK)) for node in nodes.live] == [1, 1]  # the ranks are on different nodes
    kill_node(nodes, RANK)
    two_nodes(nodes)
    finish(workspace, job)
    assert "starting the ranks again" in workspace.head.log_of(job)
    assert_same_training(workspace, "trained-lost", one_node)


def checkpoints(workspace: Workspace, output: str) -> list[str]:
    """Return the names of the complete checkpoints."""
    return [name for name in workspace.files(f"{output}/checkpoints") if name.endswith("digests.json")]


def test_a_node_killed_while_evaluating(
    cluster: tuple[Workspace, Nodes], one_node: Workspace, many_nodes: Workspace
) -> None:
    workspace, nodes = cluster
    two_nodes(nodes)
    job = workspace.start("evaluate", "scores-lost", "--cache", workspace.path("embeddings-lost"))
    wait(lambda: embedded_keys(workspace, "embeddings-lost"), workspace, job)
    kill_node(nodes, ACTOR)
    finish(workspace, job)
    assert scores_of(workspace, "scores-lost") == scores_of(one_node, "scores")
    assert embedded_keys(workspace, "embeddings-lost") == embedded_keys(workspace, "embeddings")


def embedded_keys(workspace: Workspace, cache: str) -> Sequence[str]:
    """Return the sorted keys of all vectors in a cache, with duplicates."""
    files, root = filesystem(workspace.path(cache))
    folders = files.get_file_info(fs.FileSelector(root, allow_not_found=True))
    names = [entry.base_name for entry in folders if entry.type == fs.FileType.Directory]
    stores = [workspace.store(f"{cache}/{name}/embeddings.lance", EMBEDDING_SCHEMA, KEY) for name in names]
    return sorted(key for store in stores if store.exists() for key in store.table([KEY])[0].to_pylist())


def test_a_node_killed_while_indexing(
    cluster: tuple[Workspace, Nodes], one_node: Workspace, many_nodes: Workspace
) -> None:
    workspace, nodes = cluster
    two_nodes(nodes)
    job = workspace.start("index", "index-lost")
    wait(
        lambda: workspace.store("index-lost/segments.lance", SEGMENT_SCHEMA, "segment").count(),
        workspace,
        job,
    )
    kill_node(nodes, ACTOR)
    finish(workspace, job)
    assert_same_index(workspace, "index-lost", one_node)


def test_a_node_that_joins_later_gets_a_rank(cluster: tuple[Workspace, Nodes], many_nodes: Workspace) -> None:
    workspace, nodes = cluster
    for node in two_nodes(nodes)[1:]:
        node.kill()
    elastic = ("--resources.min_workers", "1", "--resources.resize_seconds", "1", "--loop.steps", "60")
    job = workspace.start("train", "trained-elastic", *CORES, *elastic)
    wait(lambda: checkpoints(workspace, "trained-elastic"), workspace, job)
    assert [len(node.processes(RANK)) for node in nodes.live] == [1]
    nodes.add(num_cpus=2)
    wait(lambda: [len(node.processes(RANK)) for node in nodes.live] == [1, 1], workspace, job)
    finish(workspace, job)
    assert "continuing with 2 ranks after 1" in workspace.head.log_of(job)
    steps = training_steps(workspace, "trained-elastic")
    assert [step["step"] for step in steps] == list(range(1, 60 * EPOCHS + 1))  # each exactly once
    assert {"adapter_config.json", "adapter_model.safetensors", "embedder.json"} <= workspace.files(
        "trained-elastic/adapter"
    ).keys()
