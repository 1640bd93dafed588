"""Tests shared folders: the same files for all processes, on a local disk and in an object store."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gve_ray.store import SharedFolder

ROOT = Path(__file__).resolve().parents[1]
# Publishes a folder of three files and prints each name before its upload; stops before the second.
SLOW = """
import sys, time
from gve_ray.store import SharedFolder
folder = SharedFolder(sys.argv[1])
(folder.path / "tree").mkdir()
for name in ("a", "b", "whole"):
    (folder.path / "tree" / name).write_text("new " + name)
upload = folder._upload
def slow(source, name):
    print(name, folder.path, flush=True)
    if name == "tree/b":
        time.sleep(600)
    upload(source, name)
folder._upload = slow
folder.publish("tree", last="whole")
"""


def test_on_a_local_disk_the_path_is_the_folder_itself(tmp_path: Path) -> None:
    folder = SharedFolder(tmp_path / "run")
    assert folder.path == tmp_path / "run"
    assert not folder.path.exists()
    assert folder.names() == []
    folder.path.mkdir()
    (folder.path / "a.txt").write_text("1")
    folder.publish("a.txt")
    assert folder.fetch("a.txt") == tmp_path / "run" / "a.txt"
    assert folder.names() == ["a.txt"]
    with pytest.raises(FileNotFoundError, match=r"run/none: no such file"):
        folder.fetch("none")
    folder.remove("a.txt")
    folder.remove("a.txt")
    assert list(folder.path.iterdir()) == []


def test_published_files_can_be_fetched_elsewhere(s3: str) -> None:
    mine, other = SharedFolder(f"{s3}/run"), SharedFolder(f"{s3}/run/")
    assert mine.path != other.path
    assert other.names() == []
    assert not other.exists("tree")
    (mine.path / "tree" / "deep").mkdir(parents=True)
    (mine.path / "tree" / "deep" / "x y#%.bin").write_bytes(bytes(range(256)))
    (mine.path / "tree" / "empty").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="no files to publish"):
        mine.publish("none")
    mine.publish("tree")
    assert other.names() == ["tree"]
    assert other.names("tree") == ["deep", "empty"]
    fetched = other.fetch("tree")
    assert fetched == other.path / "tree"
    assert (fetched / "deep" / "x y#%.bin").read_bytes() == bytes(range(256))
    assert (fetched / "empty").read_bytes() == b""
    assert other.below("tree").fetch("empty") == fetched / "empty"

    (mine.path / "tree" / "empty").write_text("no longer")
    assert other.fetch("tree/empty").read_text() == ""
    mine.publish("tree/empty")
    assert other.fetch("tree/empty").read_text() == "no longer"
    assert sorted(path.name for path in other.path.rglob("*")) == ["deep", "empty", "tree", "x y#%.bin"]

    mine.below("tree").remove("deep")
    assert not (mine.path / "tree" / "deep").exists()
    assert other.names("tree") == ["empty"]
    mine.remove("tree")
    assert not other.exists("tree/empty")
    with pytest.raises(FileNotFoundError, match=rf"{s3}/run/tree: no such"):
        other.fetch("tree")


def test_a_missing_bucket_is_an_error(s3: str) -> None:
    folder = SharedFolder("s3://no-such-bucket-here/run")
    (folder.path / "a").write_text("1")
    with pytest.raises(OSError, match="no-such-bucket-here"):
        folder.publish("a")


def test_a_killed_upload_leaves_no_last_file_and_its_temporary_folder_is_deleted_later(
    s3: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, f"{s3}/run"], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    printed = [process.stdout.readline().split() for _ in range(2)]
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [name for name, _ in printed] == ["tree/a", "tree/b"]
    other = SharedFolder(f"{s3}/run")
    assert other.names("tree") == ["a"]
    # The next process on that node deletes the temporary folder of the killed one.
    abandoned = Path(printed[0][1])
    assert abandoned.parent == tmp_path
    assert (abandoned / "tree" / "whole").exists()
    program = f"from gve_ray.store import SharedFolder; SharedFolder('{s3}/run')"
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_folder_is_deleted_with_the_last_object_that_uses_it(s3: str) -> None:
    outer = SharedFolder(f"{s3}/run")
    scratch, inner = outer.path, outer.below("inner")
    other = SharedFolder(f"{s3}/run")  # must not delete a temporary folder in use
    assert scratch.parent == Path(tempfile.gettempdir())
    del outer
    inner.path.mkdir()
    (inner.path / "a").write_text(json.dumps(time.time()))
    inner.publish()
    assert other.names("inner") == ["a"]
    del inner
    assert not scratch.exists()
    assert not scratch.with_suffix(".lock").exists()


def test_the_s3_server_of_the_tests_ends_with_the_process_that_started_it() -> None:
    program = "from tests.s3 import S3Server; s = S3Server().__enter__(); print(s.port, flush=True); s._process.wait()"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    process.kill()
    process.communicate()
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError(f"a process still listens on port {port}")
