"""Videos inside WebDataset archives and Parquet tables: listed with their captions, opened without unpacking."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.demo.render import encode_mp4
from gve_ray.inputs.manifest import read_manifest
from gve_ray.job import PreflightError
from gve_ray.media import DecodeProcess, FrameRequest, Limits, MediaError, Reason, decode
from gve_ray.media.source import file_facts, open_remote
from gve_ray.store.runfolder import filesystem

FEATURES = {"video": {"_type": "Video"}, "caption": {"dtype": "string", "_type": "Value"}}
VIDEO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Three videos of another grey each."""
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for grey in (40, 120, 200):
        pictures = [np.full((32, 32, 3), grey + i, np.uint8) for i in range(6)]
        encode_mp4(folder / f"{grey}.mp4", pictures, fps=6, width=32, height=32)
        made.append((folder / f"{grey}.mp4").read_bytes())
    return made


def write_tar(path: Path, files: Sequence[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_parquet(
    path: Path, rows: list[dict[str, Any]], features: dict[str, Any] | None = None, **options: Any
) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    schema = pa.schema([("video", VIDEO), ("caption", pa.string())], metadata=metadata)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, **options)


def grey_of(uri: str) -> int:
    return round(float(decode(uri, [FrameRequest(k=1)]).samples[0].pixels.mean()))


def listed(source: str) -> list[tuple[str | None, int]]:
    """Return (caption, grey of the first frame) of each video, sorted."""
    rows = read_manifest(source).to_pylist()
    assert len({row["video_id"] for row in rows}) == len(rows)
    return sorted(((row["caption"], grey_of(row["uri"])) for row in rows), key=lambda row: row[1])


def test_archives_are_opened_by_offset(tmp_path: Path, videos: list[bytes], caplog: Any) -> None:
    write_tar(
        tmp_path / "00000.tar",
        [
            ("a/0001.mp4", videos[0]),
            ("a/0001.txt", b"a dark square\n"),
            ("a/0001.json", b'{"caption": "not this one", "fps": 6}'),
            ("a/0002.json", b'{"status": "failed_to_download", "caption": "lost"}'),
            ("a/0003.json", json.dumps({"caption": ["grau", "gris"]}).encode()),
            ("a/0003.mp4", videos[1]),
        ],
    )
    write_tar(tmp_path / "00001.tar", [("b.c/0001.video.mp4", videos[2])])
    with caplog.at_level("WARNING"):
        found = listed(f"{tmp_path}/*.tar")
    assert [caption for caption, _ in found] == ["a dark square", "grau", None]
    assert [abs(grey - expected) < 4 for (_, grey), expected in zip(found, (40, 120, 200), strict=True)] == [
        True
    ] * 3
    assert "1 samples have no video" in caplog.text
    assert "1 rows have several captions" in caplog.text
    assert listed(f"{tmp_path}/00001.tar") == found[2:]
    (row,) = (
        row
        for row in read_manifest(f"{tmp_path}/00000.tar", metadata=True).to_pylist()
        if row["caption"] == "a dark square"
    )
    assert json.loads(row["metadata"]) == {"fps": 6, "key": "a/0001"}


def test_a_slice_is_the_file_for_every_reader(tmp_path: Path, videos: list[bytes]) -> None:
    write_tar(tmp_path / "0.tar", [("1.mp4", videos[0]), ("2.mp4", videos[1])])
    rows = read_manifest(f"file://{tmp_path}/0.tar").to_pylist()
    for row in rows:
        with open_remote(row["uri"]) as file:
            data = file.read()
            file.seek(-4, io.SEEK_END)
            assert file.read() == data[-4:]
        assert data in videos
        assert file_facts(row["uri"]) == (len(data), (tmp_path / "0.tar").stat().st_mtime_ns)
    (tmp_path / "2.mp4").write_bytes(videos[1])
    plain = decode(str(tmp_path / "2.mp4"), [FrameRequest(k=2)])
    with DecodeProcess(Limits()) as process:
        packed = {process.decode(row["uri"], [FrameRequest(k=2)]).content_hash for row in rows}
    assert plain.content_hash in packed


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([("a.mp4", b"x"), ("a.txt", b"caf\xe9")], r"sample 'a': a.txt is not UTF-8"),
        ([("a.mp4", b"x"), ("a.json", b"{")], r"sample 'a': a.json is not JSON"),
        ([("a.mp4", b"x"), ("a.json", b"[]")], r"sample 'a': a.json is not a JSON object"),
        ([("a.mp4", b"x"), ("a.json", b'{"caption": {"en": 1}}')], r"sample 'a': caption="),
        ([("a.mp4", b"x"), ("a.mp4", b"y")], r"sample 'a' has two files .mp4"),
        ([("a.txt", b"x")], r"no rows"),
    ],
)
def test_malformed_samples_are_named(tmp_path: Path, files: list[tuple[str, bytes]], error: str) -> None:
    write_tar(tmp_path / "0.tar", files)
    with pytest.raises(PreflightError, match=error):
        read_manifest(f"{tmp_path}/0.tar")


def test_a_damaged_archive_is_an_error(tmp_path: Path, videos: list[bytes]) -> None:
    write_tar(tmp_path / "0.tar", [("1.mp4", videos[0]), ("2.mp4", videos[1])])
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 + len(videos[0]) // 2])
    write_tar(tmp_path / "packed.tar", [("1.mp4", videos[0])], mode="w:gz")
    (tmp_path / "text.tar").write_bytes(b"no archive" * 100)
    for name in ("cut", "packed", "text"):
        with pytest.raises(PreflightError, match=f"{name}.tar: not a complete tar archive"):
            read_manifest(f"{tmp_path}/{name}.tar")
    with pytest.raises(PreflightError, match="no file matches"):
        read_manifest(f"{tmp_path}/x*.tar")


def test_a_video_of_an_archive_that_has_changed_is_refused(tmp_path: Path, videos: list[bytes]) -> None:
    write_tar(tmp_path / "0.tar", [("1.mp4", videos[0])])
    (uri,) = read_manifest(f"{tmp_path}/0.tar")["uri"].to_pylist()
    (tmp_path / "0.tar").write_bytes(b"cut")
    with pytest.raises(MediaError, match="has changed since it was listed") as refused:
        decode(uri, [FrameRequest(k=1)])
    assert refused.value.reason == Reason.UNREADABLE


@pytest.mark.parametrize("features", [FEATURES, None])
def test_tables_of_datasets_have_videos_as_bytes(
    tmp_path: Path, videos: list[bytes], features: dict[str, Any] | None
) -> None:
    rows = [
        {"video": {"bytes": data, "path": f"{i}.mp4"}, "caption": f"square {i}"}
        for i, data in enumerate(videos)
    ]
    write_parquet(tmp_path / "train-0.parquet", rows[:2], features, row_group_size=1)
    write_parquet(tmp_path / "train-1.parquet", rows[2:], features)
    found = listed(f"{tmp_path}/train-*.parquet")
    assert [caption for caption, _ in found] == ["square 0", "square 1", "square 2"]
    assert [abs(grey - expected) < 4 for (_, grey), expected in zip(found, (40, 120, 200), strict=True)] == [
        True
    ] * 3
    assert listed(f"{tmp_path}/train-0.parquet") == found[:2]


@pytest.mark.slow  # starts an S3 server, which takes 3 s
def test_archives_and_tables_in_a_bucket(tmp_path: Path, videos: list[bytes], s3: str) -> None:
    write_tar(tmp_path / "a.tar", [("1.mp4", videos[0]), ("1.txt", b"dark")])
    row = {"video": {"bytes": videos[1], "path": "2.mp4"}, "caption": "grey"}
    write_parquet(tmp_path / "a.parquet", [row], FEATURES)
    files, root = filesystem(s3)
    for name in ("a.tar", "a.parquet"):
        with files.open_output_stream(f"{root}/{name}") as stream:
            stream.write((tmp_path / name).read_bytes())
    assert [caption for caption, _ in listed(f"{s3}/*.tar")] == ["dark"]
    assert [caption for caption, _ in listed(f"{s3}/*.parquet")] == ["grey"]


def test_tables_of_datasets_have_videos_as_paths(tmp_path: Path, videos: list[bytes]) -> None:
    (tmp_path / "a.mp4").write_bytes(videos[0])
    write_parquet(
        tmp_path / "0.parquet", [{"video": {"bytes": None, "path": "a.mp4"}, "caption": None}], FEATURES
    )
    (row,) = read_manifest(f"{tmp_path}/0.parquet").to_pylist()
    assert row["uri"] == str(tmp_path / "a.mp4")


def test_cells_without_a_video_are_refused(tmp_path: Path, videos: list[bytes]) -> None:
    rows = [{"video": {"bytes": videos[0], "path": None}}, {"video": None}]
    write_parquet(tmp_path / "0.parquet", rows, FEATURES)
    by_uri = read_manifest(f"{tmp_path}/0.parquet")["uri"].to_pylist()
    (bad,) = (uri for uri in by_uri if "/0+1/" in uri)
    with pytest.raises(MediaError, match="the cell has no bytes") as refused:
        decode(bad, [FrameRequest(k=1)])
    assert refused.value.reason == Reason.UNREADABLE
    write_parquet(tmp_path / "1.parquet", [{"video": None, "caption": "lost"}], FEATURES)
    with pytest.raises(PreflightError, match="row 1: has neither bytes nor a path in 'video'"):
        read_manifest(f"{tmp_path}/1.parquet")


def test_a_glob_of_tables_without_videos_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.mp4"]}), tmp_path / "0.parquet")
    with pytest.raises(PreflightError, match="without a column of videos"):
        read_manifest(f"{tmp_path}/*.parquet")
    assert read_manifest(f"{tmp_path}/0.parquet").num_rows == 1
