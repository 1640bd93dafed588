"""Folders with odd names, links and unreadable entries: what exists is not a glob, and nothing is lost silently."""

import logging
import os
from pathlib import Path

import fsspec
import pytest

from gve_ray.inputs.listing import find_videos
from gve_ray.job import PreflightError
from gve_ray.media.source import local_path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def videos_in(source: str, root: Path) -> list[str]:
    return [os.path.relpath(uri, root) for uri in find_videos(source)]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    return touch(
        tmp_path,
        "[Group] Show/ep 1.mkv",
        "[Group] Show/ep 2.mkv",
        "G/x.mkv",
        "q?.mp4",
        "qa.mp4",
        "T [6c-x].mp4",
    )


@pytest.mark.parametrize(
    "source, names",
    [
        ("[Group] Show", ["[Group] Show/ep 1.mkv", "[Group] Show/ep 2.mkv"]),
        ("[Group] Show/", ["[Group] Show/ep 1.mkv", "[Group] Show/ep 2.mkv"]),
        ("[Group] Show/ep ?.mkv", ["[Group] Show/ep 1.mkv", "[Group] Show/ep 2.mkv"]),
        ("[Group] Show/ep 1.mkv", ["[Group] Show/ep 1.mkv"]),
        ("[Group]/*", ["G/x.mkv"]),  # no such folder, so it is a glob
        ("q?.mp4", ["q?.mp4"]),
        ("q?.mp[4]", ["q?.mp4", "qa.mp4"]),
        ("T [6c-x].mp4", ["T [6c-x].mp4"]),
        ("**/*.mkv", ["G/x.mkv", "[Group] Show/ep 1.mkv", "[Group] Show/ep 2.mkv"]),
    ],
)
def test_what_exists_is_no_glob(
    source: str, names: list[str], odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert videos_in(f"{odd}/{source}", odd) == names
    monkeypatch.chdir(odd)
    assert videos_in(source, odd) == names


def test_what_exists_behind_a_uri_is_no_glob(odd: Path) -> None:
    assert find_videos(f"file://{odd}/%5BGroup%5D%20Show/ep%201.mkv") == [
        f"file://{odd}/%5BGroup%5D%20Show/ep%201.mkv"
    ]
    assert find_videos(f"file://{odd}/G/*") == [f"file://{odd}/G/x.mkv"]
    memory = fsspec.filesystem("memory")
    for name in ("[Group] Show/a[1].mp4", "[Group] Show/a2.mp4"):
        memory.pipe(f"/odd/{name}", b"x")
    assert len(find_videos("memory://odd/[Group] Show")) == 2
    assert find_videos("memory://odd/[Group] Show/a[1].mp4") == ["memory://odd/[Group] Show/a[1].mp4"]
    assert len(find_videos("memory://odd/[Group] Show/a*")) == 2


def test_links_are_followed_and_each_folder_is_searched_once(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/x.mp4", "in/b/y.mp4", "out/z.mp4")
    for place, to in (
        ("in/self", "."),
        ("in/0first", "a"),  # its own name counts, not the link's
        ("in/a/to-b", "../b"),
        ("in/b/to-a", "../a"),
        ("in/other", str(tmp_path / "out")),
        ("out/back", str(tmp_path / "in")),
        ("in/copy.mp4", "a/x.mp4"),
    ):
        (tmp_path / place).symlink_to(to)
    assert videos_in(f"{tmp_path}/in", tmp_path / "in") == ["a/x.mp4", "b/y.mp4", "copy.mp4", "other/z.mp4"]
    assert videos_in(f"{tmp_path}/in/**", tmp_path / "in") == [
        "a/x.mp4",
        "b/y.mp4",
        "copy.mp4",
        "other/z.mp4",
    ]
    assert videos_in(f"{tmp_path}/in/0*/*.mp4", tmp_path / "in") == ["0first/x.mp4"]  # as a shell finds it
    assert videos_in(f"{tmp_path}/in/0first", tmp_path / "in/0first")[0] == "to-b/y.mp4"


def test_a_name_that_is_not_utf8_is_used(tmp_path: Path) -> None:
    touch(tmp_path, "ok.mp4")
    folder = os.fsencode(tmp_path)
    os.mkdir(folder + b"/ann\xe9e")
    for name in (b"/caf\xe9.mp4", b"/ann\xe9e/x.mp4"):
        with open(folder + name, "wb") as file:
            file.write(name)
    uris = find_videos(str(tmp_path))
    assert uris == [
        f"{tmp_path}/ok.mp4",
        f"file://{tmp_path}/ann%E9e/x.mp4",
        f"file://{tmp_path}/caf%E9.mp4",
    ]
    (_, inner, named) = (local_path(uri) for uri in uris)
    assert inner is not None
    assert named is not None
    assert (inner.read_bytes(), named.read_bytes()) == (b"/ann\xe9e/x.mp4", b"/caf\xe9.mp4")
    assert find_videos(str(named)) == uris[2:]


def test_what_is_left_out_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(
        tmp_path,
        "a.mp4",
        "a.srt",
        *(f"{i}.srt" for i in range(9)),
        "b.dat",
        "README",
        ".c.mp4",
        ".git/d.mp4",
        ".notes",
    )
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "ring.mp4").symlink_to("ring.mp4")
    (tmp_path / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    with caplog.at_level(logging.WARNING):
        assert videos_in(str(tmp_path), tmp_path) == ["a.mp4"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"input={str(tmp_path)!r}: 1 videos; left out: not a video's ending: 9 .srt ('0.srt', '1.srt', '2.srt', ...), "
        "1 without one ('README'), 1 .dat ('b.dat'); hidden by a dot: 2 ('.c.mp4', '.git/d.mp4'); cannot be read: 3 "
        "('gone.mp4': a link that leads nowhere, 'pipe.mp4': not a file, 'ring.mp4': a link that leads nowhere)"
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert len(find_videos(f"{tmp_path}/*.mp4")) == 2  # a glob takes what a dot hides
    (record,) = caplog.records
    assert "3 ('gone.mp4'" in record.getMessage()
    assert ".srt" not in record.getMessage()


def test_a_folder_of_videos_and_their_subtitles_is_quiet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        find_videos(str(touch(tmp_path, "a.mp4", "deep/b.MOV", "a.srt", "deep/b.en.vtt")))
    assert not caplog.records


@pytest.mark.parametrize(
    "name", ["list.txt", "videos.xlsx", "shard-000.tar", "list", "clip.dat", "m.parquet.gz"]
)
def test_one_file_is_a_video_by_its_ending(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)
    with pytest.raises(PreflightError, match=r"neither a video \(.*\.mp4.*\) nor a manifest \(\.csv, .*uri"):
        find_videos(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "source, says",
    [
        ("none", "no such file"),
        ("none/*.mp4", "no such file"),
        ("a\0b", "no such file"),
        ("[z-a].mp4", "bad character range"),
        ("*.mkv", r"no video in it \(and no other files\)"),
        ("*", r"no video in it \(not a video's ending: 1 .txt \('a.txt'\)\)"),
    ],
)
def test_where_there_is_nothing(source: str, says: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    with pytest.raises(PreflightError, match=says):
        find_videos(f"{tmp_path}/{source}")


@pytest.mark.parametrize("suffix", "vob 3g2 asf f4v m2v mxf ogm MPG".split())
def test_less_common_containers_are_videos(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").touch()
    assert find_videos(str(tmp_path)) == [str(tmp_path / f"a.{suffix}")]
