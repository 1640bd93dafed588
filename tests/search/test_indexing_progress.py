"""Tests the file that tells readers how far an index job is."""

import json
import time
from pathlib import Path

import pytest

from gve_ray.progress import Progress
from gve_ray.search import indexing_progress
from gve_ray.search.indexing_progress import FILE, IndexingProgress, ProgressFile, read_progress


@pytest.fixture(autouse=True)
def written_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing_progress, "_WRITE_SECONDS", 0.05)


def wait_for(folder: Path | str, expected: IndexingProgress | None) -> None:
    deadline = time.monotonic() + 60
    while (found := read_progress(folder)) != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_files_are_counted_by_step(tmp_path: Path) -> None:
    """Of 12 files, 2 were done by an earlier run. In the second step, files have 3, 1 and 2 segments."""
    with ProgressFile(tmp_path) as file:
        assert read_progress(tmp_path) is None
        with file.step("check"):
            Progress("probe", 12, done=2).reach(7)
        wait_for(tmp_path, IndexingProgress(step="check", done=5, total=10))
        with file.step("embed", [3, 1, 2]):
            progress = Progress("embed", 6)
            for done, files in ((2, 0), (3, 1), (5, 2), (6, 3)):
                progress.reach(done)
                wait_for(tmp_path, IndexingProgress(step="embed", done=files, total=3))
        Progress("others", 5).reach(1)
    assert read_progress(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_killed_job_is_ignored_and_deleted_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / FILE
    content = {"step": "embed", "done": 1, "total": 3, "time": time.time()}
    path.write_text(json.dumps(content))
    assert read_progress(tmp_path) == IndexingProgress(step="embed", done=1, total=3)
    path.write_text(json.dumps({**content, "time": time.time() - 20}))
    assert read_progress(tmp_path) is None
    with ProgressFile(tmp_path):
        pass
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"step": "x", "done": 1, "total": 2, "time": %f}', '{"step": []}']
)
def test_a_damaged_file_is_no_progress(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text % time.time() if "%f" in text else text)
    assert read_progress(tmp_path) is None


def test_progress_in_an_object_store(s3: str) -> None:
    with ProgressFile(s3) as file:
        with file.step("check"):
            Progress("probe", 4).reach(1)
        wait_for(s3, IndexingProgress(step="check", done=1, total=4))
    assert read_progress(s3) is None
