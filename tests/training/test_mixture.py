import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.schema import PAIR_SCHEMA, Item, Task
from gve_ray.training.config import DataSetConfig
from gve_ray.training.mixture import load_mixture

NONE = {"text": None, "image": None, "video": None}


def uvrd(folder: Path, counts: dict[str, int]) -> str:
    """Write a uvrd folder like jobs/synthesize.py, in parts of three rows; return its path."""
    for task, count in counts.items():
        rows = [
            {
                "pair_id": f"{task}{i}",
                "task": task,
                "query": {**NONE, "text": f"{task} {i}"},
                "target": {**NONE, "video": f"asset://v{i}/video"},
                "negatives": [],
                "instruction": "Find it.",
                "domain": "CG",
                "style": "short",
            }
            for i in range(count)
        ]
        (folder / f"task={task}").mkdir(parents=True)
        for part in range(0, count, 3):
            table = pa.Table.from_pylist(rows[part : part + 3], schema=PAIR_SCHEMA)
            pq.write_table(table, folder / f"task={task}" / f"part-{part // 3:05d}.parquet")
        (folder / f"task={task}" / ".part-99999.parquet.partial").write_bytes(b"incomplete")
    return str(folder)


def load(folder: Path, *configs: DataSetConfig) -> dict[str, Any]:
    return load_mixture(configs, folder / "work", seed=1)


def test_each_task_folder_of_a_uvrd_folder_becomes_a_task(tmp_path: Path) -> None:
    uri = uvrd(tmp_path / "uvrd", {"T2V": 7, "T2I": 2})
    loaded = load(tmp_path, DataSetConfig(name="uvrd", uri=uri, weight=2.0))
    assert sorted(loaded) == ["uvrd-T2I", "uvrd-T2V"]
    video, image = loaded["uvrd-T2V"], loaded["uvrd-T2I"]
    assert [pair.pair_id for pair in video.pairs.take(range(7))] == [f"T2V{i}" for i in range(7)]
    # Table 7: batch 64 and one hard negative for T2V, 32 and none for T2I.
    assert (video.batch_size, video.negatives, video.weight) == (64, 1, 2.0)
    assert (image.batch_size, image.negatives, image.pairs.task) == (32, 0, Task.T2I)


def test_the_config_of_a_data_set_sets_sample_batch_size_and_negatives(tmp_path: Path) -> None:
    uri = uvrd(tmp_path / "uvrd", {"T2V": 7, "T2I": 5})
    entry = DataSetConfig(name="u", uri=uri, tasks=("T2V",), sample=4, batch_size=8, negatives=0)
    loaded = load(tmp_path, entry)
    assert list(loaded) == ["u-T2V"]
    assert (len(loaded["u-T2V"].pairs), loaded["u-T2V"].batch_size, loaded["u-T2V"].negatives) == (4, 8, 0)


def test_errors_name_missing_tasks_and_folders(tmp_path: Path) -> None:
    uri = uvrd(tmp_path / "uvrd", {"T2V": 2, "T2I": 2})
    with pytest.raises(ValueError, match=r"no pairs for TI2V; .*T2I, T2V"):
        load(tmp_path, DataSetConfig(name="uvrd", uri=uri, tasks=("T2V", "TI2V")))
    with pytest.raises(ValueError, match="no task="):
        load(tmp_path, DataSetConfig(name="uvrd", uri=str(tmp_path / "elsewhere")))
    with pytest.raises(ValueError, match="two data sets are called 'uvrd-T2I'"):
        load(tmp_path, *[DataSetConfig(name="uvrd", uri=uri)] * 2)
    with pytest.raises(ValueError, match="at least one data set"):
        load(tmp_path)


def test_parts_of_another_schema_are_refused(tmp_path: Path) -> None:
    uri = uvrd(tmp_path / "uvrd", {"T2V": 2})
    pq.write_table(pa.table({"pair_id": ["x"]}), tmp_path / "uvrd/task=T2V/part-00000.parquet")
    with pytest.raises(ValueError, match="no column domain, instruction, negatives, query, style, target"):
        load(tmp_path, DataSetConfig(name="uvrd", uri=uri))


def test_text_pairs_with_lists_of_positives_and_negatives(tmp_path: Path) -> None:
    lines = [
        {
            "query": "what is a vector",
            "pos": ["a magnitude and a direction", "an arrow"],
            "neg": ["a scalar"],
        },
        {"query": "", "pos": ["an answer without a question"], "neg": []},
        {"query": "why", "pos": ["because"], "neg": []},
    ]
    path = tmp_path / "msmarco.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    columns = {"target": "pos", "negatives": "neg"}
    entry = DataSetConfig(
        name="msmarco", uri=str(path), format="text_pairs", columns=columns, instruction="Find the answer."
    )
    loaded = load(tmp_path, entry)["msmarco"]
    assert loaded.pairs.task is Task.T2T
    pairs = loaded.pairs.take(range(3))
    assert [pair.pair_id for pair in pairs] == ["msmarco-0", "msmarco-1", "msmarco-2"]
    assert pairs[1].query == Item(text="what is a vector", instruction="Find the answer.")
    assert pairs[1].target == Item(text="an arrow")
    assert pairs[1].negatives == (Item(text="a scalar"),)
    assert len(loaded.pairs) == 3


def test_text_triples_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "triples.tsv"
    path.write_text('who said "yes\tshe did\tnobody\nwhen\tnow\tnever\n')
    columns = {"query": "0", "target": "1", "negatives": "2"}
    loaded = load(tmp_path, DataSetConfig(name="t", uri=str(path), format="text_pairs", columns=columns))["t"]
    first, second = loaded.pairs.take([0, 1])
    assert (first.query.text, first.target.text) == ('who said "yes', "she did")
    assert second.negatives == (Item(text="never"),)


def test_image_captions(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('image,caption\na.jpg,"a dog, running"\n/abs/b.jpg,a cat\n,nothing\n')
    entry = DataSetConfig(name="cc", uri=str(path), format="image_captions", root="s3://bucket/images/")
    loaded = load(tmp_path, entry)["cc"]
    assert (loaded.pairs.task, loaded.batch_size, len(loaded.pairs)) == (Task.T2I, 32, 2)
    first, second = loaded.pairs.take([0, 1])
    assert (first.query.text, first.target) == ("a dog, running", Item(image="s3://bucket/images/a.jpg"))
    assert second.target == Item(image="/abs/b.jpg")


def test_a_csv_file_of_webvid(tmp_path: Path) -> None:
    path = tmp_path / "webvid.csv"
    path.write_text(
        "videoid,contentUrl,duration,page_dir,name\n"
        "1058,https://example.org/1058.mp4,PT00H00M11S,006001_006050,Aerial view of a harbour\n"
    )
    loaded = load(tmp_path, DataSetConfig(name="webvid", uri=str(path), format="webvid", root="/data/webvid"))
    (pair,) = loaded["webvid"].pairs.take([0])
    assert loaded["webvid"].pairs.task is Task.T2V
    assert pair.query.text == "Aerial view of a harbour"
    assert pair.target == Item(video="/data/webvid/006001_006050/1058.mp4")


def test_a_parquet_file_of_captions(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    pq.write_table(pa.table({"path": ["x.jpg"], "text": ["a tree"]}), path)
    columns = {"image": "path", "caption": "text"}
    loaded = load(tmp_path, DataSetConfig(name="p", uri=str(path), format="image_captions", columns=columns))
    assert loaded["p"].pairs.take([0])[0].target == Item(image="x.jpg")


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("x.csv", "picture,caption\na,b\n", "no column image among picture, caption"),
        ("x.xml", "<x/>", r"does not end in \.csv, \.tsv"),
        ("x.csv", "image,caption\n,\n", "c: no pairs"),
    ],
)
def test_the_error_for_an_unreadable_file_says_what_is_wrong(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, DataSetConfig(name="c", uri=str(tmp_path / name), format="image_captions"))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"name": ""}, "give every data set both"),
        ({"format": "xml"}, "data.u.format='xml'"),
        ({"tasks": ("T2X",)}, "data.u.tasks=.*T2X"),
        ({"tasks": ("T2V",), "format": "webvid"}, "has one task"),
        ({"columns": {"title": "x"}, "format": "webvid"}, "webvid reads caption, video"),
        ({"sample": 0}, "data.u.sample=0"),
        ({"batch_size": 0}, "data.u.batch_size=0"),
        ({"negatives": -1}, "data.u.negatives=-1"),
        ({"weight": -1.0}, "data.u.weight"),
    ],
)
def test_invalid_data_set_configs_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSetConfig(**{"name": "u", "uri": "folder"} | change)
