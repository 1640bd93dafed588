"""What is looked at on a node, each probe against files and sockets of the test's own."""

import os
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

import gve_ray
from gve_ray.doctor import probe
from gve_ray.doctor.needs import first_files
from gve_ray.doctor.probe import DRIVER, Mark, Outcome, examine
from gve_ray.job import PreflightError
from gve_ray.store import SharedFolder


def test_probes_run_at_the_same_time_and_each_is_told() -> None:
    together = threading.Barrier(2)  # neither goes on without the other

    def fail() -> None:
        raise OSError("the disk is gone")

    found = examine(
        {"a": lambda: together.wait(5) >= 0, "b": lambda: together.wait(5) >= 0, "bad": fail}, seconds=10
    )
    assert found == {
        "a": Outcome(value=True),
        "b": Outcome(value=True),
        "bad": Outcome(problem="the disk is gone"),
    }


def test_a_probe_that_hangs_is_left_behind() -> None:
    forever = threading.Event()
    begun = time.monotonic()
    found = examine({"hangs": forever.wait, "well": lambda: 1}, seconds=0.3)
    forever.set()
    assert time.monotonic() - begun < 5
    assert found["well"] == Outcome(value=1)
    assert found["hangs"].problem.startswith("no answer in 0.3 s; ")


def test_a_mark_is_left_seen_and_removed(tmp_path: Path) -> None:
    mark = Mark.at(str(tmp_path / "run" / "new"), "token")
    assert mark.up == 2  # neither folder is there, and none is made
    mark.write(DRIVER)
    assert mark.answer("n1")
    assert (mark.sees("n1"), mark.sees("n2")) == (True, False)
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        ".gve-doctor-token-driver",
        ".gve-doctor-token-n1",
    ]
    for who in (DRIVER, "n1", "n2"):
        mark.remove(who)
    assert list(tmp_path.iterdir()) == []


def test_marks_and_files_in_a_bucket(s3: str) -> None:
    mark = Mark.at(f"{s3}/runs/new", "token")
    assert not mark.answer("node")
    mark.write(DRIVER)
    assert mark.answer("node")
    assert mark.sees("node")
    for who in ("node", DRIVER, "nobody"):
        mark.remove(who)
    bucket = SharedFolder(s3)
    assert bucket.names("runs/new") == []
    (bucket.path / "data/frames").mkdir(parents=True)
    for name, size in {"data/a.csv": 3, "data/frames/0.jpg": 2, "data/frames/1.jpg": 2}.items():
        (bucket.path / name).write_bytes(bytes(size))
    bucket.publish()
    assert first_files(f"{s3}/data/") == [f"{s3}/data/a.csv", f"{s3}/data/frames/0.jpg"]
    sizes = {f"{s3}/data/a.csv": 3, f"{s3}/data/frames/": 2}  # bytes of a file, pictures of a folder
    assert probe.sizes(list(sizes)) == sizes
    with pytest.raises(FileNotFoundError):
        first_files(f"{s3}/none")
    with pytest.raises(OSError, match=r"cannot be written: .*no-such-bucket"):
        Mark.at("s3://no-such-bucket-here/run", "token").write(DRIVER)


def test_a_mark_is_found_anew_from_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    mark = Mark.at("run", "token")
    mark.write(DRIVER)
    monkeypatch.chdir(tmp_path / "b")  # as on another node
    assert not mark.answer("n1")
    assert list((tmp_path / "b").iterdir()) == []  # where the driver's is not, nothing is left behind


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    mark = Mark.at(tmp_path.as_uri(), "token")
    mark.write(DRIVER)
    (tmp_path / ".gve-doctor-token-n1").mkdir()  # in the way of what n1 writes
    with pytest.raises(OSError, match="cannot be written: "):
        mark.answer("n1")


def test_a_file_of_another_run_is_not_taken_for_ours(tmp_path: Path) -> None:
    mark = Mark.at(str(tmp_path), "token")
    (tmp_path / ".gve-doctor-token-driver").write_text("other driver\n")
    assert not mark.sees(DRIVER)


def test_sizes_of_files_and_of_folders_of_frames(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"12345")
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i}.jpg").write_bytes(b"x")
    uris = [str(tmp_path / "a.mp4"), str(frames), (tmp_path / "a.mp4").as_uri()]
    assert probe.sizes(uris) == dict(zip(uris, (5, 3, 5), strict=True))
    with pytest.raises(FileNotFoundError):
        probe.sizes([*uris, str(tmp_path / "none.mp4")])


def test_of_dirty_inputs_those_that_can_be_read_count(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"12345")
    here, gone = str(tmp_path / "a.mp4"), str(tmp_path / "gone.mp4")
    assert probe.readable([gone, here]) == {here: 5}
    with pytest.raises(FileNotFoundError):
        probe.readable([gone])


def test_where_something_listens() -> None:
    with socket.socket() as one, socket.socket() as other:
        for here in (one, other):
            here.bind(("127.0.0.1", 0))
        one.listen()
        open_port, free_port = one.getsockname()[1], other.getsockname()[1]
        assert probe.listening([open_port, free_port]) == {open_port: ["127.0.0.1"], free_port: []}


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = tmp_path / "a"
    first.mkdir()
    (first / "config.json").write_text("{}")
    (first / "model.safetensors").write_bytes(bytes(300_000))
    second = Path(shutil.copytree(first, tmp_path / "b"))

    def identity(folder: Path) -> str:
        return probe.model_identity("model", str(folder), None, "config.json")

    same = identity(first)
    assert identity(second) == same
    (second / ".cache").write_text("not part of it")
    assert identity(second) == same
    (second / "model.safetensors").write_bytes(bytes(299_999) + b"x")
    assert identity(second) != same
    (second / "model.safetensors").write_bytes(bytes(300_001))
    assert identity(second) != same
    with pytest.raises(PreflightError, match=r"model='.*/c': no such folder"):
        identity(tmp_path / "c")


def test_the_source_digest_is_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("A = 1\n")
    monkeypatch.setattr(gve_ray, "__file__", str(tmp_path / "__init__.py"))
    before = probe.source_digest()
    (tmp_path / "cache.pyc").write_text("not code of ours")
    assert probe.source_digest() == before
    (tmp_path / "more.py").write_text("")
    assert probe.source_digest() != before


def test_facts_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = probe.node_facts()
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["versions"]["gve-ray"] == gve_ray.__version__
    assert found["auth"] == "token"
    stat = os.statvfs("/dev/shm")
    assert found["shm"] == stat.f_frsize * stat.f_blocks


def program(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_what_torch_says_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"built": "13.0", "count": 0, "driver": "12.2"}'
    fake = program(tmp_path / "python", f"echo 'UserWarning: old driver' >&2; echo '{answer}'")
    monkeypatch.setattr(sys, "executable", fake)
    assert probe.gpu_facts() == {
        "built": "13.0",
        "count": 0,
        "driver": "12.2",
        "warning": "UserWarning: old driver",
    }
    monkeypatch.setattr(sys, "executable", program(tmp_path / "broken", "echo 'no libcudart' >&2; exit 1"))
    with pytest.raises(RuntimeError, match="torch does not load: no libcudart"):
        probe.gpu_facts()


def test_the_gpus_of_this_process_are_those_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hides GPUs from a task that asked for none."""
    fake = program(tmp_path / "python", 'echo "{\\"seen\\": \\"${CUDA_VISIBLE_DEVICES-all}\\"}"')
    monkeypatch.setattr(sys, "executable", fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probe.gpu_facts()["seen"] == "all"
