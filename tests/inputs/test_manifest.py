"""Manifests, folders and globs are read into one table, and invalid input is reported before any work."""

import gzip
import hashlib
import json
import logging
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.inputs import manifest
from gve_ray.inputs.manifest import read_manifest, video_id_of, video_uris
from gve_ray.job import PreflightError
from gve_ray.media.source import open_remote
from gve_ray.store import SharedFolder

ROWS = [
    {"video_id": "b", "uri": "/videos/b.mp4", "caption": " a red ball "},
    {"video_id": "a", "uri": "clips/a.mp4", "caption": ""},
    {"video_id": "c", "uri": "s3://bucket/c.mp4", "caption": None},
]


def write(path: Path, rows: list[dict[str, str | None]]) -> str:
    names = list(rows[0])
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".tsv":
        path.write_text(
            "\n".join("\t".join(cells) for cells in [names, *([row[n] or "" for n in names] for row in rows)])
        )
    else:
        lines = [",".join(names), *(",".join(f'"{row[name] or ""}"' for name in names) for row in rows)]
        text = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.MP4",
        "a.mkv",
        "notes.md",
        "deep/c.webm",
        "deep/er/d.mp4",
        ".hidden/e.mp4",
        "deep/.f.mp4",
    ):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def names(source: str, folder: Path) -> set[str]:
    return {str(Path(uri).relative_to(folder)) for uri in read_manifest(source)["uri"].to_pylist()}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".json", ".tsv", ".csv.gz"])
def test_manifests_of_every_kind_say_the_same(suffix: str, tmp_path: Path) -> None:
    table = read_manifest(write(tmp_path / f"manifest{suffix}", ROWS))
    assert table.to_pylist() == [
        {"video_id": "a", "uri": f"{tmp_path}/clips/a.mp4", "caption": None},
        {"video_id": "b", "uri": "/videos/b.mp4", "caption": "a red ball"},
        {"video_id": "c", "uri": "s3://bucket/c.mp4", "caption": None},
    ]


def test_ids_default_to_a_hash_of_the_uri(tmp_path: Path) -> None:
    table = read_manifest(write(tmp_path / "m.jsonl", [{"uri": "/v/a.mp4"}, {"uri": "/v/a.mp4"}]))
    assert table["video_id"].to_pylist() == [hashlib.sha256(b"/v/a.mp4").hexdigest()[:16]]
    assert table["caption"].to_pylist() == [None]


def test_a_folder_is_searched_with_its_subfolders(folder: Path) -> None:
    assert names(str(folder), folder) == {"b.MP4", "a.mkv", "deep/c.webm", "deep/er/d.mp4"}
    assert names(str(folder) + "/", folder) == {"b.MP4", "a.mkv", "deep/c.webm", "deep/er/d.mp4"}
    assert names(f"{folder}/a.mkv", folder) == {"a.mkv"}


def test_a_file_uri_folder(folder: Path) -> None:
    uris = read_manifest(f"file://{folder}/deep")["uri"].to_pylist()
    assert sorted(uris) == [f"file://{folder}/deep/c.webm", f"file://{folder}/deep/er/d.mp4"]


@pytest.mark.parametrize(
    "glob, found",
    [
        ("*.mkv", {"a.mkv"}),
        ("*", {"b.MP4", "a.mkv"}),
        ("?.MP4", {"b.MP4"}),
        ("deep/*", {"deep/c.webm", "deep/.f.mp4"}),
        ("**/*.mp4", {"deep/er/d.mp4", ".hidden/e.mp4", "deep/.f.mp4"}),
        ("[!a].*", {"b.MP4"}),
    ],
)
def test_globs(glob: str, found: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(f"{folder}/{glob}", folder) == found
    monkeypatch.chdir(folder)
    assert names(glob, folder) == found


@pytest.mark.parametrize(
    "file, text, says",
    [
        ("m.jsonl", '{"uri": "a.mp4"}\nnot json\n', r"row 2 \(line 2\): not JSON"),
        ("m.jsonl", '["a.mp4"]\n', r"row 1 \(line 1\): \['a.mp4'\]: not a JSON object"),
        ("m.jsonl", '{"path": "a.mp4"}\n', r"\['path'\] without 'uri'"),
        ("m.jsonl", '{"uri": ""}\n', r"row 1 \(line 1\) has uri=''"),
        ("m.jsonl", '{"uri": 5}\n', r"row 1 \(line 1\) has uri=5"),
        ("m.jsonl", '{"uri": "a.mp4", "caption": "\\ud800"}\n', r"row 1 \(line 1\) has caption='.*surrogate"),
        ("m.jsonl", "", "it has no lines"),
        ("m.csv", "uri,caption\n", "no rows"),
        (
            "m.jsonl",
            '{"video_id": 1, "uri": "a.mp4"}\n{"video_id": "1", "uri": "b.mp4"}\n',
            r"row 2 \(line 2\): video_id '1'",
        ),
        ("m.csv", "path\na.mp4\n", r"\['path'\] without 'uri'"),
        ("m.csv", "uri,caption\na.mp4,a man, a dog\n", r"row 1 \(line 2\): 3 cells for 2 columns"),
        ("m.csv", "uri,caption\nnan,x\n", r"row 1 \(line 2\) has uri='nan'"),
        ("m.csv", b"uri,caption\na.mp4,caf\xe9\n", r"row 1 \(line 2\): byte 0xe9"),
        ("m.json", '{"videos": [], "sentences": []}', "keys videos, sentences.*a manifest has a column uri"),
        ("m.jsonl", '{"uri": "a.mp4", "caption": {"en": "x"}}', "caption={'en': 'x'}: not a text"),
        ("m.jsonl", '{"uri": "a.mp4", "video_id": 7e17}', r"video_id=7e\+17: .*so many digits"),
        ("m.jsonl", '{"uri": "a.mp4", "video_id": true}', "video_id=True: not a name"),
        ("m.jsonl", '{"uri": ["a.mp4"]}', r"uri=\['a.mp4'\]"),
        ("m.parquet", "not parquet", "m.parquet.*cannot be read"),
    ],
)
def test_an_unreadable_manifest_is_named(file: str, text: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(text.encode() if isinstance(text, str) else text)
    for metadata in (False, True):
        with pytest.raises(PreflightError, match=says) as error:
            read_manifest(str(tmp_path / file), metadata=metadata)
        assert str(tmp_path / file) in str(error.value)


def test_nothing_to_work_on_is_said(tmp_path: Path) -> None:
    for missing in ("no-such-folder", "no-such.jsonl", "no-such-folder/*.mp4"):
        with pytest.raises(PreflightError, match="no-such"):
            read_manifest(str(tmp_path / missing))
    (tmp_path / "notes.md").touch()
    with pytest.raises(PreflightError, match=r"no video in it \(.*1 \.md \('notes.md'\)"):
        read_manifest(str(tmp_path))


def test_unknown_schemes_are_said() -> None:
    with pytest.raises(PreflightError, match="nowhere://"):
        read_manifest("nowhere://bucket/videos")


def test_other_columns_are_metadata(tmp_path: Path) -> None:
    rows = [
        {"uri": "/a.mp4", "year": 2024, "tags": ["x"], "caption": "words"},
        {"uri": "/b.mp4", "year": None},
    ]
    for suffix in (".jsonl", ".parquet"):
        path = write(tmp_path / f"m{suffix}", rows)  # type: ignore[arg-type]
        table = read_manifest(path, metadata=True)
        metadata = {row["uri"]: json.loads(row["metadata"]) for row in table.to_pylist()}
        assert metadata["/a.mp4"] == {"year": 2024, "tags": ["x"]}
        assert metadata["/b.mp4"]["year"] is None
        assert "metadata" not in read_manifest(path).column_names


def test_metadata_of_csv_are_texts_and_what_is_empty_is_null(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('uri,year,note\n/a.mp4,2020,\n/b.mp4,,"x, y"\n')
    metadata = read_manifest(str(tmp_path / "m.csv"), metadata=True)["metadata"].to_pylist()
    assert sorted(metadata) == ['{"note": "x, y", "year": null}', '{"note": null, "year": "2020"}']


def test_the_first_of_several_captions_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "m.jsonl"
    captions = [[None, " a dog runs ", "one dog"], ["a cat"], [], [""], "a bird"]
    path.write_text(
        "\n".join(json.dumps({"uri": f"/{i}", "video_id": i, "caption": c}) for i, c in enumerate(captions))
    )
    with caplog.at_level(logging.WARNING):
        captions_read = read_manifest(str(path))["caption"].to_pylist()
    assert captions_read == ["a dog runs", "a cat", None, None, "a bird"]
    assert "1 rows have several captions; the first of each is used" in caplog.text


def test_ids_keep_their_digits_and_missing_ones_are_made(tmp_path: Path) -> None:
    ids = [1.0, 1e15, 2**53 + 1, "007", "2.0", None, float("nan"), ""]
    path = tmp_path / "m.jsonl"
    path.write_text(
        "\n".join(json.dumps({"uri": f"/{i}.mp4", "video_id": video_id}) for i, video_id in enumerate(ids))
    )
    id_of = {row["uri"]: row["video_id"] for row in read_manifest(str(path)).to_pylist()}
    assert [id_of[f"/{i}.mp4"] for i in range(5)] == ["1", "1000000000000000", "9007199254740993", "007", "2"]
    assert [id_of[f"/{i}.mp4"] for i in (5, 6, 7)] == [video_id_of(f"/{i}.mp4") for i in (5, 6, 7)]


def test_paths_in_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "m [1]?.csv").write_text(
        'uri\n~/a.mp4\n"sub/[x] #1?.mp4"\n../b.mp4\nfile:///c%20d.mp4\n/e f.mp4\n'
    )
    expected = [
        "/e f.mp4",
        "/home/me/a.mp4",
        "file:///c%20d.mp4",
        f"{tmp_path}/sub/[x] #1?.mp4",
        f"{tmp_path.parent}/b.mp4",
    ]
    assert sorted(video_uris(f"{tmp_path}/m [1]?.csv")) == sorted(expected)


def test_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert (
        names("~/deep", folder)
        == names("~/deep/**", folder) - {"deep/.f.mp4"}
        == {"deep/c.webm", "deep/er/d.mp4"}
    )


def test_a_folder_with_the_name_of_a_table_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").mkdir()
    (tmp_path / "clips.csv" / "a.mp4").touch()
    assert video_uris(str(tmp_path / "clips.csv")) == [f"{tmp_path}/clips.csv/a.mp4"]


def test_batches_of_rows_are_one_sorted_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_ROWS", 2)
    path = tmp_path / "m.parquet"
    ids = ["d", "b", "e", "a", "b", "c"]  # b twice, in other batches
    pq.write_table(pa.table({"video_id": ids, "uri": [f"/{video_id}.mp4" for video_id in ids]}), path)
    table = read_manifest(str(path))
    assert table.column("video_id").to_pylist() == ["a", "b", "c", "d", "e"]
    assert table.column("uri").to_pylist() == ["/a.mp4", "/b.mp4", "/c.mp4", "/d.mp4", "/e.mp4"]


ODD = "50% of it #2 ü.mp4"  # what a URI has to quote


@pytest.mark.parametrize("folder", ["raw/a b", "raw/a%20b/", "raw"])
def test_videos_in_a_bucket(s3: str, folder: str) -> None:
    bucket = SharedFolder(s3)
    place = bucket.path / "raw" / "a b" / ODD
    place.parent.mkdir(parents=True)
    place.write_bytes(b"1")
    bucket.publish()
    if " " in folder:
        with pytest.raises(PreflightError, match="cannot be read"):
            read_manifest(f"{s3}/{folder}")
        return
    (uri,) = video_uris(f"{s3}/{folder}")
    assert uri == f"{s3}/raw/a%20b/50%25%20of%20it%20%232%20%C3%BC.mp4"
    with open_remote(uri) as file:
        assert file.read() == b"1"


def test_a_manifest_in_a_bucket_names_its_neighbours(s3: str) -> None:
    bucket = SharedFolder(s3)
    (bucket.path / "raw").mkdir()
    (bucket.path / "raw" / ODD).write_bytes(b"1")
    (bucket.path / "raw" / "m.jsonl").write_text(json.dumps({"uri": ODD}) + '\n{"uri": "a%20b.mp4"}\n')
    bucket.publish()
    quoted, odd = sorted(video_uris(f"{s3}/raw/m.jsonl"), key=len)
    assert quoted == f"{s3}/raw/a%20b.mp4"  # as it is
    with open_remote(odd) as file:
        assert file.read() == b"1"


def test_videos_of_a_file_system_of_fsspec() -> None:
    fsspec.filesystem("memory").pipe(f"/odd names/{ODD}", b"1")
    (uri,) = video_uris("memory://odd names")
    with open_remote(uri) as file:
        assert file.read() == b"1"
