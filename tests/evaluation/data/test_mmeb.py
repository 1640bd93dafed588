"""Reads made-up trees in the form of MMEB-V2's video tasks: its file names, columns and folders of frames."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.config import ModelConfig
from gve_ray.evaluation.config import DataConfig, EvaluationJobConfig
from gve_ray.evaluation.data.eval_sets import find_eval_sets, open_eval_sets
from gve_ray.evaluation.data.layouts import check_media
from gve_ray.evaluation.data.mmeb import MMEB, find_mmeb, load_mmeb
from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.job import PreflightError
from gve_ray.media import encode_jpeg
from gve_ray.schema import Item
from gve_ray.store import SharedFolder

QUESTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer."
)


def write_rows(root: Path, file: str, rows: list[dict[str, Any]]) -> None:
    """Write a file of rows below video-tasks/data, in the form that its name says."""
    path = root / "video-tasks/data" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_frames(root: Path, folder: str, n: int = 2) -> None:
    """A folder of frames below video-tasks/frames."""
    path = root / "video-tasks/frames" / folder
    path.mkdir(parents=True)
    for i in range(n):
        (path / f"frame_{i:04d}.jpg").write_bytes(encode_jpeg(np.full((32, 32, 3), 90 * i, np.uint8)))


def uploaded(folder: Path, uri: str) -> str:
    target = SharedFolder(uri)
    shutil.copytree(folder / "video-tasks", target.path / "video-tasks")
    target.publish()
    return uri


def frames_of(root: Path, item: Item) -> str | None:
    """The folder of an item's frames, below video-tasks/frames."""
    return None if item.video is None else str(Path(str(item.video)).relative_to(root / "video-tasks/frames"))


def answers(data: RetrievalSet) -> list[tuple[set[str], tuple[str, ...]]]:
    """The right corpus ids of each query, and its candidates."""
    assert data.candidates is not None
    return [(set(data.positives[key]), data.candidates[key]) for key in data.query_ids]


@pytest.mark.parametrize(
    "name,file,frames,classes",
    [
        ("HMDB51", "HMDB51/data/test.jsonl", "HMDB51", 51),
        ("UCF101", "UCF101/data/test.jsonl", "UCF101", 101),
        ("K700", "Kinetics-700/data/test.jsonl", "K700", 700),
        ("Breakfast", "Breakfast/data/test.jsonl", "Breakfast", 10),
    ],
)
def test_a_video_of_a_classification_ranks_all_classes(
    tmp_path: Path, name: str, file: str, frames: str, classes: int
) -> None:
    write_rows(tmp_path, file, [{"video_id": "a", "pos_text": "new_class"}])
    write_rows(tmp_path, file.replace("test", "train"), [{"video_id": "b", "pos_text": "new_class"}])
    data = load_mmeb(tmp_path, name=f"MMEB-{name}")
    assert data.query_ids == ["data/test.jsonl:1"]
    assert frames_of(tmp_path, data.queries[0]) == f"video_cls/{frames}/a"
    assert data.queries[0].text is None
    assert data.queries[0].instruction
    assert len(data.corpus) == classes + 1  # a class of a row that is not in the list is a candidate, too
    assert data.positives["data/test.jsonl:1"] == {"new_class"}
    assert data.candidates is None
    assert not data.skipped


def test_something_something_has_own_candidates_and_1000_rows(tmp_path: Path) -> None:
    row = {
        "video_id": 7,
        "pos_text": "Closing something",
        "neg_text": ["Opening something", "Closing something"],
    }
    write_rows(tmp_path, "SmthSmthV2/data/test.jsonl", [row] * 1001)
    data = load_mmeb(tmp_path, name="MMEB-SmthSmthV2")
    assert len(data.queries) == 1000
    assert frames_of(tmp_path, data.queries[0]) == "video_cls/SSv2/7"
    assert answers(data)[0] == ({"Closing something"}, ("Closing something", "Opening something"))


@pytest.mark.parametrize(
    "name,file,row,video",
    [
        ("MSR-VTT", "MSR-VTT/msrvtt_test_1k.json", {"video_id": "video7", "caption": "a dog"}, "video7"),
        ("MSVD", "MSVD/msvd_test.json", {"video_id": "x_1_5", "caption": ["a dog", "an animal"]}, "x_1_5"),
        ("DiDeMo", "DiDeMo/didemo_test.json", {"video": "test/1@N_2.mp4", "caption": "a dog"}, "1@N_2"),
        ("YouCook2", "YouCook2/data/val-00000-of-00001.parquet", {"id": "xY_3", "sentence": "a dog"}, "xY_3"),
        ("VATEX", "VATEX/vatex_test.json", {"videoID": "Q_1_11", "enCap": ["a dog", "it runs"]}, "Q_1_11"),
    ],
)
def test_a_caption_ranks_all_videos(
    tmp_path: Path, name: str, file: str, row: dict[str, Any], video: str
) -> None:
    write_rows(tmp_path, file, [row])
    write_rows(tmp_path, file.replace("test_1k", "test").replace("_test", "_train"), [row])
    data = load_mmeb(tmp_path, name=f"MMEB-{name}")
    assert [item.text for item in data.queries] == ["a dog"]
    assert data.corpus_ids == [video]
    assert data.positives[data.query_ids[0]] == {video}
    assert frames_of(tmp_path, data.corpus[0]) == f"video_ret/{name}/{video}"
    assert data.corpus[0].instruction is None
    assert data.candidates is None
    assert not data.skipped


@pytest.mark.parametrize("name,frames", [("QVHighlight", "QVHighlight"), ("Charades-STA", "Charades_STA")])
def test_a_moment_ranks_the_clips_in_the_folder_of_its_video(tmp_path: Path, name: str, frames: str) -> None:
    base = f"video_mret/{frames}"
    for clip in ("query", "positive", "negative_0", "negative_1"):
        write_frames(tmp_path, f"{base}/v1_0.0_9.5/{clip}")
    rows = [{"query": "she waves", "video_path": f"videos/{video}.mp4"} for video in ("v1_0.0_9.5", "v2")]
    write_rows(tmp_path, f"{name}/test.jsonl", rows)
    data = load_mmeb(tmp_path, name=f"MMEB-{name}")
    (query,) = data.queries
    assert (query.text, frames_of(tmp_path, query)) == ("she waves", f"{base}/v1_0.0_9.5/query")
    assert answers(data) == [
        (
            {"v1_0.0_9.5/positive"},
            tuple(f"v1_0.0_9.5/{clip}" for clip in ("negative_0", "negative_1", "positive")),
        )
    ]
    assert [frames_of(tmp_path, item) for item in data.corpus] == [
        f"{base}/{name}" for name in data.corpus_ids
    ]
    assert ["no folder v2/positive*" in str(error) for error in data.skipped] == [True]


def test_moment_seeker_has_three_kinds_of_queries(tmp_path: Path) -> None:
    clips: dict[str, Any] = {
        "positive_frames": [{"output_path": "videos/ego/1_0_4.mp4"}],
        "negative_frames": [{"output_path": "videos/ego/1_4_8.mp4"}],
    }
    given = ("", "videos/ego/9.mp4", "3.jpg")
    write_rows(
        tmp_path,
        "MomentSeeker/MomentSeeker.jsonl",
        [{"query": "a cup", "input_frames": path, **clips} for path in given],
    )
    data = load_mmeb(tmp_path, name="MMEB-MomentSeeker")
    base = "video_mret/MomentSeeker"
    assert [frames_of(tmp_path, query) for query in data.queries] == [
        None,
        f"{base}/video_frames/videos_ego_9",
        None,
    ]
    assert data.queries[2].image == str(tmp_path / f"video-tasks/frames/{base}/query_3.jpg")
    assert len({query.instruction for query in data.queries}) == 3
    assert answers(data) == [({"videos/ego/1_0_4.mp4"}, ("videos/ego/1_0_4.mp4", "videos/ego/1_4_8.mp4"))] * 3
    assert frames_of(tmp_path, data.corpus[0]) == f"{base}/video_frames/videos_ego_1_0_4"


@pytest.mark.parametrize(
    "name,file,row,frames,text,right,candidates",
    [
        (
            "Video-MME",
            "Video-MME/videomme/test-00000-of-00001.parquet",
            {"videoID": "fFj", "question": "Who?", "options": ["A. A man.", "B. A cat."], "answer": "B"},
            "Video-MME/fFj",
            "Who?\nA. A man.\nB. A cat.",
            "A cat",
            ("A man", "A cat"),
        ),
        (
            "NExTQA",
            "NExTQA/MC/test-00000-of-00001.parquet",
            {"video": 474, "question": "why", "answer": 4, **{f"a{i}": f"reason {i}" for i in range(5)}},
            "NExTQA/474",
            "why\nOptions:\n(A) reason 0\n(B) reason 1\n(C) reason 2\n(D) reason 3\n(E) reason 4",
            "reason 4",
            tuple(f"reason {i}" for i in range(5)),
        ),
        (
            "EgoSchema",
            "EgoSchema/Subset/test-00000-of-00001.parquet",
            {
                "video_idx": "00aa",
                "question": "What?",
                "option": ["A. C cooks.", "B. C eats."],
                "answer": "0",
            },
            "EgoSchema/00aa",
            "What?A. C cooks. B. C eats.",
            "C cooks",
            ("C cooks", "C eats"),
        ),
        (
            "MVBench",
            "MVBench/json/object_shuffle.json",
            {"video": "v_1.mp4", "question": "Where?", "candidates": ["left", "right"], "answer": "right"},
            "MVBench/object_shuffle/v_1.mp4",
            "Where?\nOptions:\n(A) left\n(B) right",
            "(B) right",
            ("(A) left", "(B) right"),
        ),
        (
            "ActivityNetQA",
            "ActivityNetQA/data/test-00000-of-00001.parquet",
            {"video_name": "1QI", "question": "is it blue", "answer": "no"},
            "ActivityNetQA/v_1QI",
            "is it blue? (A) yes; (B) no.",
            "no",
            ("yes", "no"),
        ),
    ],
)
def test_a_question_about_a_video_ranks_its_options(
    tmp_path: Path,
    name: str,
    file: str,
    row: dict[str, Any],
    frames: str,
    text: str,
    right: str,
    candidates: tuple[str, ...],
) -> None:
    write_rows(tmp_path, file, [row])
    write_rows(tmp_path, f"{name}/OE/train-00000-of-00001.parquet", [row])
    data = load_mmeb(tmp_path, name=f"MMEB-{name}")
    (query,) = data.queries
    assert query.text == f"Question: {text}"
    assert query.instruction == QUESTION
    assert frames_of(tmp_path, query) == f"video_qa/{frames}"
    assert answers(data) == [({right}, candidates)]
    assert [item.text for item in data.corpus] == list(candidates)
    assert not data.skipped


def test_every_row_is_a_query_or_an_error(tmp_path: Path) -> None:
    good = {"video_idx": "a", "question": "What?", "option": ["A. x.", "B. y."], "answer": "1"}
    bad: list[tuple[dict[str, Any], str]] = [
        ({"answer": "2"}, "answer='2': not the number of one of 2 options"),
        ({"option": []}, "option=[]: not a list of texts"),
        ({"option": ["A. x.", None]}, "option=None: not a text"),
        ({"question": " "}, "question=' ': not a text"),
        ({"video_idx": None}, "video_idx=None: not an id"),
        ({"video_idx": "../a"}, "'../a': not a path inside the folder of frames"),
        ({"option": ["A. y.", "B. y."]}, "its candidates contain no negative"),
    ]
    rows = [good, *({**good, **change} for change, _ in bad)]
    write_rows(tmp_path, "EgoSchema/Subset/test.jsonl", rows)
    data = load_mmeb(tmp_path, name="MMEB-EgoSchema")
    assert len(data.queries) + len(data.skipped) == len(rows)
    for number, (error, (_, message)) in enumerate(zip(data.skipped, bad, strict=True), 2):
        assert message in str(error)
        assert f"line {number}" in error.where


def test_media_are_checked_and_missing_frames_are_reported(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        "Breakfast/data/test.jsonl",
        [{"video_id": video, "pos_text": "tea"} for video in ("a", "b")],
    )
    write_frames(tmp_path, "video_cls/Breakfast/a")
    data = load_mmeb(tmp_path, name="MMEB-Breakfast")
    assert len(data.queries) == 2
    (error,) = check_media(data, frames=2)
    assert "video_cls/Breakfast/b" in str(error)


def test_a_folder_behind_a_uri_is_read(tmp_path: Path, s3: str) -> None:
    for clip in ("query", "positive", "negative_0"):
        write_frames(tmp_path, f"video_mret/QVHighlight/v/{clip}")
    write_rows(tmp_path, "QVHighlight/test.jsonl", [{"query": "she waves", "video_path": "v.mp4"}])
    uri = uploaded(tmp_path, f"{s3}/MMEB-V2")
    local, remote = (load_mmeb(folder, name="MMEB-QVHighlight") for folder in (tmp_path, f"{uri}/"))
    assert (local.query_ids, local.candidates) == (remote.query_ids, remote.candidates)
    frames = f"{uri}/video-tasks/frames/video_mret/QVHighlight/v"
    assert remote.queries[0].video == f"{frames}/query/"
    assert [item.video for item in remote.corpus] == [f"{frames}/negative_0/", f"{frames}/positive/"]
    assert remote.skipped + check_media(remote, frames=2) == []
    assert find_mmeb(uri) == ["MMEB-QVHighlight"]


def job(tmp_path: Path, **changes: Any) -> EvaluationJobConfig:
    return EvaluationJobConfig(
        models=(ModelConfig(name="m", model="package://demo/tiny_vl/model"),),
        output=str(tmp_path / "out"),
        **changes,
    )


def test_root_finds_what_was_downloaded(tmp_path: Path) -> None:
    write_rows(tmp_path, "Breakfast/data/test.jsonl", [{"video_id": "a", "pos_text": "tea"}])
    write_rows(
        tmp_path, "ActivityNetQA/test.jsonl", [{"video_name": "a", "question": "is it", "answer": "no"}]
    )
    write_frames(tmp_path, "video_ret/MSVD/x")
    configs = find_eval_sets(job(tmp_path, root=str(tmp_path)))
    assert [config.name for config in configs] == ["MMEB-Breakfast", "MMEB-MSVD", "MMEB-ActivityNetQA"]
    breakfast, msvd, questions = open_eval_sets(configs, ItemIndex(tmp_path / "cache"))
    assert {dataset.metric for dataset in (breakfast, msvd, questions)} == {"hit@1"}
    assert [dataset.is_classification for dataset in (breakfast, msvd, questions)] == [True, False, True]
    assert breakfast.queries[0].instruction == MMEB["MMEB-Breakfast"].prompt
    (error,) = msvd.data.skipped
    assert "Download the data set VLM2Vec/MSVD" in str(error)
    own = replace(configs[0], prompt="Name the dish.", metric="hit@5")
    (breakfast,) = open_eval_sets([own], ItemIndex(tmp_path / "cache"))
    assert (breakfast.queries[0].instruction, breakfast.metric) == ("Name the dish.", "hit@5")


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    data = (DataConfig(name="HMDB51", folder=str(tmp_path), format="mmeb"),)
    with pytest.raises(
        PreflightError, match=r"data.HMDB51.*not a video data set of MMEB-V2; use .*MMEB-HMDB51"
    ):
        find_eval_sets(job(tmp_path, data=data))
