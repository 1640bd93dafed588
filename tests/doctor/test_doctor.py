"""`gve doctor` on a real cluster of two nodes: enough, and each way in which it is not."""

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
from gve_ray.doctor import Needs, Workers, check_cluster
from gve_ray.job import PreflightError

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Told:
    """What one call of the doctor gave."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def findings(self) -> dict[str, dict[str, str]]:
        """Of --json, by name."""
        return {one["name"]: one for one in json.loads(self.out)["findings"]}

    @property
    def missing(self) -> list[str]:
        return [name for name, one in self.findings.items() if one["state"] == "missing"]


class Doctor:
    """The cluster's process, and the folder that its nodes were started in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [sys.executable, str(Path(__file__).with_name("cluster.py")), str(folder)]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self._answer()

    def __call__(self, *args: str, second: str = "") -> Told:
        return self.gve("doctor", *args, second=second)

    def gve(self, *args: str, second: str = "") -> Told:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"args": args, "second": second}) + "\n")
        self.process.stdin.flush()
        return Told(**self._answer())

    def synthesize(self, *options: str, second: str = "") -> Told:
        """Of the demo's config with an input and output that both nodes see, unless options say otherwise."""
        shared = ["--input", str(self.folder / "videos"), "--output", str(self.folder / "runs" / "new")]
        return self("synthesize", "--config", "demo.yaml", *shared, "--json", *options, second=second)

    def _answer(self) -> Any:
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
    one = Doctor(folder)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def other_transformers(doctor: Doctor) -> Iterator[None]:
    """The second node's Python finds this before the installed one."""
    facts = doctor.folder / "site" / "transformers-4.0.0.dist-info" / "METADATA"
    facts.parent.mkdir()
    facts.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    yield
    facts.unlink()
    facts.parent.rmdir()


def leftovers(doctor: Doctor) -> list[Path]:
    return list(doctor.folder.rglob(".gve-doctor*"))


def test_the_cluster_alone(doctor: Doctor) -> None:
    told = doctor("--json")
    found = told.findings
    assert (told.status, told.missing) == (0, [])
    assert found["nodes"]["value"].startswith("2 alive: 4 CPU, 1 GPU")
    assert "2 CPU, 1 GPU" in found["node first"]["value"]
    assert "2 CPU" in found["node second"]["value"]
    assert "/dev/shm" in found["node second"]["value"]
    assert found["Python"]["value"] == f"{sys.version.split()[0]} on 2 of 2 nodes"
    assert found["token"]["value"] == "RAY_AUTH_MODE=token everywhere"
    assert {"Ray", "torch", "transformers", "vllm", "gve_ray", "source", "dashboard"} <= set(found)


def test_enough(doctor: Doctor) -> None:
    told = doctor.synthesize()
    found = told.findings
    assert (told.status, told.missing) == (0, [])
    assert found["input"]["value"].endswith("read on 2 of 2 nodes")
    assert found["output"]["value"].endswith("written and seen on 2 of 2 nodes")
    assert "on 2 of 2 nodes that may load it" in found["captioner.model"]["value"]
    # 2 actors of half a core; two nodes of 2 cores hold 8 of them.
    assert found["resources.media"]["value"] == "2 x (0.5 CPU), room for 8"
    assert leftovers(doctor) == []
    assert list((doctor.folder / "runs").iterdir()) == []  # the output's folder was not made


def test_too_few_gpus(doctor: Doctor) -> None:
    told = doctor.synthesize("--resources.captioner.num_gpus", "1", "--resources.captioner.actors", "4")
    found = told.findings["resources.captioner"]
    assert told.status == 1
    assert found["state"] == "missing"
    assert found["value"] == "4 x (2 CPU, 1 GPU), room for 1"
    assert "cluster has 4 CPU, 1 GPU in 2 nodes" in found["problem"]
    assert "--resources.captioner.actors 1" in found["fix"]
    # The model is looked for only where such a worker has room: on the node with the GPU.
    assert "on 1 of 1 node that may load it" in told.findings["captioner.model"]["value"]
    if shutil.which("nvidia-smi") is None:  # then what Ray was told of a GPU is not true
        assert told.findings["GPU on first"]["state"] == "missing"
        assert "torch" in told.findings["GPU on first"]["problem"]


def test_storage_that_a_node_cannot_see(doctor: Doctor) -> None:
    (doctor.folder / "first" / "videos").mkdir(exist_ok=True)
    (doctor.folder / "first" / "videos" / "a.mp4").write_bytes(b"bytes")
    told = doctor.synthesize("--input", "/proc/self/cwd/videos", "--output", "/proc/self/cwd/out")
    assert told.status == 1
    assert told.missing == ["input", "output"]
    for name in told.missing:
        assert told.findings[name]["value"].endswith("on 1 of 2 nodes, not on second")
        assert "same absolute path" in told.findings[name]["fix"]
    assert leftovers(doctor) == []


def test_a_job_says_it_too_before_it_begins(doctor: Doctor) -> None:
    videos = str(doctor.folder / "videos")
    told = doctor.gve(
        "synthesize", "--config", "demo.yaml", "--input", videos, "--output", "/proc/self/cwd/run"
    )
    assert told.status == 2
    assert "output='/proc/self/cwd/run': not one storage for all nodes (second: " in told.err
    assert not (doctor.folder / "first" / "run").exists()


def test_an_input_that_is_another_one_there(doctor: Doctor) -> None:
    for name, content in (("first", b"bytes"), ("second", b"others")):
        (doctor.folder / name / "twins").mkdir()
        (doctor.folder / name / "twins" / "a.mp4").write_bytes(content)
    told = doctor.synthesize("--input", "/proc/self/cwd/twins")
    assert told.missing == ["input"]
    assert "second: /proc/self/cwd/twins/a.mp4 has 6 bytes there, not 5" in told.findings["input"]["problem"]


def test_versions_that_differ(doctor: Doctor, other_transformers: None) -> None:
    told = doctor.synthesize()
    assert told.status == 1
    assert told.missing == ["transformers"]
    value = told.findings["transformers"]["value"]
    assert "4.0.0 (second)" in value
    assert "(first, the driver)" in value


def test_a_model_that_is_not_there(doctor: Doctor) -> None:
    told = doctor.synthesize("--captioner.model", "/no/such/model")
    assert told.status == 1
    assert told.missing == ["captioner.model"]
    found = told.findings["captioner.model"]
    assert found["value"] == "/no/such/model: on 0 of 2 nodes that may load it, not on first, second"
    assert found["problem"] == "captioner.model='/no/such/model': no such folder"
    assert found["fix"] == "name a model folder or a hub id"


def test_a_model_that_one_node_lacks(doctor: Doctor) -> None:
    (doctor.folder / "first" / "model").mkdir()
    (doctor.folder / "first" / "model" / "config.json").write_text("{}")
    told = doctor.synthesize("--captioner.model", "/proc/self/cwd/model")
    assert told.missing == ["captioner.model"]
    assert "on 1 of 2 nodes that may load it, not on second" in told.findings["captioner.model"]["value"]
    (doctor.folder / "second" / "model").mkdir()
    (doctor.folder / "second" / "model" / "config.json").write_text("{ }")
    told = doctor.synthesize("--captioner.model", "/proc/self/cwd/model")
    assert told.missing == ["captioner.model"]
    assert "not the same model everywhere" in told.findings["captioner.model"]["problem"]


@pytest.mark.parametrize(
    "verb,missing",
    [
        ("train", {"data.described.uri", "data.described.root", "data.uvrd.uri", "assets"}),
        ("evaluate", {"models.trained.adapter", "contamination.training"}),
        ("index", {"input", "model.adapter"}),
        ("serve", {"models.demo.index", "config"}),
    ],
)
def test_each_job_says_what_it_lacks(doctor: Doctor, verb: str, missing: set[str]) -> None:
    """Of the demo's recipes where no demo has run. config: what a job's own check says of no other line."""
    told = doctor(verb, "--config", "demo.yaml", "--json")
    assert told.status == 1
    assert set(told.missing) == missing
    assert all(told.findings[name]["problem"] for name in missing)
    assert leftovers(doctor) == []


def test_the_text_has_a_line_a_finding_and_the_problems_last(doctor: Doctor) -> None:
    told = doctor(
        "synthesize", "--config", "demo.yaml", "--input", "/nowhere", "--output", str(doctor.folder)
    )
    assert told.status == 1
    table, problems = told.out.split("\nproblems\n")
    lines = [line for line in table.splitlines() if line.startswith("  ")]
    assert [line for line in lines if line.startswith("  MISSING")] == [
        next(line for line in lines if " input " in line)
    ]
    starts = {
        line.index(value)
        for line in lines
        for value in ("/nowhere", "3.11", "2 x (0.5 CPU)")
        if value in line
    }
    assert len(starts) == 1  # the values stand under each other
    assert problems.split("\n")[:2] == [
        "  MISSING  input='/nowhere': no such file or folder",
        "           fix: name a folder, a glob or a manifest",
    ]
    assert problems.splitlines()[-1].startswith("synthesize: cannot start: 1 missing")


@pytest.mark.parametrize(
    "args,said",
    [
        (["synthesize", "--config", "demo.yaml", "--media.frames", "7"], "even number of frames"),
        (["synthesize", "--config", "demo.yaml", "--no.such", "1"], "--no.such"),
        (["bake"], "invalid choice: 'bake'"),
        (["--output=x"], "name the VERB first"),
        (["--timeout", "0"], "--timeout 0: use positive seconds"),
    ],
)
def test_wrong_arguments(doctor: Doctor, args: list[str], said: str) -> None:
    told = doctor(*args)
    assert told.status == 2
    assert said in told.err


def test_a_cluster_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cli.main(["doctor"]) == 1
    assert f"no way into the cluster at {address}: " in capsys.readouterr().err


def test_one_node_alone_is_not_asked() -> None:
    """Nor is Ray: the job's own checks have seen all that there is."""
    pool = Workers(option="resources", count=2, demands={"CPU": 1.0})
    one = Needs(
        job="train", check=lambda: pytest.fail("asked"), workers=[pool], writes={"output": "/nowhere"}
    )
    check_cluster(one, [{"CPU": 2.0}])
    with pytest.raises(PreflightError, match=r"resources: needs 2 x \(1 CPU\)"):
        check_cluster(one, [{"CPU": 1.0}])


def test_a_node_that_does_not_answer_is_a_line(doctor: Doctor) -> None:
    told = doctor.synthesize("--timeout", "8", second="stop")
    try:
        assert told.status == 1
        assert told.missing == ["node second"]
        assert "no answer in 8 s" in told.findings["node second"]["value"]
        assert told.findings["output"]["value"].endswith("written and seen on 1 of 2 nodes")
        assert told.seconds < 20
    finally:
        assert doctor("--json", second="go").status == 0
