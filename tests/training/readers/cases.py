"""What the tests of the readers share: cases with their expected pairs, and the checks."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.schema import Task
from gve_ray.training.config import DataSetConfig
from gve_ray.training.convert import convert
from gve_ray.training.mixture import check_sources

Side = dict[str, str]
Pair = tuple[Side, Side, list[Side]]


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def text(words: str) -> Side:
    return {"text": words}


def image(path: str) -> Side:
    return {"image": path}


def video(path: str) -> Side:
    return {"video": path}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set: its files by name, of which `uri` and `pool` are read, and the pairs in them."""

    format: str
    files: Mapping[str, str | pa.Table]
    uri: str
    pairs: list[Pair | None]
    task: Task
    options: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, files: Mapping[str, str | pa.Table]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, pa.Table):
            pq.write_table(content, folder / name)
        else:
            (folder / name).write_text(content)


def config_of(folder: Path, form: str, uri: str, options: Mapping[str, Any]) -> DataSetConfig:
    options = dict(options)
    if "pool" in options:
        options["pool"] = str(folder / options["pool"])
    return DataSetConfig(name="d", uri=str(folder / uri), format=form, **options)


def sides(row: dict[str, Any] | None) -> Pair | None:
    def filled(item: dict[str, Any]) -> Side:
        return {field: value for field, value in item.items() if value is not None}

    return row and (
        filled(row["query"]),
        filled(row["target"]),
        [filled(item) for item in row["negatives"]],
    )


def assert_pairs(case: Case, folder: Path) -> None:
    """Write the files of a case, and check that they are accepted and make its pairs."""
    write(folder, case.files)
    config = config_of(folder, case.format, case.uri, case.options)
    check_sources([config])
    rows = list(convert(config))
    expected = json.loads(json.dumps(case.pairs).replace("FOLDER", str(folder)))
    assert [row and list(row) for row in map(sides, rows)] == expected
    assert {row["task"] for row in rows if row} == {case.task.value}


def assert_error(
    folder: Path, form: str, uri: str, files: Mapping[str, str], options: Mapping[str, Any], message: str
) -> None:
    """Check that reading the files raises an error that names the data set and matches the message."""
    write(folder, files)
    with pytest.raises(ValueError, match=message) as caught:
        list(convert(config_of(folder, form, uri, options)))
    assert str(caught.value).startswith("data.d.uri=")
