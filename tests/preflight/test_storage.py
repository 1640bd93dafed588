"""Tests whether a node can read inputs and write outputs, on a local disk and in a bucket."""

from pathlib import Path

import pytest

from gve_ray.preflight import Input
from gve_ray.preflight.checks import OutputCheck
from gve_ray.preflight.storage import DRIVER, ProbeFiles, file_size, first_files, readable_sizes
from gve_ray.store import SharedFolder


def test_the_first_files_of_a_folder(tmp_path: Path) -> None:
    for name in (".hidden", "b.json", "c.json", "sub/deep/e.bin", "sub/deep/f.bin", "tub/g.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert first_files(str(tmp_path), 3) == [f"{tmp_path}/b.json", f"{tmp_path}/sub/deep/e.bin"]
    assert first_files(f"{tmp_path}/", 1) == [f"{tmp_path}/b.json"]
    assert first_files(f"{tmp_path}/c.json", 3) == [f"{tmp_path}/c.json"]
    assert first_files(f"file://{tmp_path}/tub", 3) == [f"file://{tmp_path}/tub/g.bin"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        first_files(str(tmp_path / "none"), 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="without files"):
        first_files(str(tmp_path / "empty"), 3)


def test_three_of_many_files_are_read() -> None:
    files = [f"/v/{i}" for i in range(10)]
    assert Input(option="input", uri="/v", list_files=lambda: files).sample() == ["/v/0", "/v/5", "/v/9"]
    assert Input(option="input", uri="/v", list_files=lambda: files[:2]).sample() == ["/v/0", "/v/1"]


def test_sizes_of_files_and_of_folders_of_frames(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"12345")
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i}.jpg").write_bytes(b"x")
    assert file_size(str(tmp_path / "a.mp4")) == file_size((tmp_path / "a.mp4").as_uri()) == 5
    assert file_size(str(frames)) == 3
    with pytest.raises(FileNotFoundError):
        file_size(str(tmp_path / "none.mp4"))


def test_files_that_cannot_be_read_are_left_out_unless_none_can(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"12345")
    here, gone = str(tmp_path / "a.mp4"), str(tmp_path / "gone.mp4")
    assert readable_sizes([gone, here]) == {here: 5}
    with pytest.raises(FileNotFoundError):
        readable_sizes([gone])


def test_probe_files_are_written_seen_and_removed(tmp_path: Path) -> None:
    check = OutputCheck("output", str(tmp_path / "run" / "new"))
    files = check.ask_driver()
    check.ask_node(files, "n1")
    assert (files.exists("n1"), files.exists("n2")) == (True, False)
    assert len(list(tmp_path.iterdir())) == 2  # two files, and no folder
    problems = check.finish(files, ["n1", "n2"])
    assert problems == {"n2": "the driver does not see the file written there"}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_the_file_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    check = OutputCheck("output", "run")
    monkeypatch.chdir(tmp_path / "a")
    files = check.ask_driver()
    monkeypatch.chdir(tmp_path / "b")  # a relative path is a different folder on another node
    with pytest.raises(OSError, match="the driver's file does not exist"):
        check.ask_node(files, "n1")
    assert list((tmp_path / "b").iterdir()) == []


def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    files = ProbeFiles.create(tmp_path.as_uri())
    files.write(DRIVER)
    (tmp_path / f".gve-doctor-{files.token}-n1").mkdir()  # a folder with the name of the node's file
    with pytest.raises(OSError, match="cannot be written: "):
        OutputCheck("output", tmp_path.as_uri()).ask_node(files, "n1")


def test_a_file_of_another_run_does_not_count(tmp_path: Path) -> None:
    files = ProbeFiles.create(str(tmp_path))
    (tmp_path / f".gve-doctor-{files.token}-driver").write_text("other driver\n")
    assert not files.exists(DRIVER)


def test_a_bucket(s3: str) -> None:
    check = OutputCheck("output", f"{s3}/runs/new")
    files = check.ask_driver()
    check.ask_node(files, "node")
    assert check.finish(files, ["node"]) == {}
    bucket = SharedFolder(s3)
    assert bucket.names("runs/new") == []
    (bucket.path / "data/frames").mkdir(parents=True)
    for name, size in {"data/a.csv": 3, "data/frames/0.jpg": 2, "data/frames/1.jpg": 2}.items():
        (bucket.path / name).write_bytes(bytes(size))
    bucket.publish()
    assert first_files(f"{s3}/data/", 3) == [f"{s3}/data/a.csv", f"{s3}/data/frames/0.jpg"]
    assert (file_size(f"{s3}/data/a.csv"), file_size(f"{s3}/data/frames/")) == (3, 2)
    with pytest.raises(FileNotFoundError):
        first_files(f"{s3}/none", 3)
    with pytest.raises(OSError, match=r"cannot be written: .*no-such-bucket"):
        OutputCheck("output", "s3://no-such-bucket-here/run").ask_driver()
