"""Each public data set of the mixture is read in the form in which it is published.

The files are a few made-up lines in that form; the pairs were worked out by hand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.config import load_config
from gve_ray.schema import Task
from gve_ray.training.config import DataSetConfig, TrainingJobConfig
from gve_ray.training.convert import convert
from gve_ray.training.formats import FORMATS
from gve_ray.training.mixture import check_sources, load_mixture
from gve_ray.training.records import task_of

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


def turns(image_path: str | None, *values: str) -> dict[str, Any]:
    conversation = [{"from": "gpt" if at % 2 else "human", "value": value} for at, value in enumerate(values)]
    row: dict[str, Any] = {"id": "1", "conversations": conversation}
    return row | ({"image": image_path} if image_path else {})


@dataclass(frozen=True, kw_only=True)
class Case:
    """A data set: its files by name, of which `uri` and `pool` are read, and the pairs in them."""

    format: str
    files: Mapping[str, str | pa.Table]
    uri: str
    pairs: list[Pair | None]
    task: Task
    options: dict[str, Any] = field(default_factory=dict)


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
# The keys of the rows of img2dataset: shard 00012, images 3 to 5. The second download failed.
IMG2DATASET = pa.Table.from_pylist(
    [
        {"url": "http://a/1", "caption": "a boat", "key": "000120003", "status": "success"},
        {"url": "http://a/2", "caption": "a car", "key": "000120004", "status": "failed_to_download"},
        {"url": "http://a/3", "caption": None, "key": "000120005", "status": "success"},
    ]
)
QUESTION = {"text": "How tall is it?", "image": "/i/inat/1.jpg"}
CASES = [
    Case(
        format="msmarco",
        task=Task.T2T,
        uri="train.jsonl",
        files={
            "train.jsonl": lines(
                {
                    "query_id": "7",
                    "query": "what is a vector",
                    "positive_passages": [
                        {"docid": "1", "title": "Vector", "text": "It has a direction."},
                        {"docid": "2", "title": "", "text": "An arrow."},
                    ],
                    "negative_passages": [{"docid": "3", "title": "", "text": "A scalar."}],
                },
                {"query_id": "8", "query": "unanswered", "positive_passages": [], "negative_passages": []},
            )
        },
        pairs=[
            (text("what is a vector"), text("Vector It has a direction."), [text("A scalar.")]),
            (text("what is a vector"), text("An arrow."), [text("A scalar.")]),
            None,
        ],
    ),
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
    Case(
        format="remuq",
        task=Task.TI2T,
        uri="train.json",
        files={
            "train.json": json.dumps(
                [
                    {
                        "question_id": "a",
                        "img_id": 30012,
                        "question": "What is on the roof?",
                        "ctxs": [
                            {"id": "1", "text": "A dome is on the roof."},
                            {"id": "2", "text": "More."},
                        ],
                        "answers": {"dome": 1},
                    },
                    {"question_id": "b", "img_id": 30013, "question": "Who?", "ctxs": [], "answers": {}},
                ]
            )
        },
        options={"root": "/i"},
        pairs=[
            (
                {"text": "What is on the roof?", "image": "/i/30012.jpg"},
                text("A dome is on the roof."),
                [],
            ),
            None,
        ],
    ),
    Case(
        format="llava",
        task=Task.TI2T,
        uri="llava.json",
        files={
            "llava.json": json.dumps(
                [
                    turns("coco/1.jpg", "<image>\nWhat is it?", "A bus.", "Which colour?\n", "Red."),
                    turns(None, "Write a poem.", "No."),
                ]
            )
        },
        options={"root": "/i"},
        pairs=[
            ({"text": "What is it?", "image": "/i/coco/1.jpg"}, text("A bus."), []),
            ({"text": "Which colour?", "image": "/i/coco/1.jpg"}, text("Red."), []),
            None,
        ],
    ),
    Case(
        format="cc3m",
        task=Task.T2I,
        uri="00012.parquet",
        files={"00012.parquet": IMG2DATASET},
        options={"root": "/cc3m"},
        pairs=[(text("a boat"), image("/cc3m/00012/000120003.jpg"), []), None, None],
    ),
    Case(
        format="cc3m",
        task=Task.I2T,
        uri="00012.parquet",
        files={"00012.parquet": IMG2DATASET},
        options={"root": "/cc3m", "task": "I2T"},
        pairs=[(image("/cc3m/00012/000120003.jpg"), text("a boat"), []), None, None],
    ),
    Case(
        format="laion",
        task=Task.T2I,
        uri="*.parquet",  # a file per shard
        files={"00012.parquet": IMG2DATASET, "00013.parquet": IMG2DATASET, "00012.tar": ""},
        options={"root": "/l"},
        pairs=[(text("a boat"), image("/l/00012/000120003.jpg"), []), None, None] * 2,
    ),
    Case(
        format="imagenet",
        task=Task.I2T,
        uri="train",
        files={
            "train/n01440764/n01440764_18.JPEG": "",
            "train/n02007558/n02007558_2.JPEG": "",
            "train/n02007558/.hidden": "",
            "LOC_synset_mapping.txt": "n01440764 tench, Tinca tinca\nn02007558 flamingo\n",
        },
        options={"pool": "LOC_synset_mapping.txt"},
        pairs=[
            (image("FOLDER/train/n01440764/n01440764_18.JPEG"), text("tench, Tinca tinca"), []),
            (image("FOLDER/train/n02007558/n02007558_2.JPEG"), text("flamingo"), []),
        ],
    ),
    Case(
        format="vl3_syn7m",
        task=Task.T2I,
        uri="short.jsonl",
        files={"short.jsonl": lines(turns("a/1.jpg", "<image>\nDescribe it briefly.", "A cat sleeps."))},
        options={"root": "/v"},
        pairs=[(text("A cat sleeps."), image("/v/a/1.jpg"), [])],
    ),
    Case(
        format="vl3_syn7m",
        task=Task.I2T,
        uri="detailed.jsonl",
        files={"detailed.jsonl": lines(turns("a/1.jpg", "<image>\nDescribe it.", "A grey cat sleeps."))},
        options={"root": "/v", "task": "I2T"},
        pairs=[(image("/v/a/1.jpg"), text("A grey cat sleeps."), [])],
    ),
    Case(
        format="vista_image",
        task=Task.TI2I,
        uri="edit.jsonl",
        files={
            "edit.jsonl": lines(
                {
                    "q_type": "mm_it",
                    "c_type": "image",
                    "query": ["e/1_0.jpg", "make it winter"],
                    "positive": "e/1_1.jpg",
                    "hard_negative": ["e/1_2.jpg", "e/1_3.jpg"],
                }
            )
        },
        options={"root": "/s"},
        pairs=[
            (
                {"text": "make it winter", "image": "/s/e/1_0.jpg"},
                image("/s/e/1_1.jpg"),
                [image("/s/e/1_2.jpg"), image("/s/e/1_3.jpg")],
            )
        ],
    ),
    Case(
        format="vista_text_image",
        task=Task.T2TI,
        uri="t2it.jsonl",
        files={
            "t2it.jsonl": lines(
                {
                    "q_type": "text",
                    "c_type": "mm_it",
                    "query": "where do puffins nest",
                    "positive": ["p/1.jpg", "They nest in burrows."],
                    "hard_negative": [["p/2.jpg", "They eat fish."]],
                }
            )
        },
        options={"root": "/s"},
        pairs=[
            (
                text("where do puffins nest"),
                {"text": "They nest in burrows.", "image": "/s/p/1.jpg"},
                [{"text": "They eat fish.", "image": "/s/p/2.jpg"}],
            )
        ],
    ),
    Case(
        format="internvid_flt",
        task=Task.T2V,
        uri="flt.jsonl",
        files={
            "flt.jsonl": lines(
                *(
                    {
                        "YoutubeID": "HdYoyzCSWyw",
                        "Start_timestamp": "00:03:10.567",
                        "End_timestamp": "00:03:11.200",
                        "Caption": "a woman types",
                        "Aesthetic_Score": score,
                        "UMT_Score": 0.4,
                    }
                    for score in (4.58, 3.99, None, 4.0)
                )
            )
        },
        options={"minimum": {"Aesthetic_Score": 4.0}},
        pairs=[
            (text("a woman types"), video("HdYoyzCSWyw_00:03:10.567_00:03:11.200.mp4"), []),
            None,
            None,
            (text("a woman types"), video("HdYoyzCSWyw_00:03:10.567_00:03:11.200.mp4"), []),
        ],
    ),
    Case(
        format="pe_video",
        task=Task.T2V,
        uri="*/*.json",
        files={
            "000/a.json": json.dumps({"human_caption": "A man swims.", "model_caption": "A person."}),
            "000/a.mp4": "",
            "001/b.json": json.dumps({"model_caption": "Not refined by a person."}),
        },
        pairs=[(text("A man swims."), video("FOLDER/000/a.mp4"), []), None],
    ),
    Case(
        format="webvid",
        task=Task.T2V,
        uri="results.csv",
        files={
            "results.csv": "videoid,contentUrl,duration,page_dir,name\n"
            "1,u,d,000_050,Aerial view\n"
            "2,u,d,000_050,A harbour\n"
            "3,u,d,051_100,Aerial view\n"
            "2,u,d,000_050,A harbour\n"
        },
        options={"drop_repeated": True, "root": "/w"},
        # A caption of two videos is dropped; a row that is there twice names one video.
        pairs=[
            None,
            (text("A harbour"), video("/w/000_050/2.mp4"), []),
            None,
            (text("A harbour"), video("/w/000_050/2.mp4"), []),
        ],
    ),
    Case(
        format="table",
        task=Task.TI2TI,
        uri="mine.csv",
        files={"mine.csv": "q,qi,t,ti,n\nwhat,a.jpg,this,b.jpg,\n"},
        options={
            "task": "TI2TI",
            "columns": {"query": "q", "query_image": "qi", "target": "t", "target_image": "ti"},
        },
        pairs=[({"text": "what", "image": "a.jpg"}, {"text": "this", "image": "b.jpg"}, [])],
    ),
]


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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}-{case.task}")
def test_the_published_form_is_read(case: Case, tmp_path: Path) -> None:
    write(tmp_path, case.files)
    config = config_of(tmp_path, case.format, case.uri, case.options)
    check_sources([config])
    rows = list(convert(config))
    expected = json.loads(json.dumps(case.pairs).replace("FOLDER", str(tmp_path)))
    assert [row and list(row) for row in map(sides, rows)] == expected
    assert {row["task"] for row in rows if row} == {case.task.value}


def test_every_data_set_has_a_case() -> None:
    covered = {case.format for case in CASES} | {"vast"}  # its captions are drawn at random: see below
    forms = set(list(FORMATS)[: list(FORMATS).index("msmarco")])
    assert set(FORMATS) - forms <= covered


def test_one_caption_of_a_clip_of_vast_is_drawn_by_its_row(tmp_path: Path) -> None:
    rows = [
        {"clip_id": f"c{i}.1", "vision_cap": [f"{i} a", f"{i} b", f"{i} c"], "audio_cap": ["noise"]}
        for i in range(300)
    ]
    write(tmp_path, {"vast.json": json.dumps(rows)})
    config = config_of(tmp_path, "vast", "vast.json", {"root": "/v"})
    pairs = [row for row in convert(config) if row]
    assert [row["target"]["video"] for row in pairs] == [f"/v/c{i}.1.mp4" for i in range(300)]
    drawn = [row["query"]["text"].split() for row in pairs]
    assert [int(row) for row, _ in drawn] == list(range(300))
    counts = {caption: sum(c == caption for _, c in drawn) for caption in "abc"}
    assert min(counts.values()) > 60  # 100 each are expected; the standard deviation is 8
    assert [row and row["query"]["text"] for row in convert(config)] == [" ".join(parts) for parts in drawn]


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
            "llava",
            "l.json",
            {"l.json": json.dumps([{"image": "a.jpg", "conversations": ["Hi"]}])},
            {},
            r"row 1 has conversations=\['Hi'\]: not a list of turns",
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
        (
            "imagenet",
            "train",
            {"train/n1/a.JPEG": "", "words.txt": "n2 flamingo\n"},
            {"pool": "words.txt"},
            r"n1/a\.JPEG: .*words\.txt has no class 'n1'; add a line",
        ),
        ("pe_video", "*.json", {"a.json": "{"}, {}, r"a\.json: not JSON"),
        (
            "internvid_flt",
            "i.jsonl",
            {"i.jsonl": lines({"YoutubeID": "a", "Start_timestamp": 1, "End_timestamp": 2, "Caption": "x", "S": "?"})},
            {"minimum": {"S": 1}},
            r"row 1 \(line 1\) has S='\?': not a number",
        ),
        (
            "vista_text_image",
            "t.jsonl",
            {"t.jsonl": lines({"query": "x", "positive": "a.jpg", "hard_negative": []})},
            {},
            r"row 1 \(line 1\) has \{positive\[1\]\}='a\.jpg': not a list, but its element 1 is read",
        ),
        (
            "msmarco",
            "m.jsonl",
            {"m.jsonl": lines({"query": "x", "positive_passages": [{"docid": "1"}]})},
            {},
            r"row 1 \(line 1\) has positive_passages=\{'docid': '1'\}: not a passage",
        ),
        (
            "laion",
            "*.jsonl",
            {"1.jsonl": lines({"caption": "x", "key": "1"}), "2.jsonl": "{\n"},
            {},
            r"2\.jsonl: row 1 \(line 1\): not JSON",
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
    write(tmp_path, files)
    with pytest.raises(ValueError, match=message) as caught:
        list(convert(config_of(tmp_path, form, uri, options)))
    assert str(caught.value).startswith("data.d.uri=")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "cirr"}, r"data\.u\.pool='': cirr needs the file"),
        ({"format": "webvid", "pool": "x"}, r"data\.u\.pool='x': webvid refers to no other file"),
        ({"format": "cc3m", "task": "T2V"}, r"data\.u\.task=T2V: cc3m makes T2I, I2T"),
        ({"task": "T2V"}, r"data\.u\.task=T2V: a `pairs` folder names its tasks"),
        ({"format": "webvid", "columns": {"video": "{a"}}, r"data\.u\.columns\.video='\{a': write a column"),
        ({"format": "msmarco", "drop_repeated": True}, r"data\.u\.drop_repeated: msmarco has no captions"),
        ({"minimum": {"x": 1.0}}, r"data\.u\.minimum: pairs has no columns"),
    ],
)
def test_options_that_a_format_does_not_have_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataSetConfig(**{"name": "u", "uri": "x"} | options)


@pytest.mark.parametrize(
    ("form", "uri", "options", "message"),
    [
        ("cirr", "q.jsonl", {"pool": "no.jsonl"}, r"data\.d\.pool=.*no\.jsonl: no such file"),
        ("laion", "*.parquet", {}, r"data\.d\.uri=.*\*\.parquet: no file matches"),
        ("imagenet", "q.jsonl", {"pool": "q.jsonl"}, r"data\.d\.uri=.*: no such folder of class folders"),
        ("hotpotqa", "q.jsonl", {}, r"no .*corpus\.jsonl beside it"),
    ],
)
def test_missing_files_are_found_before_training(
    form: str, uri: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "q.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=message):
        check_sources([config_of(tmp_path, form, uri, options)])


def test_the_mixture_has_the_task_and_the_negatives_of_a_public_data_set(tmp_path: Path) -> None:
    write(tmp_path, MBEIR)
    config = config_of(tmp_path, "fashion200k", "q.jsonl", {"pool": "pool.jsonl", "task": "I2T"})
    (loaded,) = load_mixture([config], tmp_path / "work", seed=1).values()
    assert (loaded.pairs.task, len(loaded.pairs), loaded.brings_negatives) == (Task.I2T, 1, False)
    assert (loaded.batch_size, loaded.negatives) == (64, 2)


# arXiv:2510.27571, Table 6: task, pairs for the 3B model, hard negatives, and batch size per GPU.
TABLE_6 = """
MSMARCO T2T 300000 2 64
HotpotQA T2T 69000 1 64
WebQA-text T2T 11000 1 32
CIRR TI2I 16000 1 32
Fashion200K T2I 4000 1 32
Nights I2I 13000 1 32
OVEN-it TI2TI 20000 1 64
OVEN-t TI2T 20000 1 64
VisualNews T2I 40000 1 64
EDIS T2TI 12000 1 32
FashionIQ TI2I 4000 1 32
MSCOCO I2T 4000 1 32
REMUQ TI2T 5000 1 32
WebQA-image T2TI 12000 1 32
LLAVA TI2T 20000 1 64
EVQA TI2TI 20000 1 64
CC3M-t2i T2I 200000 3 32
CC3M-i2t I2T 100000 2 64
Laion-t2i T2I 300000 3 32
Laion-i2t I2T 200000 2 64
ImageNet I2T 100000 2 32
VL3-Syn7M-short-t2i T2I 300000 3 32
VL3-Syn7M-short-i2t I2T 100000 2 64
VL3-Syn7M-detailed-t2i T2I 200000 3 32
VL3-Syn7M-detailed-i2t I2T 100000 2 64
VISTA-i TI2I 100000 2 32
VISTA-ti T2TI 20000 1 64
VAST T2V 1600000 0 32
InternVid-FLT T2V 1700000 0 32
PE-Video T2V 104000 1 64
WebVid T2V 5400000 0 32
"""


def test_the_recipe_of_the_whole_mixture_has_the_figures_of_the_paper() -> None:
    config = load_config(TrainingJobConfig, ["--config", "gve-3b-full.yaml"], prog="train.py")
    *public, uvrd = config.data
    listed = [
        f"{entry.name} {task_of(entry).value} {entry.sample} {entry.negatives} {entry.batch_size}"
        for entry in public
    ]
    assert [line.lower() for line in listed] == TABLE_6.lower().strip().splitlines()
    assert (uvrd.name, uvrd.format) == ("uvrd", "pairs")
    instructions = [entry.instruction for entry in public]
    assert all(instructions)
    assert len(set(instructions)) == len(instructions)
    plain = load_config(TrainingJobConfig, ["--config", "gve-3b.yaml"], prog="train.py")
    assert replace(config, data=plain.data, output=plain.output) == plain
