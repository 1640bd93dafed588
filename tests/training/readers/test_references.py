"""Data sets whose rows refer to entries of other files are read in the form in which they are published.

The files are a few made-up lines in that form; the pairs were worked out by hand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.schema import Task
from gve_ray.training.mixture import load_mixture
from tests.training.readers.cases import (
    Case,
    Pair,
    assert_error,
    assert_pairs,
    config_of,
    image,
    lines,
    text,
    write,
)


def candidate(did: str, words: str | None, path: str | None) -> dict[str, Any]:
    modality = {(True, True): "image,text", (True, False): "text"}.get((bool(words), bool(path)), "image")
    return {"did": did, "txt": words, "img_path": path, "modality": modality, "src_content": None}


def question(
    words: str | None, path: str | None, positives: list[str], negatives: Sequence[str] = ()
) -> dict[str, Any]:
    modality = {(True, True): "image,text", (True, False): "text"}.get((bool(words), bool(path)), "image")
    return {
        "qid": "1:1",
        "query_txt": words,
        "query_img_path": path,
        "query_modality": modality,
        "query_src_content": None,
        "pos_cand_list": positives,
        "neg_cand_list": list(negatives),
        "task_id": 0,
    }


# M-BEIR keeps all tasks of a data set in one file; the modalities of a query and its candidates tell them.
MBEIR_POOL = lines(
    candidate("1:1", "a red dress", None),
    candidate("1:2", None, "img/dress.jpg"),
    candidate("1:3", "a caption", "img/news.jpg"),
    candidate("1:4", None, "img/coat.jpg"),
    candidate("1:5", "another caption", "img/other.jpg"),
    candidate("1:6", "never asked for", None),
)
MBEIR = {
    "q.jsonl": lines(
        question("which dress", None, ["1:1"]),
        question("a dress", None, ["1:2", "1:4"], ["1:4"]),
        question(None, "img/dress.jpg", ["1:1"]),
        question("make it blue", "img/coat.jpg", ["1:2"], ["1:4"]),
        question("who wore it", None, ["1:3"], ["1:5", "1:1"]),
        question(None, "img/coat.jpg", ["1:2"]),
        question("what is this", "img/news.jpg", ["1:1"]),
        question("where is this", "img/other.jpg", ["1:3"]),
    ),
    "pool.jsonl": MBEIR_POOL,
}
DRESS, COAT = image("/m/img/dress.jpg"), image("/m/img/coat.jpg")
NEWS, OTHER = (
    {"text": "a caption", "image": "/m/img/news.jpg"},
    {"text": "another caption", "image": "/m/img/other.jpg"},
)


def mbeir(name: str, task: Task, pairs: Mapping[int, list[Pair]]) -> Case:
    """pairs: by row of MBEIR's queries; the other rows are of other tasks."""
    expected: list[Pair | None] = []
    for row in range(8):
        expected += pairs.get(row, [None])
    options = {"pool": "pool.jsonl", "root": "/m", "task": task.value}
    return Case(format=name, files=MBEIR, uri="q.jsonl", pairs=expected, task=task, options=options)


M2KR = {
    "q.parquet": pa.Table.from_pylist(
        [
            {
                "question_id": "1",
                "question": "How tall is it?",
                "img_path": "inat/1.jpg",
                "pos_item_ids": ["T_1", "T_2"],
                "pos_item_contents": ["a", "b"],
            },
            {
                "question_id": "2",
                "question": "Where?",
                "img_path": None,
                "pos_item_ids": ["T_1"],
                "pos_item_contents": ["a"],
            },
        ]
    ),
    "passages.parquet": pa.Table.from_pylist(
        [
            {"passage_id": "T_1", "passage_content": "It is 324 m tall.", "passage_image": "t1.jpg"},
            {"passage_id": "T_2", "passage_content": "It has three levels.", "passage_image": "t2.jpg"},
        ]
    ),
}
QUESTION = {"text": "How tall is it?", "image": "/i/inat/1.jpg"}
CASES = [
    Case(
        format="hotpotqa",
        task=Task.T2T,
        uri="qrels/train.tsv",
        files={
            "qrels/train.tsv": "query-id\tcorpus-id\tscore\n5a\t12\t1\n5a\t25\t1\n5b\t12\t0\n",
            "queries.jsonl": lines(
                {"_id": "5a", "text": "Who was born first?", "metadata": {}},
                {"_id": "5b", "text": "Which one?", "metadata": {}},
                {"_id": "5c", "text": "Not in train.", "metadata": {}},
            ),
            "corpus.jsonl": lines(
                {"_id": "12", "title": "Anna", "text": "Anna was born in 1900.", "metadata": {}},
                {"_id": "25", "title": "Bert", "text": "Bert was born in 1910.", "metadata": {}},
            ),
        },
        pairs=[
            (text("Who was born first?"), text("Anna Anna was born in 1900."), []),
            (text("Who was born first?"), text("Bert Bert was born in 1910."), []),
            None,  # a score of 0: not relevant
        ],
    ),
    mbeir("webqa", Task.T2T, {0: [(text("which dress"), text("a red dress"), [])]}),
    mbeir("webqa", Task.T2TI, {4: [(text("who wore it"), NEWS, [OTHER])]}),
    mbeir("edis", Task.T2TI, {4: [(text("who wore it"), NEWS, [OTHER])]}),
    mbeir(
        "fashion200k",
        Task.T2I,
        {1: [(text("a dress"), DRESS, [COAT]), (text("a dress"), COAT, [COAT])]},
    ),
    mbeir("fashion200k", Task.I2T, {2: [(DRESS, text("a red dress"), [])]}),
    mbeir(
        "visualnews",
        Task.T2I,
        {1: [(text("a dress"), DRESS, [COAT]), (text("a dress"), COAT, [COAT])]},
    ),
    mbeir("mscoco", Task.I2T, {2: [(DRESS, text("a red dress"), [])]}),
    mbeir("cirr", Task.TI2I, {3: [({"text": "make it blue", **COAT}, DRESS, [COAT])]}),
    mbeir("fashioniq", Task.TI2I, {3: [({"text": "make it blue", **COAT}, DRESS, [COAT])]}),
    mbeir("nights", Task.I2I, {5: [(COAT, DRESS, [])]}),
    mbeir(
        "oven",
        Task.TI2T,
        {6: [({"text": "what is this", "image": "/m/img/news.jpg"}, text("a red dress"), [])]},
    ),
    mbeir("oven", Task.TI2TI, {7: [({"text": "where is this", "image": "/m/img/other.jpg"}, NEWS, [])]}),
    Case(
        format="evqa",
        task=Task.TI2TI,
        uri="q.parquet",
        files=M2KR,
        options={"pool": "passages.parquet", "root": "/i"},
        pairs=[
            (QUESTION, {"text": "It is 324 m tall.", "image": "/i/t1.jpg"}, []),
            (QUESTION, {"text": "It has three levels.", "image": "/i/t2.jpg"}, []),
            None,
        ],
    ),
    Case(
        format="m2kr",
        task=Task.TI2T,
        uri="q.parquet",
        # As published, passages have no image.
        files={**M2KR, "passages.parquet": M2KR["passages.parquet"].drop_columns(["passage_image"])},
        options={"pool": "passages.parquet", "root": "/i"},
        pairs=[
            (QUESTION, text("It is 324 m tall."), []),
            (QUESTION, text("It has three levels."), []),
            None,
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}-{case.task}")
def test_the_published_form_is_read(case: Case, tmp_path: Path) -> None:
    assert_pairs(case, tmp_path)


@pytest.mark.parametrize(
    ("form", "uri", "files", "options", "message"),
    [
        (
            "cirr",
            "q.jsonl",
            {
                "q.jsonl": lines(question("x", "a.jpg", ["1:9"])),
                "pool.jsonl": lines(candidate("1:1", None, "b.jpg")),
            },
            {"pool": "pool.jsonl"},
            r"data\.d\.uri=.*q\.jsonl': row 1 \(line 1\) has pos_cand_list='1:9': .*pool\.jsonl has no such entry",
        ),
        (
            "cirr",
            "q.jsonl",
            {
                "q.jsonl": lines(question("x", "a.jpg", ["1:1"])),
                "pool.jsonl": lines({"did": "1:1", "txt": None, "img_path": {"bytes": "x"}}),
            },
            {"pool": "pool.jsonl"},
            r"pool\.jsonl: row 1 \(line 1\) has img_path=\{'bytes': 'x'\}: not a name",
        ),
        (
            "cirr",
            "q.jsonl",
            {"q.jsonl": lines({"query_txt": "x", "query_img_path": "a.jpg"}), "pool.jsonl": lines({"did": "1"})},
            {"pool": "pool.jsonl"},
            r"no column pos_cand_list among query_txt, query_img_path; name the columns",
        ),
        (
            "hotpotqa",
            "qrels/train.tsv",
            {
                "qrels/train.tsv": "query-id\tcorpus-id\tscore\n1\t2\t1\n",
                "queries.jsonl": lines({"_id": "1", "text": "q"}),
                "corpus.jsonl": lines({"_id": "3", "text": "t"}),
            },
            {},
            r"row 1 \(line 2\) has corpus-id='2': the corpus beside it has no such id",
        ),
    ],
)  # fmt: skip
def test_the_error_names_the_data_set_the_file_and_the_row(
    form: str,
    uri: str,
    files: Mapping[str, str],
    options: Mapping[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    assert_error(tmp_path, form, uri, files, options, message)


def test_the_mixture_has_the_task_and_the_negatives_of_a_public_data_set(tmp_path: Path) -> None:
    write(tmp_path, MBEIR)
    config = config_of(tmp_path, "fashion200k", "q.jsonl", {"pool": "pool.jsonl", "task": "I2T"})
    (loaded,) = load_mixture([config], tmp_path / "work", seed=1).values()
    assert (loaded.pairs.task, len(loaded.pairs), loaded.brings_negatives) == (Task.I2T, 1, False)
    assert (loaded.batch_size, loaded.negatives) == (64, 2)
