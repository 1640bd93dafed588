from pathlib import Path

import pytest

from gve_ray.evaluation.paper.result_tables import ResultRow, pick, published_table, read_table


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_table_may_lack_families_and_data_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "# ours\nmodel,MSRVTT,CMRB\nmine,0.5,\nyours,0.25,1\n")
    assert read_table(path) == [
        ResultRow(model="mine", scores={"MSRVTT": 0.5}),
        ResultRow(model="yours", scores={"MSRVTT": 0.25, "CMRB": 1.0}),
    ]


def test_a_table_of_excel(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes("\ufeff# ours\r\nmodel;MSRVTT;CMRB\r\nmine;0.5;\r\n".encode("utf-16-le"))
    assert read_table(tmp_path / "r.csv") == [ResultRow(model="mine", scores={"MSRVTT": 0.5})]


def test_the_published_table() -> None:
    rows = published_table()
    assert [sum(row.family == family for row in rows) for family in ("clip", "mllm")] == [6, 10]
    assert (rows[-1].model, rows[-1].params_b, rows[-1].scores["CMRB"]) == ("GVE-7B", 8.3, 0.398)


@pytest.mark.parametrize(
    "text,said",
    [
        ("name,MSRVTT\nmine,0.5\n", "no column 'model'"),
        ("model,MSRVTT\n", "no rows"),
        ("model,MSVD\nmine,0.5\n", "column 'MSVD': not a data set"),
        ("model,MSRVTT\nmine,high\n", "mine, MSRVTT: 'high' is not a number"),
        ("model,MSRVTT\nmine,nan\n", "mine, MSRVTT: 'nan' is not a number"),
        ("model,MSRVTT\nmine,43.1\n", "mine, MSRVTT: 43.1: a score must be between 0 and 1"),
        ("model,MSRVTT\n,0.5\n", "a row has no model name"),
        ("model,MSRVTT\nmine,0,5\n", r"row 1 \(line 2\): 3 cells for 2 columns"),
    ],
)
def test_invalid_tables_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", text)
    with pytest.raises(ValueError, match=said) as error:
        read_table(path)
    assert str(path) in str(error.value)


def test_picking_models(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "model,MSRVTT\nmine,0.5\nother,0.4\n")
    assert len(pick([])) == 16
    assert [row.model for row in pick([path])] == ["mine", "other"]
    assert [row.model for row in pick([path], ["GVE-3B", "mine"])] == ["GVE-3B", "mine"]
    assert [row.model for row in pick([path], ["mine"], baselines=True)][:2] == ["mine", "CLIP4Clip"]
    assert len(pick([path], baselines=True)) == 18
    assert len(pick([], ["GVE-3B"], baselines=True)) == 16
    with pytest.raises(ValueError, match="model 'gve': not in any table; use CLIP4Clip"):
        pick([], ["gve"])
    with pytest.raises(ValueError, match="model 'mine': occurs twice in the tables"):
        pick([path, path])
