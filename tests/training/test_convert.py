"""Rows of public data sets become pairs: one for each caption, and none if a value is missing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.training.config import DataSetConfig
from gve_ray.training.convert import convert


def pairs(
    path: Path, data: str | bytes | list[dict[str, Any]] | pa.Table, kind: str, **options: Any
) -> list[Any]:
    """Convert a file; return (query, target) of each pair, and None for each row that is skipped."""
    if isinstance(data, pa.Table):
        pq.write_table(data, path)
    else:
        text = data if isinstance(data, str | bytes) else "".join(json.dumps(row) + "\n" for row in data)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    config = DataSetConfig(name="d", uri=str(path), format=kind, **options)  # type: ignore[arg-type]
    return [
        row and (row["query"]["text"], next(part for part in row["target"].values() if part))
        for row in convert(config)
    ]


def test_each_caption_of_a_list_makes_a_pair(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "caption": ["a dog", None, "one dog"]}, {"image": "2.jpg", "caption": []}]
    expected = [("a dog", "1.jpg"), ("one dog", "1.jpg"), None]
    assert pairs(tmp_path / "c.jsonl", rows, "image_captions") == expected
    assert pairs(tmp_path / "c.parquet", pa.Table.from_pylist(rows), "image_captions") == expected
    written = "image,caption\n1.jpg,\"['a dog', nan, 'one dog']\"\n2.jpg,[]\n"
    assert pairs(tmp_path / "c.csv", written, "image_captions") == expected
    flickr = 'image,caption\n1.jpg,"[""a dog"", ""one dog""]"\n2.jpg,\n'
    assert pairs(tmp_path / "f.csv", flickr, "image_captions") == expected


def test_each_query_of_a_list_is_paired_with_each_target(tmp_path: Path) -> None:
    rows = [{"query": ["a", "b"], "positive": ["x", "y"], "negative": float("nan")}]
    assert pairs(tmp_path / "c.jsonl", rows, "text_pairs") == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]


@pytest.mark.parametrize("missing", [float("nan"), None, "", "nan", "None", "<NA>"])
def test_missing_values_are_not_read_as_words(missing: Any, tmp_path: Path) -> None:
    rows = [
        {"videoid": 1, "page_dir": "a", "name": missing},
        {"videoid": 2, "page_dir": missing, "name": "None of them move"},
        {"videoid": missing, "page_dir": "a", "name": "x"},
        {"videoid": 4, "page_dir": "a"},
    ]
    converted = pairs(tmp_path / "w.jsonl", rows, "webvid")
    assert converted == [None, ("None of them move", "2.mp4"), None, None]


def test_ids_keep_their_digits(tmp_path: Path) -> None:
    csv = "videoid,page_dir,name\n1066674784.0,000001_000050,x\n007,,y\n9007199254740993,a,z\n"
    expected = [("x", "000001_000050/1066674784.mp4"), ("y", "007.mp4"), ("z", "a/9007199254740993.mp4")]
    assert pairs(tmp_path / "w.csv", csv, "webvid") == expected
    floats = pa.table({"videoid": [1.0, None, 1e15], "page_dir": ["a", "b", None], "name": ["x", "y", "z"]})
    converted = pairs(tmp_path / "w.parquet", floats, "webvid")
    assert converted == [("x", "a/1.mp4"), None, ("z", "1000000000000000.mp4")]


def test_a_csv_file_written_by_excel_is_read(tmp_path: Path) -> None:
    data = "\ufeffvideoid;page_dir;name\r\n1;a;a dog, running\r\n".encode()
    assert pairs(tmp_path / "w.csv", data, "webvid") == [("a dog, running", "a/1.mp4")]


def test_a_tilde_stands_for_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.csv").write_text("image,caption\n1.jpg,x\n~/2.jpg,y\n")
    config = DataSetConfig(name="d", uri="~/c.csv", format="image_captions", root="~/images")
    images = [row["target"]["image"] for row in convert(config) if row]
    assert images == [f"{tmp_path}/images/1.jpg", f"{tmp_path}/2.jpg"]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("c.csv", "image,caption\n1.jpg,x\n2.jpg,a man, a dog\n", r"c\.csv': row 2 \(line 3\): 3 cells for 2 columns"),
        ("c.csv", b"image,caption\n1.jpg,caf\xe9\n", r"c\.csv': row 1 \(line 2\): byte 0xe9"),
        ("c.jsonl", '{"image": "a", "caption": "x"}\n{"image"\n', r"row 2 \(line 2\): not JSON"),
        ("c.jsonl", '{"image": {"path": "a"}, "caption": "x"}\n', r"row 1 \(line 1\) has image={'path': 'a'}: not"),
        ("c.jsonl", '{"image": "a", "caption": "\\ud800"}\n', r"row 1 \(line 1\) has caption='.*surrogate"),
        ("c.json", '{"images": [], "annotations": []}', "keys images, annotations"),
    ],
)  # fmt: skip
def test_the_error_for_a_malformed_file_names_the_row(
    name: str, data: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        pairs(tmp_path / name, data, "image_captions")


def test_a_column_may_be_missing_in_some_rows_of_json(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg"}, {"image": "2.jpg", "caption": "x"}]
    assert pairs(tmp_path / "c.jsonl", rows, "image_captions") == [None, ("x", "2.jpg")]
    with pytest.raises(
        ValueError, match=r"no column caption among image; name the columns to read in data\.d\.columns"
    ):
        pairs(tmp_path / "n.jsonl", rows[:1], "image_captions")
