"""Tests what a run does when its storage fails: a full disk, an object store that answers with errors."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.evaluation.data.annotations import load_annotations
from gve_ray.evaluation.data.data_errors import DataErrorLog
from gve_ray.evaluation.data.dataset_folder import open_folder
from gve_ray.evaluation.data.jsonl_items import table_rows
from gve_ray.evaluation.report.example_queries import _Reader
from gve_ray.evaluation.video_signatures import fingerprints
from gve_ray.indexing.files import _listed
from gve_ray.indexing.subtitles import SubtitleWorker
from gve_ray.job import FAILED, connect_to_ray, run_job
from gve_ray.media import DecodeProcess, Limits, MediaError, Reason
from gve_ray.media.digest import media_digest, media_stamp
from gve_ray.media.sound import read_sound
from gve_ray.media.source import open_source
from gve_ray.media.subtitles import read_subtitle_tracks
from gve_ray.media.video.cut import cut
from gve_ray.schema import Item
from gve_ray.search import IndexFileError, IndexOptions, IndexSpec, create_index, open_index
from gve_ray.search.flat import FlatIndex
from gve_ray.search.library import read_library
from gve_ray.search.ondisk import LanceIndex
from gve_ray.search.words import WordIndex
from gve_ray.stage import StageError
from gve_ray.store import RunFolder, SharedFolder, StorageError, Store
from gve_ray.store.faults import is_storage_fault, storage_fault
from gve_ray.store.runfolder import filesystem
from tests.disk import SmallDisk
from tests.media.tones import write_speaking
from tests.s3 import S3Server

SCHEMA = pa.schema([("video_id", pa.string()), ("text", pa.string())])


def save_tensor(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2_000_000)}, folder / "a.safetensors")


def save_checkpoint(folder: Path) -> None:
    import torch

    torch.save({"a": torch.ones(2_000_000)}, folder / "a.pt")


def save_faiss(folder: Path) -> None:
    import faiss

    index = faiss.IndexFlatIP(64)
    index.add(np.ones((40_000, 64), dtype=np.float32))
    faiss.write_index(index, str(folder / "index.faiss"))


def append(folder: Path) -> None:
    table = pa.Table.from_pylist([{"video_id": "b", "text": "b" * 6_000_000}], schema=SCHEMA)
    Store(f"{folder}/rows.lance", SCHEMA).create().append(table)


def download(folder: Path) -> None:
    source = folder.parent.with_name("source")
    source.write_bytes(bytes(6_000_000))
    SharedFolder(folder)._download(str(source), folder / "copy")


@pytest.mark.parametrize("write", [save_tensor, save_checkpoint, save_faiss, append, download])
def test_a_run_that_fails_on_a_full_disk_names_it_and_continues_when_there_is_space(
    small_disk: SmallDisk, write: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    """Every library reports a full disk in another way; 4 MB are too few for each of these files."""
    folder = small_disk.folder / "run"

    def work() -> str:
        with RunFolder(str(folder), job="train", config={"steps": 1}) as run:
            rows = Store(run.path("small.lance"), SCHEMA).create()
            rows.append(pa.Table.from_pylist([{"video_id": "a", "text": "a"}], schema=SCHEMA))
            small_disk.fill()
            print("a library prints this, to a log file on the same disk")
            write(folder)
        return "done"

    assert run_job("train", work) == FAILED
    shown = capfd.readouterr().err
    assert f"error: {folder}: its disk is full (0.0 MB are free); free space there\n" in shown
    assert "start the job again to continue" in shown
    again = RunFolder(str(folder), job="train", config={"steps": 1})
    with pytest.raises(StorageError, match="its disk is full"):
        again.__enter__()
    small_disk.empty()
    with again as run:
        assert Store(run.path("small.lance"), SCHEMA).keys() == {"a"}
        assert len(run.facts["runs"]) == 2
    assert not list(folder.glob("*.part"))


def test_a_store_that_fails_before_or_after_the_run_of_a_job(capfd: pytest.CaptureFixture[str]) -> None:
    def read_result() -> None:
        raise OSError("When reading 'results.json': AWS Error UNKNOWN (HTTP status 503)")

    assert run_job("evaluate", read_result) == FAILED
    shown = capfd.readouterr().err
    assert "error: an object store does not answer as it should (When reading 'results.json'" in shown
    assert "Traceback" not in shown


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(str(tmp_path / "run"), job="train", config={}):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "When reading information for key 'v.mp4' in bucket 'b': AWS Error UNKNOWN (HTTP status 503) during "
            "HeadObject operation: No response body.",
            "s3://b/run: an object store does not answer as it should (When reading information for key",
        ),
        ("AWS Error ACCESS_DENIED during HeadObject operation", "refuses access"),
        (
            "LanceError(IO): Generic S3 error: Server returned non-2xx status code: 403 Forbidden: "
            "<Error><Code>ExpiredToken</Code></Error>",
            "refuses access",
        ),
        (
            "When listing objects under key 'a' in bucket 'b': AWS Error NO_SUCH_KEY during ListObjectsV2",
            None,
        ),
        ("a file that ends too early", None),
    ],
)
def test_errors_of_object_stores_are_told_from_those_of_files(text: str, advice: str | None) -> None:
    """The texts are those of pyarrow and Lance, shortened."""
    error: Any = StageError("stage embed: it failed")
    error.__cause__ = OSError(text)
    assert is_storage_fault(error) == (advice is not None)
    if advice is not None:
        assert advice in str(storage_fault(error, "s3://b/run"))


def test_ray_cannot_start_on_a_full_disk(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk.folder))
    small_disk.fill()
    connect = partial((small_disk.folder / "session").write_bytes, b"session" * 1000)
    assert run_job("index", lambda: connect_to_ray(connect), verbose=True) == FAILED
    assert f"error: {small_disk.folder}: its disk is full" in capfd.readouterr().err


@pytest.mark.parametrize("fault", [pytest.param("500", marks=pytest.mark.slow), "expired"])
def test_a_file_is_not_rejected_because_its_store_fails(s3: str, s3_server: S3Server, fault: str) -> None:
    files, path = filesystem(f"{s3}/video.mp4")
    with files.open_output_stream(path) as stream:
        stream.write(b"bytes")
    reads: list[Callable[[str], object]] = [lambda uri: open_source(uri, Limits()), media_stamp, media_digest]
    before = [read(f"{s3}/video.mp4") for read in reads]
    s3_server.fail(fault)
    try:
        for read in reads:
            with pytest.raises(OSError, match="AWS Error"):
                read(f"{s3}/video.mp4")
        with pytest.raises(
            StorageError, match="renew the credentials" if fault == "expired" else "try again later"
        ):
            RunFolder(f"{s3}/run", job="train", config={}).__enter__()
    finally:
        s3_server.fail(None)
    assert [read(f"{s3}/video.mp4") for read in reads] == before
    with pytest.raises(MediaError) as missing:
        open_source(f"{s3}/other.mp4", Limits())
    assert missing.value.reason == Reason.UNREADABLE


def shown_example(uri: str) -> object:
    with DecodeProcess() as process:
        return _Reader(process, 2).show("q", Item(video=f"{uri}/v.mp4"))


def subtitles_of(uri: str, *, own: bool) -> object:
    row = {
        "uri": f"{uri}/v.mp4" if own else f"{uri}/v/",
        "files": [f"{uri}/v.srt"],
        "words": "w",
        "start": 0.0,
    }
    return SubtitleWorker(Limits())([row])


Reads = dict[str, Callable[[str, Path], object]]
READS: Reads = {
    "a table of a data set": lambda uri, _: list(
        table_rows(open_folder(f"{uri}/set"), "queries.jsonl", DataErrorLog("set"))
    ),
    "captions in JSON": lambda uri, folder: load_annotations(
        f"{uri}/set/msrvtt.json", format="msrvtt", videos=folder, name="a"
    ),
    "captions in lines": lambda uri, folder: load_annotations(
        f"{uri}/set/lsmdc.csv", format="lsmdc", videos=folder, name="a"
    ),
    "subtitles in a video": lambda uri, _: read_subtitle_tracks(f"{uri}/v.mp4", limits=Limits()),
    "sound": lambda uri, _: read_sound(f"{uri}/v.mp4", seconds=1.0, limits=Limits()),
    "a moment": lambda uri, folder: cut(
        f"{uri}/v.mp4", str(folder / "moment.mp4"), 0.0, 1.0, 10**7, limits=Limits()
    ),
}
READS_OF_CHILDREN: Reads = {
    "signatures of videos": lambda uri, _: fingerprints([f"{uri}/v.mp4"], frames=2),
    "pictures of the report": lambda uri, _: shown_example(uri),
    "subtitles of a video and next to it": lambda uri, _: subtitles_of(uri, own=True),
    "subtitles next to a folder": lambda uri, _: subtitles_of(uri, own=False),
}


@pytest.fixture
def remote(s3: str, tmp_path: Path) -> str:
    """Return the URI of a folder with a data set, captions, a video with sound, and its subtitles."""
    folder = tmp_path / "remote"
    (folder / "set").mkdir(parents=True)
    (folder / "set/queries.jsonl").write_text('{"id": "q", "text": "a ball"}\n')
    (folder / "set/msrvtt.json").write_text('{"videos": [], "sentences": []}')
    (folder / "set/lsmdc.csv").write_text("v\t0\t1\t0\t1\ta ball\n")
    (folder / "v.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\na ball\n")
    write_speaking(folder / "v.mp4", 2.0, [(0.0, 1.0, "island")])
    shared = SharedFolder(f"{s3}/folder")
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            (shared.path / name).parent.mkdir(parents=True, exist_ok=True)
            (shared.path / name).write_bytes(path.read_bytes())
    shared.publish()
    return shared.uri


@pytest.mark.parametrize("reads", [READS, pytest.param(READS_OF_CHILDREN, marks=pytest.mark.slow)], ids=len)
def test_data_are_not_faulty_because_their_store_fails(
    remote: str, s3_server: S3Server, tmp_path: Path, reads: Reads
) -> None:
    """Otherwise queries, words or signatures would be lost for good."""
    for read in reads.values():
        read(remote, tmp_path)
    s3_server.fail("expired")
    try:
        for read in reads.values():
            with pytest.raises(OSError, match="AWS Error"):
                read(remote, tmp_path)
    finally:
        s3_server.fail(None)


def test_an_index_need_not_be_created_again_because_its_store_fails(s3: str, s3_server: S3Server) -> None:
    folder, lance_folder, spec = f"{s3}/index", f"{s3}/lance", IndexSpec(dimension=8)
    vectors = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = create_index(folder, spec, IndexOptions(approximate_from=16, structure="SQ"))
    index.add([str(i) for i in range(64)], vectors, [{}] * 64)
    index.save()
    create_index(lance_folder, spec, IndexOptions(kind="lance")).save()
    opened = open_index(folder)  # it reads the codes of the vectors when it searches
    reads: list[Callable[[], object]] = [
        lambda: opened.search(vectors[:1], 1),
        lambda: FlatIndex.load(SharedFolder(folder), IndexOptions()),
        lambda: LanceIndex.load(
            SharedFolder(lance_folder), spec, IndexOptions(kind="lance"), lambda _: None, 1
        ),
        lambda: open_index(folder),
        lambda: read_library(folder),
        lambda: WordIndex.open(f"{folder}/words.lance", {}, 1),
    ]
    s3_server.fail("expired")
    try:
        for read in reads:
            with pytest.raises(IndexFileError, match=r"renew the credentials$") as refused:
                read()
            assert str(refused.value).startswith((folder, lance_folder))
    finally:
        s3_server.fail(None)
    assert opened.search(vectors[:1], 1)[0][0].id == "0"
    assert open_index(folder).count() == 64
    with pytest.raises(IndexFileError, match="create one with gve index"):
        read_library(folder)


@pytest.mark.slow
def test_subtitles_are_not_missing_because_a_folder_cannot_be_listed_now(
    remote: str, s3_server: S3Server
) -> None:
    assert set(_listed(remote, {"v.mp4"}) or ()) == {"v.mp4", "v.srt"}
    try:
        s3_server.fail("500")
        with pytest.raises(OSError, match="AWS Error"):
            _listed(remote, {"v.mp4"})
        s3_server.fail("expired")  # as if files might be read, but not listed
        assert _listed(remote, {"v.mp4"}) is None
    finally:
        s3_server.fail(None)
