"""Tests `gve doctor` and the checks before a job on a real cluster of two nodes."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gve_ray import cli
from gve_ray.job import PreflightError
from gve_ray.preflight import Needs, Workers, check_cluster

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Answer:
    """The exit status and the output of one call of `gve`."""

    status: int
    out: str
    err: str

    @property
    def findings(self) -> dict[str, dict[str, str]]:
        """Return the findings of --json by name."""
        return {finding["name"]: finding for finding in json.loads(self.out)["findings"]}

    @property
    def missing(self) -> list[str]:
        return [name for name, finding in self.findings.items() if finding["state"] == "missing"]


class Doctor:
    """The process that runs the cluster, and the folder that its nodes were started in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(Path(__file__).with_name("cluster.py")), str(folder)]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self._read()

    def __call__(self, *args: str, second: str = "") -> Answer:
        return self.gve("doctor", *args, second=second)

    def gve(self, *args: str, second: str = "") -> Answer:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"args": args, "second": second}) + "\n")
        self.process.stdin.flush()
        return Answer(**self._read())

    def synthesize(self, *options: str, second: str = "") -> Answer:
        """Check the demo's config; its input and output are shared by both nodes unless options change them."""
        shared = ["--input", str(self.folder / "videos"), "--output", str(self.folder / "runs" / "new")]
        # Ray has been started with a GPU that does not exist.
        no_gpus = ["--resources.captioner.num_gpus", "0", "--resources.consistency.num_gpus", "0"]
        return self(
            "synthesize", "--config", "demo.yaml", *shared, *no_gpus, "--json", *options, second=second
        )

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()[-3000:]
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate(timeout=60)
        self.log.close()


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doctor]:
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("first", "second", "site", "runs", "videos"):
        (folder / name).mkdir()
    (folder / "videos" / "a.mp4").write_bytes(b"bytes")
    process = Doctor(folder)
    try:
        yield process
    finally:
        process.close()


@pytest.fixture
def other_transformers(doctor: Doctor) -> Iterator[None]:
    """Give the second node a different version of transformers."""
    metadata = doctor.folder / "site" / "transformers-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    yield
    metadata.unlink()
    metadata.parent.rmdir()


def leftovers(doctor: Doctor) -> list[Path]:
    return list(doctor.folder.rglob(".gve-doctor*"))


def test_a_cluster_without_a_job(doctor: Doctor) -> None:
    answer = doctor("--json")
    findings = answer.findings
    assert (answer.status, answer.missing) == (0, [])
    assert findings["nodes"]["value"].startswith("2 alive: 4 CPU, 1 GPU")
    assert "2 CPU, 1 GPU" in findings["node first"]["value"]
    assert "2 CPU" in findings["node second"]["value"]
    assert findings["Python"]["value"] == f"{sys.version.split()[0]} on 2 of 2 nodes"
    assert findings["token"]["value"] == "RAY_AUTH_MODE=token everywhere"
    assert {"Ray", "torch", "transformers", "vllm", "gve_ray", "source"} <= set(findings)
    assert findings["demo.yaml"]["value"].startswith("can run ")


def test_a_job_that_can_start(doctor: Doctor) -> None:
    answer = doctor.synthesize("--resources.media.num_cpus", "0.5", "--resources.media.memory", "0")
    findings = answer.findings
    assert (answer.status, answer.missing) == (0, [])
    assert findings["input"]["value"].endswith("read on 2 of 2 nodes")
    assert findings["output"]["value"].endswith("written and seen on 2 of 2 nodes")
    assert "on 2 of 2 nodes that may load it" in findings["captioner.model"]["value"]
    # Two nodes with 2 CPUs each have room for 8 actors that reserve half a CPU.
    assert findings["resources.media"]["value"] == "8 x (0.5 CPU), room for 8"
    assert leftovers(doctor) == []
    assert list((doctor.folder / "runs").iterdir()) == []  # the output folder was not created


def test_too_few_gpus(doctor: Doctor) -> None:
    captioner = {"actors": 4, "num_cpus": 2, "num_gpus": 1, "memory": 0}
    answer = doctor.synthesize("--resources.captioner", json.dumps(captioner))
    finding = answer.findings["resources.captioner"]
    assert answer.status == 1
    assert finding["state"] == "missing"
    assert finding["value"] == "4 x (2 CPU, 1 GPU), room for 1"
    assert "the cluster has 4 CPU, 1 GPU on 2 nodes" in finding["problem"]
    assert "--resources.captioner.actors 1" in finding["fix"]
    # The model is needed only where such a worker has room, which is the node with the GPU.
    assert "on 1 of 1 node that may load it" in answer.findings["captioner.model"]["value"]
    if shutil.which("nvidia-smi") is None:  # the GPU that Ray was started with does not exist
        assert answer.findings["GPU on first"]["state"] == "missing"
        assert "torch" in answer.findings["GPU on first"]["problem"]


def test_storage_that_a_node_cannot_see(doctor: Doctor) -> None:
    (doctor.folder / "first" / "videos").mkdir(exist_ok=True)
    (doctor.folder / "first" / "videos" / "a.mp4").write_bytes(b"bytes")
    answer = doctor.synthesize("--input", "/proc/self/cwd/videos", "--output", "/proc/self/cwd/out")
    assert answer.status == 1
    assert answer.missing == ["input", "output"]
    for name in answer.missing:
        assert answer.findings[name]["value"].endswith("on 1 of 2 nodes, not on second")
        assert "same absolute path" in answer.findings[name]["fix"]
    assert leftovers(doctor) == []


def test_a_job_is_refused_before_it_starts(doctor: Doctor) -> None:
    videos = str(doctor.folder / "videos")
    answer = doctor.gve(
        "synthesize", "--config", "demo.yaml", "--input", videos, "--output", "/proc/self/cwd/run"
    )
    assert answer.status == 2
    assert "output='/proc/self/cwd/run': not shared by all nodes (second: " in answer.err
    assert not (doctor.folder / "first" / "run").exists()


def test_an_input_that_differs_on_a_node(doctor: Doctor) -> None:
    for name, content in (("first", b"bytes"), ("second", b"others")):
        (doctor.folder / name / "twins").mkdir()
        (doctor.folder / name / "twins" / "a.mp4").write_bytes(content)
    answer = doctor.synthesize("--input", "/proc/self/cwd/twins")
    assert answer.missing == ["input"]
    assert (
        "second: /proc/self/cwd/twins/a.mp4 has 6 bytes there, not 5" in answer.findings["input"]["problem"]
    )


def test_versions_that_differ(doctor: Doctor, other_transformers: None) -> None:
    answer = doctor.synthesize()
    assert answer.status == 1
    assert answer.missing == ["transformers"]
    value = answer.findings["transformers"]["value"]
    assert "4.0.0 (second)" in value
    assert "(first, the driver)" in value


def test_a_missing_model(doctor: Doctor) -> None:
    answer = doctor.synthesize("--captioner.model", "/no/such/model")
    assert answer.status == 1
    assert answer.missing == ["captioner.model"]
    finding = answer.findings["captioner.model"]
    assert finding["value"] == "/no/such/model: on 0 of 2 nodes that may load it, not on first, second"
    assert finding["problem"] == "captioner.model='/no/such/model': no such folder"
    assert finding["fix"] == "name a model folder or a hub id"


def test_a_model_that_is_missing_on_one_node(doctor: Doctor) -> None:
    (doctor.folder / "first" / "model").mkdir()
    (doctor.folder / "first" / "model" / "config.json").write_text("{}")
    answer = doctor.synthesize("--captioner.model", "/proc/self/cwd/model")
    assert answer.missing == ["captioner.model"]
    assert "on 1 of 2 nodes that may load it, not on second" in answer.findings["captioner.model"]["value"]
    (doctor.folder / "second" / "model").mkdir()
    (doctor.folder / "second" / "model" / "config.json").write_text("{ }")
    answer = doctor.synthesize("--captioner.model", "/proc/self/cwd/model")
    assert answer.missing == ["captioner.model"]
    assert "not the same model everywhere" in answer.findings["captioner.model"]["problem"]


@pytest.mark.parametrize(
    "verb,pool,missing",
    [
        ("train", "resources", {"data.described.uri", "data.described.root", "data.uvrd.uri", "assets"}),
        (
            "evaluate",
            "resources",
            {"models.trained.adapter", "contamination.training", "contamination.training[1]", "root"},
        ),
        ("index", "resources.embed", {"input"}),
        ("serve", "gateway.replicas", {"models.demo.index", "config"}),
    ],
)
def test_the_missing_requirements_of_each_job(
    doctor: Doctor, verb: str, pool: str, missing: set[str]
) -> None:
    """Covers the demo's recipes before the demo has run. config: an error that belongs to no other finding."""
    answer = doctor(verb, "--config", "demo.yaml", "--json", f"--{pool}.num_gpus", "0")
    assert answer.status == 1
    assert set(answer.missing) == missing
    assert all(answer.findings[name]["problem"] for name in missing)
    assert leftovers(doctor) == []


@pytest.mark.parametrize(
    "args,message",
    [
        (["synthesize", "--config", "demo.yaml", "--media.frames", "7"], "even number of frames"),
        (["synthesize", "--config", "demo.yaml", "--no.such", "1"], "--no.such"),
        (["bake"], "invalid choice: 'bake'"),
        (["--output=x"], "name the VERB first"),
        (["--timeout", "0"], "--timeout 0: use positive seconds"),
    ],
)
def test_wrong_arguments(doctor: Doctor, args: list[str], message: str) -> None:
    answer = doctor(*args)
    assert answer.status == 2
    assert message in answer.err


def test_a_cluster_that_does_not_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cli.main(["doctor"]) == 1
    assert f"cannot connect to Ray at {address}: " in capsys.readouterr().err


def test_a_single_node_is_not_asked() -> None:
    pool = Workers(option="resources", count=2, demands={"CPU": 1.0})
    needs = Needs(
        job="train", rules=lambda: pytest.fail("asked"), workers=[pool], outputs={"output": "/nowhere"}
    )
    check_cluster(needs, [{"CPU": 2.0}])
    with pytest.raises(PreflightError, match=r"resources: needs 2 x \(1 CPU\)"):
        check_cluster(needs, [{"CPU": 1.0}])


@pytest.mark.slow
def test_a_node_that_does_not_answer_is_a_finding(doctor: Doctor) -> None:
    answer = doctor.synthesize("--timeout", "8", second="stop")
    try:
        assert answer.status == 1
        assert answer.missing == ["node second"]
        assert "no answer in 8 s" in answer.findings["node second"]["value"]
        assert answer.findings["output"]["value"].endswith("written and seen on 1 of 2 nodes")
    finally:
        assert doctor("--json", second="go").status == 0
