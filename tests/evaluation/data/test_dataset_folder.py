"""A data set behind a URI equals the same data set on disk: the same items, errors and bytes."""

import os
from pathlib import Path

import numpy as np
import pyarrow.fs as fs
import pytest

from gve_ray.config import ModelConfig
from gve_ray.demo.render import encode_mp4
from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.data.dataset_folder import RemoteFolder, open_folder
from gve_ray.evaluation.data.eval_sets import find_eval_sets
from gve_ray.evaluation.data.labelled_videos import load_classes
from gve_ray.evaluation.data.layouts import check_media, load, load_mteb
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.job import PreflightError
from gve_ray.media import Limits, MediaError, encode_jpeg, read_frames
from gve_ray.media.digest import media_digest, media_stamp
from gve_ray.store import SharedFolder

ODD = "50% of it #2 ü"  # a name that needs quoting in a URI


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(np.full((56, 56, 3), grey, np.uint8)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folders of frames, one empty folder, two files, one of them broken, and a picture."""
    folder = tmp_path / "MSRVTT"
    for i in range(3):
        picture(folder / "videos_frames/v0" / f"{i}.jpg", 40 * i)
        picture(folder / "videos_frames" / ODD / f"{i} {ODD}.jpg", 60 * i)
    (folder / "videos_frames/v0/notes.txt").write_text("no picture")
    picture(folder / "videos_frames/v3/deep/0.jpg", 1)
    picture(folder / "images/p.jpg", 9)
    (folder / "videos").mkdir()
    pixels = [np.full((64, 64, 3), 30 * i, np.uint8) for i in range(6)]
    encode_mp4(folder / "videos/v1.mp4", pixels, fps=3, width=64, height=64)
    (folder / "videos/v2.mp4").write_bytes(b"no video")
    (folder / "jsonl").mkdir()
    names = ["v0", "v1", "v2", "v3", "v4", ODD, "../v0", "/v0"]
    write(
        folder / "jsonl/corpus.jsonl",
        *(f'{{"id": "c{i}", "video": "{name}.mp4"}}' for i, name in enumerate(names)),
    )
    write(
        folder / "jsonl/queries.jsonl",
        '{"id": "q", "text": "a", "image": "p.jpg"}',
        '{"id": "r", "image": "no.jpg"}',
    )
    write(folder / "jsonl/instances.jsonl", '{"qid": "q", "pos": ["c0", "c1", "c2", "c5"]}')
    return folder


def write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def uploaded(folder: Path, uri: str) -> str:
    target = SharedFolder(uri)
    for path in folder.rglob("*"):
        if path.is_file():
            file = target.path / path.relative_to(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(path.read_bytes())
    target.publish()
    return uri


def media_of(data: RetrievalSet) -> list[str]:
    return [str(item.video or item.image) for item in (*data.queries, *data.corpus)]


def test_items_errors_and_bytes_equal_those_on_disk(root: Path, s3: str) -> None:
    uri = uploaded(root, f"{s3}/uvrb/MSRVTT")
    assert not isinstance(open_folder(root), RemoteFolder)
    assert isinstance(open_folder(uri), RemoteFolder)
    local, remote = load(root), load(uri)
    assert (remote.name, remote.query_ids) == ("MSRVTT", ["q"])
    assert remote.corpus_ids == [f"c{i}" for i in range(6)]  # c3 has no pictures, and c4 does not exist
    assert [str(entry) for entry in remote.skipped] == [str(entry) for entry in local.skipped]
    assert len(local.skipped) == 3
    odd = "50%25%20of%20it%20%232%20%C3%BC"
    assert media_of(remote) == [
        f"{uri}/images/p.jpg",
        f"{uri}/videos_frames/v0/",
        f"{uri}/videos/v1.mp4",
        f"{uri}/videos/v2.mp4",
        f"{uri}/videos_frames/v3/",
        f"{uri}/videos/v4.mp4",
        f"{uri}/videos_frames/{odd}/",
    ]
    for local_medium, remote_medium in zip(media_of(local), media_of(remote), strict=True):
        if "v4" in local_medium:
            continue  # a file that does not exist is identified by its path
        assert media_digest(remote_medium) == media_digest(local_medium)
        assert media_stamp(remote_medium) == media_stamp(remote_medium)
    for i in (0, 1, 5):
        pictures = [read_frames(str(entry.corpus[i].video), k=4) for entry in (local, remote)]
        assert np.array_equal(pictures[0].pixels, pictures[1].pixels)
    problems = [
        [
            str(entry).replace(uri, str(root)).replace("/'", "'").partition(": unreadable")[0]
            for entry in check_media(data, frames=4)
        ]
        for data in (local, remote)
    ]
    assert problems[0] == problems[1]
    assert [text.split("'")[1] for text in problems[0]] == ["c2", "c3", "c4"]


def test_a_changed_picture_changes_the_item_key(root: Path, s3: str) -> None:
    uri = uploaded(root, f"{s3}/set")
    data = load(uri)
    before = ItemIndex(f"{s3}/cache").keys(data.corpus)
    assert ItemIndex(f"{s3}/cache").keys(data.corpus) == before
    on_disk = ItemIndex(root / "cache").keys(load(root).corpus)
    # c4 does not exist, so it is identified by its path.
    assert [a == b for a, b in zip(before, on_disk, strict=True)] == [True, True, True, True, False, True]
    folder = SharedFolder(uri)
    picture(folder.path / "videos_frames/v0/3.jpg", 200)
    folder.publish("videos_frames/v0/3.jpg")
    after = ItemIndex(f"{s3}/cache").keys(data.corpus)
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, *[True] * 5]
    with pytest.raises(MediaError, match=r"too_large"):
        read_frames(str(data.corpus[0].video), limits=Limits(max_bytes=100))


def test_mteb_and_classes_behind_a_uri(root: Path, s3: str) -> None:
    write(root / "corpus.jsonl", '{"_id": "c", "video": "videos/v1.mp4"}')
    write(root / "queries.jsonl", '{"_id": "q", "text": "a"}')
    (root / "qrels").mkdir()
    write(root / "qrels/test.tsv", "q\tc\t1")
    write(root / "labels.csv", "video,label", "videos/v1.mp4,one", "./videos_frames/v0,two", "gone.mp4,two")
    uri = uploaded(root, f"{s3}/set")
    assert media_of(load_mteb(uri))[1] == f"{uri}/videos/v1.mp4"
    table = load_classes(f"{uri}/labels.csv", name="t")
    assert table.query_ids == ["videos/v1.mp4", "./videos_frames/v0", "gone.mp4"]
    assert media_of(table)[:3] == [f"{uri}/videos/v1.mp4", f"{uri}/videos_frames/v0/", f"{uri}/gone.mp4"]
    assert [str(error) for error in table.skipped] == [
        str(error) for error in load_classes(root / "labels.csv", name="t").skipped
    ]
    classes = load_classes(uri, name="t")
    assert classes.query_ids == [f"videos/{name}" for name in ("v1.mp4", "v2.mp4")] + [
        f"videos_frames/{name}" for name in (ODD, "v0")
    ]


def test_the_data_sets_in_a_root(root: Path, s3: str) -> None:
    uploaded(root, f"{s3}/uvrb/MSRVTT")
    models = (ModelConfig(name="m", model="m"),)

    def folders(**options: object) -> list[str]:
        config = EvaluationJobConfig(models=models, output=f"{s3}/out", **options)  # type: ignore[arg-type]
        return [dataset.folder for dataset in find_eval_sets(config)]

    assert folders(root=f"{s3}/uvrb/") == [f"{s3}/uvrb/MSRVTT"]
    assert folders(data=(DataConfig(name="x", folder=f"{s3}/uvrb/MSRVTT"),)) == [f"{s3}/uvrb/MSRVTT"]
    with pytest.raises(PreflightError, match="holds no data set of UVRB"):
        folders(root=f"{s3}/none")
    with pytest.raises(PreflightError, match=r"root='nosuch://x', data: cannot be read"):
        folders(root="nosuch://x")
    with pytest.raises(PreflightError, match=r"data.x.folder='s3://.*/none': no such folder"):
        folders(data=(DataConfig(name="x", folder=f"{s3}/none"),))


def test_a_remote_folder_is_listed_once(root: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = uploaded(root, f"{s3}/set")
    requests: list[object] = []
    folder = open_folder(uri)
    assert isinstance(folder, RemoteFolder)

    class Counting:
        def get_file_info(self, what: object) -> object:
            requests.append(what)
            return files.get_file_info(what)

    files, folder._files = folder._files, Counting()  # type: ignore[assignment]
    assert folder.is_file("videos/v1.mp4")
    assert not folder.is_file("videos")
    assert folder.is_folder("videos")
    assert not folder.is_folder("videos/v1.mp4")
    assert folder.names() == ["images", "jsonl", "videos", "videos_frames"]
    assert folder.names("none") == []
    assert not folder.has_pictures("videos_frames/v3")
    assert folder.has_pictures("videos_frames/v3/deep")
    assert len(requests) == 1
    assert isinstance(requests[0], fs.FileSelector)
    assert not open_folder(root).is_file("a\0b")
    assert os.fspath(open_folder(root).media("x")) == str(root / "x")
