"""Data sets whose rows have query and target are read in the form in which they are published.

The files are a few made-up lines in that form; the pairs were worked out by hand.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.schema import Task
from gve_ray.training.convert import convert
from tests.training.readers.cases import (
    Case,
    assert_error,
    assert_pairs,
    config_of,
    image,
    lines,
    text,
    video,
    write,
)


def turns(image_path: str | None, *values: str) -> dict[str, Any]:
    conversation = [{"from": "gpt" if at % 2 else "human", "value": value} for at, value in enumerate(values)]
    row: dict[str, Any] = {"id": "1", "conversations": conversation}
    return row | ({"image": image_path} if image_path else {})


# The keys of the rows of img2dataset: shard 00012, images 3 to 5. The second download failed.
IMG2DATASET = pa.Table.from_pylist(
    [
        {"url": "http://a/1", "caption": "a boat", "key": "000120003", "status": "success"},
        {"url": "http://a/2", "caption": "a car", "key": "000120004", "status": "failed_to_download"},
        {"url": "http://a/3", "caption": None, "key": "000120005", "status": "success"},
    ]
)
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}-{case.task}")
def test_the_published_form_is_read(case: Case, tmp_path: Path) -> None:
    assert_pairs(case, tmp_path)


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
            "llava",
            "l.json",
            {"l.json": json.dumps([{"image": "a.jpg", "conversations": ["Hi"]}])},
            {},
            r"row 1 has conversations=\['Hi'\]: not a list of turns",
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
    assert_error(tmp_path, form, uri, files, options, message)
