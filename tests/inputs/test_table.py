"""Tables as common programs write them: all formats give the same rows, and errors name their place."""

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.inputs.table import RowError, TableError, form_of, open_table

ROWS = [{"uri": "a.mp4", "caption": "un café, deux"}, {"uri": "b.mp4", "caption": None}]
CSV = 'uri,caption\na.mp4,"un café, deux"\nb.mp4,\n'
TSV = "uri\tcaption\na.mp4\tun café, deux\nb.mp4\t\n"
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def put(path: Path, data: str | bytes) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def cells_of(source: str, **options: Any) -> list[dict[str, Any]]:
    return [dict(row.cells) for row in open_table(source, **options).rows]


@pytest.mark.parametrize(
    "name, text",
    [
        ("m.csv", CSV),
        ("m.CSV", CSV.replace("\n", "\r\n")),
        ("old-mac.csv", CSV.replace("\n", "\r")),
        ("blank.csv", "\n" + CSV.replace("\n", "\n\n") + ",\n,,,\n"),
        ("header.csv", CSV.replace("uri,caption", " uri , caption ")),
        ("spaced.csv", CSV.replace(",", ", ", 2).replace("\nb", "\n b")),
        ("excel.csv", '\r\nuri;caption\r\na.mp4;un café, deux\r\n"b.mp4";\r\n'),
        ("marked.csv", "sep=;\r\nuri;caption\r\na.mp4;un café, deux\r\nb.mp4;\r\n"),
        ("bars.csv", "uri| caption\na.mp4| un café, deux\nb.mp4|\n"),
        ("tabs.csv", TSV),
        ("m.tsv", TSV),
        ("quoted.tsv", TSV.replace("un café, deux", '"un café, deux"')),
        ("m.jsonl", LINES),
        ("m.ndjson", "\n" + LINES),
        ("m.json", json.dumps(ROWS, indent=1)),
        ("lines.json", LINES),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gzip"])
def test_every_form_and_encoding_says_the_same(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    if encoding == "gzip":
        source = put(tmp_path / f"{name}.gz", gzip.compress(text.encode()))
    else:
        source = put(tmp_path / name, text.encode(encoding))
    table = open_table(source)
    assert table.columns == ["uri", "caption"]
    rows = [dict(row.cells) for row in table.rows]
    assert [{key: cell and cell.strip() for key, cell in row.items()} for row in rows] == ROWS


def test_parquet_is_a_file_or_a_folder_of_parts_and_reads_what_is_asked(tmp_path: Path) -> None:
    table = pa.table(
        {"id": pa.array([2**53 + 1, None]), "tags": [["x", None], []], "score": [float("nan"), 0.5]}
    )
    pq.write_table(table, tmp_path / "m.parquet")
    rows = [{"id": 2**53 + 1, "tags": ["x", None], "score": None}, {"id": None, "tags": [], "score": 0.5}]
    assert cells_of(str(tmp_path / "m.parquet")) == rows
    assert cells_of(str(tmp_path / "m.parquet"), columns=("id", "none")) == [{"id": 2**53 + 1}, {"id": None}]
    (tmp_path / "parts.parquet").mkdir()
    pq.write_table(table, tmp_path / "parts.parquet" / "part-0.parquet")
    assert cells_of(str(tmp_path / "parts.parquet")) == rows


def test_the_ending_says_the_form() -> None:
    assert form_of("s3://bucket/m.CSV.gz?region=x") == ".csv"
    assert form_of("/a/odd?.jsonl") == ".jsonl"
    for other in ("m.txt", "m.parquet.gz", "m.csv.zip", "m", "m.gz", "s3://b/m?a=.csv"):
        assert form_of(other) is None
        with pytest.raises(TableError, match=r"does not end in \.csv"):
            open_table(other)


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    """A browser unpacks what it fetches and leaves the name; others pack and leave the name, too."""
    assert len(cells_of(put(tmp_path / "unpacked.csv.gz", CSV))) == 2
    assert len(cells_of(put(tmp_path / "packed.csv", gzip.compress(CSV.encode())))) == 2
    assert len(cells_of(put(tmp_path / "two.jsonl.gz", 2 * gzip.compress(LINES.encode())))) == 4


def test_a_table_behind_a_uri() -> None:
    fsspec.filesystem("memory").pipe("/tables/m [1].csv.gz", gzip.compress(CSV.encode()))
    assert cells_of("memory://tables/m [1].csv.gz") == ROWS


def test_numbers_and_places_of_rows(tmp_path: Path) -> None:
    text = 'uri,caption\n\na.mp4,"two\r\nlines"\nb.mp4,x\n'
    first, second = open_table(put(tmp_path / "m.csv", text)).rows
    assert (first.place, first.cells["caption"]) == ("row 1 (line 3)", "two\r\nlines")
    assert (second.number, second.line, second.place) == (2, 5, "row 2 (line 5)")
    (row,) = open_table(put(tmp_path / "m.json", "[{}]")).rows
    assert (row.place, dict(row.cells)) == ("row 1", {})


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    text = "long, " * 50_000  # 300,000 characters; the csv module stops at 131,072
    assert cells_of(put(tmp_path / "m.csv", f'uri,caption\na.mp4,"{text}"\n'))[0]["caption"] == text


def test_unquoted_tabs_and_quotes_of_tsv(tmp_path: Path) -> None:
    text = 'a\tb\n"He said ""hi"""\t"yes" he said\n"\tit\'s 5" wide\n'
    assert cells_of(put(tmp_path / "m.tsv", text)) == [
        {"a": 'He said "hi"', "b": '"yes" he said'},
        {"a": '"', "b": "it's 5\" wide"},
    ]


def test_without_a_header_columns_are_numbered(tmp_path: Path) -> None:
    rows = cells_of(put(tmp_path / "m.tsv", "q\tx\t\nr\ty\tz\n"), header=False)
    assert rows == [{"0": "q", "1": "x", "2": None}, {"0": "r", "1": "y", "2": "z"}]


def test_lines_of_comment(tmp_path: Path) -> None:
    rows = list(open_table(put(tmp_path / "m.csv", "# ours\nmodel,x\n# new\na,1\n"), comment="#").rows)
    assert [(row.number, row.line, dict(row.cells)) for row in rows] == [(1, 4, {"model": "a", "x": "1"})]


def test_the_row_number_that_pandas_writes_is_no_column(tmp_path: Path) -> None:
    table = open_table(put(tmp_path / "m.csv", ",uri\n0,a.mp4\n"))
    assert (table.columns, [dict(row.cells) for row in table.rows]) == (["uri"], [{"uri": "a.mp4"}])
    pq.write_table(pa.table({"uri": ["a.mp4"], "__index_level_0__": [7]}), tmp_path / "m [1].parquet")
    table = open_table(str(tmp_path / "m [1].parquet"))
    assert (table.columns, [dict(row.cells) for row in table.rows]) == (["uri"], [{"uri": "a.mp4"}])


def test_json_numbers_keep_their_digits_and_nan_is_missing(tmp_path: Path) -> None:
    text = '{"id": 9007199254740993, "a": NaN, "b": [1.5, NaN, -Infinity]}\n{"id": 1}\n'
    assert cells_of(put(tmp_path / "m.jsonl", text)) == [
        {"id": 9007199254740993, "a": None, "b": [1.5, None, None]},
        {"id": 1},
    ]


# A row that is malformed, in its file, and how it is reported.
MALFORMED = {
    "unquoted comma": ("m.csv", "a,b\n1,2\nx,a man, a dog\n", r"row 2 \(line 3\): 3 cells for 2 columns \(a, b\)"),
    "too few cells": ("m.csv", "a,b\n1\n", r"row 1 \(line 2\): 1 cell for 2 columns"),
    "open quote": ("m.csv", 'a,b\n1,2\n3,"x\n4,y\n', r"row 2 \(line 3\): not CSV \(a quote is opened and not closed\)"),
    "quote in quotes": ("m.csv", 'a,b\n1,"say "hi" now"\n', r"row 1 \(line 2\): not CSV .*double each quote inside"),
    "cell without a column": ("m.csv", "a,b,\n1,2,\n1,a man, a dog\n", r"row 2 \(line 3\): cell 3 holds 'a dog'"),
    "joined files": ("m.csv", "a,b\n1,2\na,b\n3,4\n", r"row 2 \(line 3\): the header again"),
    "tab in a text": ("m.tsv", 'a\tb\n1\t"x\ty"\n', r"row 1 \(line 2\): 3 cells for 2 columns"),
    "no header": ("m.tsv", "1\t2\n3\n", r"row 2 \(line 2\): 1 cell for 2 columns in the first row"),
    "cp1252": ("m.csv", b"a,b\n1,2\n3,caf\xe9\n", r"row 2 \(line 3\): byte 0xe9 after '3,caf' .*'\xe9'.*iconv"),
    "cp1252 in JSON": ("m.jsonl", b'{"a": "caf\xe9"}\n', r"row 1 \(line 1\): byte 0xe9"),
    "not JSON": ("m.jsonl", '{"a": 1}\n\n{"a": \n', r"row 2 \(line 3\): not JSON: Expecting value"),
    "no object": ("m.jsonl", '["a.mp4"]\n', r"row 1 \(line 1\): \['a.mp4'\]: not a JSON object"),
    "no object in an array": ("m.json", '[{"a": 1}, "b.mp4"]', r"row 2: 'b.mp4': not a JSON object"),
    "a key twice": ("m.jsonl", '{"a": 1, "a": 2}\n', r"row 1 \(line 1\): not JSON: key 'a' is there twice"),
}  # fmt: skip


@pytest.mark.parametrize("name, data, says", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_row_is_named(name: str, data: str | bytes, says: str, tmp_path: Path) -> None:
    source = put(tmp_path / name, data)
    header = "first row" not in says
    with pytest.raises(RowError, match=says):
        list(open_table(source, header=header).rows)
    faults: list[str] = []
    rows = list(
        open_table(
            source, header=header, on_fault=lambda row, what: faults.append(f"{row.place}: {what}")
        ).rows
    )
    assert len(faults) == 1
    # An open quote takes the rest of the file with it; otherwise all other rows are read.
    lines = [line for line in data.splitlines() if line][header and name.endswith(("csv", "tsv")) :]
    assert len(rows) + 1 == (2 if name == "m.json" or "opened" in says else len(lines))


# A file that is no table, and how it is reported.
NO_TABLE = {
    "empty": ("m.csv", "", "empty: it has no lines"),
    "blank lines": ("m.jsonl", "\n \n", "empty: it has no lines"),
    "empty array": ("m.json", "[]", "empty: it has no rows"),
    "two columns of a name": ("m.csv", "a,b,a\n1,2,3\n", "column 'a' is there twice"),
    "cp1252 header": ("m.csv", b"l\xe9gende,b\n1,2\n", "line 1: byte 0xe9"),
    "cp1252 in an array": ("m.json", b'[{"a": 1},\n{"a": "\xe9"}]', "line 2: byte 0xe9"),
    "UTF-16 without its mark": ("m.csv", CSV.encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "half of UTF-16": ("m.csv", CSV.encode("utf-16")[:-1], "cannot be read .*truncated data"),
    "workbook": ("m.csv", b"PK\x03\x04\x14\x00", "an Excel workbook"),
    "one object": ("m.json", '{"videos": [], "sentences": []}', r"keys videos, sentences\); give an array of objects"),
    "object of columns": ("m.json", '{"uri": {"0": "a.mp4"}}', "not a table but one JSON value"),
    "cut array": ("m.json", '[{"a": 1},', "not JSON"),
    "cut gzip": ("m.csv.gz", gzip.compress(CSV.encode())[:-9], "ended before the end-of-stream marker"),
    "damaged gzip": ("m.csv.gz", b"\x1f\x8b not gzip", "cannot be read"),
    "not Parquet": ("m.parquet", "uri\n", "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name, data, says", NO_TABLE.values(), ids=NO_TABLE)
def test_what_is_no_table_is_reported(name: str, data: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=says):
        list(open_table(put(tmp_path / name, data)).rows)


def test_columns_of_parquet_with_one_name(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "m.parquet"
    )
    with pytest.raises(TableError, match="duplicate field names"):
        open_table(str(tmp_path / "m.parquet"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("m.csv", "m.parquet", "m.json"):
        with pytest.raises(FileNotFoundError):
            open_table(str(tmp_path / name))
