"""Tests that a run folder belongs to one config and to one driver at a time."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from gve_ray.logs import metric_tags
from gve_ray.store import FolderLock, RunFolder, RunFolderError, SharedFolder, fingerprint
from gve_ray.store.runfolder import filesystem, write_atomically


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Config:
    seed: int = 1
    name: str = "x"
    inner: Inner = Inner()


def run_json(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_a_run_records_its_config_versions_and_values(tmp_path: Path) -> None:
    with RunFolder(str(tmp_path / "r"), job="synthesize", config=Config()) as folder:
        assert run_json(tmp_path / "r")["runs"][0]["ended"] is None
        folder.record(stages=[{"name": "a", "in": 3, "out": 2, "rejected": 1}])
    record = run_json(tmp_path / "r")
    assert record["config"] == {"seed": 1, "name": "x", "inner": {"size": [1, 2]}}
    assert record["config_hash"] == fingerprint(Config())
    assert record["stages"][0]["out"] == 2
    assert record["versions"]["python"] == sys.version.split()[0]
    assert record["runs"][0]["ended"] >= record["runs"][0]["started"]
    assert record["runs"][0]["error"] is None


def test_a_run_with_the_same_config_resumes_and_keeps_recorded_values(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunFolder(str(tmp_path), job="j", config=Config()) as folder:  # noqa: PT012
        folder.record(kept=7)
        raise RuntimeError("boom")
    with RunFolder(str(tmp_path), job="j", config=Config()) as folder:
        assert folder.facts["kept"] == 7
    runs = run_json(tmp_path)["runs"]
    assert metric_tags() == {"gve_job": "j", "run": runs[1]["id"]}
    assert runs[0]["id"] != runs[1]["id"]
    assert [run["error"] for run in runs] == ["RuntimeError: boom", None]


def test_another_config_is_refused_with_the_differences(tmp_path: Path) -> None:
    with RunFolder(str(tmp_path), job="j", config=Config()):
        pass
    other = Config(seed=2, inner=Inner(size=(1, 3)))
    with pytest.raises(RunFolderError) as caught, RunFolder(str(tmp_path), job="j", config=other):
        pass
    text = str(caught.value)
    for part in (
        str(tmp_path),
        fingerprint(Config())[:12],
        fingerprint(other)[:12],
        "seed (1, now 2)",
        "inner.size",
    ):
        assert part in text
    assert "name (" not in text
    assert "another folder" in text
    assert len(run_json(tmp_path)["runs"]) == 1


def test_a_folder_of_another_job_or_program_is_refused(tmp_path: Path) -> None:
    with RunFolder(str(tmp_path / "a"), job="train", config=Config()):
        pass
    with (
        pytest.raises(RunFolderError, match="belongs to a run of 'train'"),
        RunFolder(str(tmp_path / "a"), job="synthesize", config=Config()),
    ):
        pass
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.doc").write_text("")
    with (
        pytest.raises(RunFolderError, match=r"thesis\.doc"),
        RunFolder(str(tmp_path / "b"), job="j", config=Config()),
    ):
        pass


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_record_is_an_error_not_a_new_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with (
        pytest.raises(RunFolderError, match=r"run\.json"),
        RunFolder(str(tmp_path), job="j", config=Config()),
    ):
        pass


def test_a_second_driver_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    code = (
        "import sys, time; from gve_ray.store import RunFolder\n"
        "with RunFolder(sys.argv[1], job='j', config={'a': 1}):\n"
        "    print('in', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with (
            pytest.raises(RunFolderError, match=f"in use by process {process.pid} "),
            RunFolder(str(tmp_path), job="j", config={"a": 1}),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with RunFolder(str(tmp_path), job="j", config={"a": 1}) as folder:
        assert len(folder.facts["runs"]) == 2


def test_a_folder_lock_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    folder = str(tmp_path / "work")
    with FolderLock(folder), pytest.raises(RunFolderError, match="in use by process"), FolderLock(folder):
        pass
    with FolderLock(folder):
        pass


def test_fingerprints_depend_on_values_but_not_on_key_order() -> None:
    assert fingerprint({"a": 1, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    with pytest.raises(TypeError, match="object"):
        fingerprint({"a": object()})


def test_a_run_folder_in_an_object_store_behaves_the_same(s3: str) -> None:
    uri = f"{s3}/runs/r"
    with pytest.raises(RuntimeError), RunFolder(uri, job="j", config=Config()) as folder:  # noqa: PT012
        assert folder.path("a", "b") == f"{uri}/a/b"
        folder.record(kept=7)
        raise RuntimeError("boom")
    with RunFolder(f"{uri}/", job="j", config=Config()) as folder:
        assert folder.facts["kept"] == 7
        folder.record(finished=True)
    assert RunFolder(uri, job="j", config=Config()).finished()
    store = SharedFolder(uri)
    record = json.loads(store.fetch("run.json").read_text())
    assert [run["error"] for run in record["runs"]] == ["RuntimeError: boom", None]
    with (
        pytest.raises(RunFolderError, match=r"differ in seed \(1, now 2\)"),
        RunFolder(uri, job="j", config=Config(seed=2)),
    ):
        pass
    with (
        pytest.raises(RunFolderError, match=r"cannot be created \(.*no-such-bucket-here"),
        RunFolder("s3://no-such-bucket-here/r", job="j", config=Config()),
    ):
        pass
    other = SharedFolder(f"{s3}/runs/s")
    (other.path / "notes.txt").write_text("mine")
    other.publish("notes.txt")
    with (
        pytest.raises(RunFolderError, match=r"has files \(notes.txt\)"),
        RunFolder(other.uri, job="j", config=Config()),
    ):
        pass


def test_an_unsupported_scheme_is_refused() -> None:
    with pytest.raises(RunFolderError, match=r"nosuch://bucket/r: this kind of URI cannot be written"):
        RunFolder("nosuch://bucket/r", job="j", config=Config())
    files, path = filesystem("memory://bucket/r")  # a scheme of fsspec
    assert path == "/bucket/r"
    write_atomically(files, f"{path}/x", b"1")
    assert files.get_file_info(f"{path}/x").size == 1
