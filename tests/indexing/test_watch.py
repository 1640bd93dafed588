"""Tests which files an update gets while the input changes, and when updates are made; without Ray."""

import itertools
import json
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gve_ray.config import ModelConfig, load_config
from gve_ray.indexing import watch as watching
from gve_ray.indexing.catalog import write_catalog
from gve_ray.indexing.config import IndexConfig, PollingConfig
from gve_ray.indexing.files import Look, indexed_files, look_at
from gve_ray.indexing.run import IndexResult
from gve_ray.indexing.watch import Intake, NoSegmentsError, only_news, watch
from gve_ray.job import JobError
from gve_ray.store.runfolder import filesystem

SETTLE = 5.0


def config_of(source: Path | str, output: Path | str = "index", **polling: float) -> IndexConfig:
    return IndexConfig(
        input=str(source),
        output=str(output),
        model=ModelConfig(name="m", model="m"),
        watch=True,
        polling=PollingConfig(**{"seconds": 0.01, "settle_seconds": SETTLE, **polling}),
    )


def names(files: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(Path(file["uri"]).name for file in files)


class Folder:
    """A folder of videos, and the files of the last update; looks are a second apart."""

    def __init__(self, path: Path, **polling: float) -> None:
        self.path, self.now = path, 0.0
        self.intake = Intake(config_of(path, **polling), [])

    def write(self, *files: str, text: str = "") -> None:
        for name in files:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text or name)

    def look(self, seconds: float = 1.0) -> list[Mapping[str, Any]]:
        self.now += seconds
        look = self.intake.look()
        assert look is not None
        return self.intake.wanted(look, self.now)

    def index(self) -> list[Mapping[str, Any]]:
        """Let all files settle, and index them."""
        self.look()
        files = self.look(SETTLE)
        self.intake.indexed(files)
        return files


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "in").mkdir()
    return Folder(tmp_path / "in")


def test_a_file_in_writing_waits_until_it_stays_the_same(folder: Folder) -> None:
    folder.write("a.mp4", "b.mp4")
    assert folder.look() == []
    folder.write("b.mp4", text="more of it")
    assert folder.look(SETTLE - 1) == []
    assert names(folder.look(1)) == ["a.mp4"]
    assert names(folder.look(SETTLE - 2)) == ["a.mp4"]
    assert names(folder.look(1)) == ["a.mp4", "b.mp4"]


def test_a_changed_file_counts_as_it_was_until_it_stays_the_same(folder: Folder) -> None:
    folder.write("a.mp4", "b.mp4")
    before = folder.index()
    folder.write("a.mp4", text="more of it")
    assert folder.look() == before
    folder.write("a.mp4", text="and still more")
    assert folder.look(SETTLE) == before
    now = folder.look(SETTLE)
    assert [file["version"] == old["version"] for file, old in zip(now, before, strict=True)] == [
        file["uri"].endswith("b.mp4") for file in before
    ]


def test_a_subtitle_file_that_comes_or_changes_is_a_change_of_its_video(folder: Folder) -> None:
    folder.write("a.mp4", "b.mp4")
    before = folder.index()
    changed = []
    for text in ("one", "another"):
        folder.write("a.srt", text=text)
        assert folder.look() == before
        now = folder.look(SETTLE)
        changed.append([file["uri"][-5:] for file, old in zip(now, before, strict=True) if file != old])
        folder.intake.indexed(now)
        before = now
    assert changed == [["a.mp4"], ["a.mp4"]]
    (folder.path / "a.srt").unlink()
    folder.look()
    assert [len(file["subtitle_files"]) for file in folder.look(SETTLE)] == [0, 0]


def test_removed_and_renamed_files_leave_the_index(folder: Folder) -> None:
    folder.write(*(f"{i}.mp4" for i in range(4)))
    folder.index()
    (folder.path / "0.mp4").unlink()
    (folder.path / "1.mp4").rename(folder.path / "new.mp4")
    assert names(folder.look()) == ["2.mp4", "3.mp4"]
    assert names(folder.look(SETTLE)) == ["2.mp4", "3.mp4", "new.mp4"]


@pytest.mark.parametrize(("most_removed", "gone"), [(0.5, 2), (0.5, 3), (0.25, 2), (1.0, 3)])
def test_many_files_never_leave_the_index_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, most_removed: float, gone: int
) -> None:
    folder = Folder(tmp_path, most_removed=most_removed)
    folder.write(*(f"{i}.mp4" for i in range(4)))
    before = folder.index()
    for i in range(gone):
        (tmp_path / f"{i}.mp4").unlink()
    folder.write("new.mp4")
    folder.look()
    stay = gone > 4 * most_removed
    assert names(folder.look(SETTLE)) == sorted([*names(before)[0 if stay else gone :], "new.mp4"])
    assert (f"{gone} of 4 videos are gone at once" in caplog.text) == stay


def test_what_cannot_be_looked_at_stays_in_the_index(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a file server does not answer: its folder cannot be listed, or not its files."""
    folder.write("0.mp4", "a.mp4", "server/b.mp4", "server/c.mp4", "server/c.srt")
    before = folder.index()
    scandir, stat = os.scandir, Path.stat

    def refuse(path: Any) -> None:
        if "server" in str(path):
            raise OSError(112, "Host is down", str(path))

    def failing_scandir(path: Any) -> Any:
        refuse(path)
        return scandir(path)

    def failing_stat(path: Path, **options: Any) -> os.stat_result:
        refuse(path)
        return stat(path, **options)

    monkeypatch.setattr(os, "scandir", failing_scandir)
    monkeypatch.setattr(Path, "stat", failing_stat)
    folder.write("d.mp4")
    folder.look()
    now = folder.look(SETTLE)
    assert names(now) == sorted([*names(before), "d.mp4"])
    assert [file for file in now if not file["uri"].endswith("d.mp4")] == before
    assert "2 videos cannot be looked at" in caplog.text
    monkeypatch.undo()
    assert folder.look() == now


def test_a_folder_that_cannot_be_listed_does_not_cost_subtitles(folder: Folder) -> None:
    folder.write("a.mp4", "a.srt")
    before = folder.index()
    look = look_at(config_of(folder.path))
    blind = Look(
        files=[{**file, "version": "x", "words": "y", "subtitle_files": []} for file in look.files],
        fields={},
        unknown={look.files[0]["video_id"]},
    )
    for now in (100.0, 200.0):
        assert folder.intake.wanted(blind, now) == before


def test_a_manifest_in_writing_waits(tmp_path: Path) -> None:
    manifest = tmp_path / "videos.jsonl"
    manifest.write_text(json.dumps({"uri": "a.mp4"}) + "\n")
    assert Intake(config_of(manifest), []).look() is None
    ready = Intake(config_of(manifest, settle_seconds=0), []).look()
    assert ready is not None
    assert names(ready.files) == ["a.mp4"]


def test_the_files_of_a_catalog_are_those_that_were_indexed(folder: Folder, tmp_path: Path) -> None:
    folder.write("a.mp4", "b.mp4", "b.en.srt")
    files = folder.index()
    more = {"fingerprint": "f", "segments": 1, "lost": 0, "reason": None, "detail": None}
    write_catalog(
        tmp_path,
        [
            {
                **{name: file[name] for name in ("video_id", "uri", "version")},
                "subtitles": json.dumps(file["subtitle_files"]),
                "metadata": json.dumps([file["caption"], json.loads(file["metadata"])]),
                **more,
            }
            for file in files
        ],
    )
    assert indexed_files(watching.read_catalog(tmp_path)) == files


def test_objects_below_a_prefix(s3: str) -> None:
    """All of them are looked at by listing the prefix and its folders."""
    files, root = filesystem(s3)

    def write(name: str, text: str) -> None:
        with files.open_output_stream(f"{root}/in/{name}") as stream:
            stream.write(text.encode())

    intake = Intake(config_of(f"{s3}/in"), [])

    def look(now: float) -> list[Mapping[str, Any]]:
        found = intake.look()
        assert found is not None
        assert found.unknown == set()
        return intake.wanted(found, now)

    for name in ("a b.mp4", "a b.srt", "deep/b.mp4", "deep/c.mp4"):
        write(name, name)
    assert look(0.0) == []
    before = look(SETTLE)
    assert names(before) == ["a%20b.mp4", "b.mp4", "c.mp4"]
    assert sorted(len(file["subtitle_files"]) for file in before) == [0, 0, 1]
    intake.indexed(before)
    write("deep/b.mp4", "another")
    files.delete_file(f"{root}/in/deep/c.mp4")
    write("deep/new.mp4", "new")
    look(10.0)
    after = look(10.0 + SETTLE)
    assert names(after) == ["a%20b.mp4", "b.mp4", "new.mp4"]
    assert [file in before for file in after] == [file["uri"].endswith("20b.mp4") for file in after]


# ---- The loop


class Recorder:
    """An update that records what it gets. steps: called in turn before each update."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.calls: list[tuple[list[str], bool]] = []
        self.closed = 0
        self.transient = False
        self._steps = iter(steps)

    def __call__(self, files: Sequence[Mapping[str, Any]], *, again: bool) -> IndexResult:
        self.calls.append((names(files), again))
        next(self._steps, stop)()
        states = ("added", "changed", "unchanged", "rejected", "removed")
        return IndexResult(
            output="o", model="m", videos={"in": len(files), **dict.fromkeys(states, 0)},
            segments={"in": 0, "out": 0, "rejected": 0, "new": 0}, reasons={}, kind="faiss",
            recall=None, not_transcribed=0, seconds={},
        )  # fmt: skip

    def has_transient_rejects(self) -> bool:
        return self.transient

    def close(self) -> None:
        self.closed += 1


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def run(recorder: Recorder, source: Path | str, tmp_path: Path) -> str:
    config = config_of(source, tmp_path / "index", settle_seconds=0.0)
    with only_news() as next_look:
        return watch(config, lambda fields: recorder, record=lambda **_: None, next_look=next_look)


def after_looks(monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> None:
    """Do this after each look in turn instead of pausing; then stop."""
    rest = itertools.chain(steps, itertools.repeat(stop))
    monkeypatch.setattr(watching, "_pause", lambda _: next(rest)())


def nothing() -> None:
    pass


def test_there_is_an_update_after_each_change_and_none_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.mp4").touch()
    recorder = Recorder(*[nothing] * 9)
    handler = signal.getsignal(signal.SIGTERM)
    after_looks(monkeypatch, nothing, (source / "b.mp4").touch, nothing, (source / "a.mp4").unlink)
    assert run(recorder, source, tmp_path) == "stopped  after 3 updates"
    assert recorder.calls == [(["a.mp4"], True), (["a.mp4", "b.mp4"], False), (["b.mp4"], False)]
    assert recorder.closed == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_input_that_is_empty_or_gone_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, away = tmp_path / "in", tmp_path / "away"
    source.mkdir()
    (source / "a.mp4").touch()

    def detach() -> None:
        source.rename(away)

    def mount_point() -> None:
        source.mkdir()

    def attach() -> None:
        source.rmdir()
        away.rename(source)

    recorder = Recorder(*[nothing] * 9)
    after_looks(monkeypatch, detach, nothing, mount_point, nothing, attach)
    with caplog.at_level(logging.WARNING):
        run(recorder, source, tmp_path)
    assert recorder.calls == [(["a.mp4"], True)]
    first, second = (record.getMessage() for record in caplog.records)  # each of them once
    assert "no such file or folder" in first
    assert "no video in it" in second
    assert second.endswith("the index stays as it is")


def test_a_failed_update_is_repeated_with_new_actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise JobError("the disk is full")

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    recorder = Recorder(nothing, fail, nothing)
    after_looks(monkeypatch, (tmp_path / "in" / "b.mp4").touch, nothing, nothing)
    assert run(recorder, tmp_path / "in", tmp_path) == "stopped  after 2 updates"
    assert [files for files, _ in recorder.calls] == [["a.mp4"], *[["a.mp4", "b.mp4"]] * 2]
    assert recorder.closed == 2

    broken = Recorder(fail)
    with pytest.raises(JobError, match="the disk is full"):
        run(broken, tmp_path / "in", tmp_path)
    failing = Recorder(nothing, *[fail] * 9)
    after_looks(monkeypatch, (tmp_path / "in" / "c.mp4").touch, *[nothing] * 9)
    with pytest.raises(JobError, match="the disk is full"):
        run(failing, tmp_path / "in", tmp_path)
    assert len(failing.calls) == 6


def test_files_of_which_none_can_be_used_are_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise NoSegmentsError("no segment")

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.mp4").touch()
    recorder = Recorder(fail, nothing)
    after_looks(monkeypatch, nothing, (tmp_path / "in" / "good.mp4").touch, nothing)
    assert run(recorder, tmp_path / "in", tmp_path) == "stopped  after 1 updates"
    assert [files for files, _ in recorder.calls] == [["broken.mp4"], ["broken.mp4", "good.mp4"]]
    assert "no segment; waiting for other files" in caplog.text


def test_files_that_failed_for_a_reason_that_may_pass_are_tried_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    recorder = Recorder(*[nothing] * 9)
    recorder.transient = True

    def wait() -> None:
        monkeypatch.setattr(watching, "_AGAIN_SECONDS", 0.0)

    after_looks(monkeypatch, nothing, nothing, wait)
    run(recorder, tmp_path / "in", tmp_path)
    assert recorder.calls == [(["a.mp4"], True)] * 2


def test_a_switch_needs_no_value() -> None:
    required = ["--input", "in", "--output", "out", "--model.name", "m", "--model.model", "m"]
    for args, value in (([], False), (["--watch"], True), (["--watch", "false"], False)):
        assert load_config(IndexConfig, [*args, *required]).watch is value
        assert load_config(IndexConfig, [*required, *args]).watch is value
