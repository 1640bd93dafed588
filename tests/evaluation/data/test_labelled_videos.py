"""Zero-shot classification: folders and tables of labelled videos as retrieval sets, and their
scores.
"""

import os
from pathlib import Path

import pytest
from PIL import Image

from gve_ray.evaluation.config import DataConfig
from gve_ray.evaluation.data.labelled_videos import classification, classification_line, load_classes, words


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"only the name matters")
    return path


@pytest.mark.parametrize(
    "name,expected",
    [
        ("brush_hair", "brush hair"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("playing violin", "playing violin"),
        ("YoYo", "Yo Yo"),
        ("TV", "TV"),
    ],
)
def test_class_folder_names_are_split_into_words(name: str, expected: str) -> None:
    assert words(name) == expected


def test_a_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path / "pull_up/b.mp4")
    touch(tmp_path / "pull_up/a.AVI")
    touch(tmp_path / "pull_up/notes.txt")
    touch(tmp_path / "BrushHair/c.webm")
    touch(tmp_path / "BrushHair/.hidden.mp4")
    touch(tmp_path / "readme.mp4")  # not in a class folder, so ignored
    (tmp_path / "BrushHair/frames").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "BrushHair/frames/0.png")
    (tmp_path / "empty/nothing").mkdir(parents=True)
    result = load_classes(tmp_path, name="set", template="someone does this: {label}.")
    assert result.query_ids == ["BrushHair/c.webm", "BrushHair/frames", "pull_up/a.AVI", "pull_up/b.mp4"]
    assert [entry.video for entry in result.queries] == [str(tmp_path / entry) for entry in result.query_ids]
    assert result.corpus_ids == ["BrushHair", "pull_up"]
    assert [entry.text for entry in result.corpus] == [
        "someone does this: Brush Hair.",
        "someone does this: pull up.",
    ]
    assert result.positives["pull_up/b.mp4"] == {"pull_up"}
    assert result.candidates is None
    first, second = map(str, result.skipped)
    assert first.startswith("set: pull_up: 1 files are not videos") or second.startswith("set: pull_up: 1")
    assert any(
        "'empty/nothing': not found as a file or a folder of frames" in entry for entry in (first, second)
    )


def test_a_table_of_labels(tmp_path: Path) -> None:
    relative, absolute = touch(tmp_path / "videos/a.mp4"), touch(tmp_path / "elsewhere/b.mp4")
    table = tmp_path / "val.csv"
    table.write_text(
        f"label,video,split\nopens_a_door,videos/a.mp4,val\nSits Down,{absolute},val\n"
        "waves,videos/a.mp4,val\nwaves,,val\n,videos/a.mp4,val\nwaves,videos/gone.mp4,val\n"
    )
    result = load_classes(table, name="set")
    gone = str(tmp_path / "videos/gone.mp4")  # a miss of every model
    assert [entry.video for entry in result.queries] == [str(relative), str(absolute), gone]
    assert [entry.text for entry in result.corpus] == ["Sits Down", "opens_a_door", "waves"]  # unchanged
    assert result.positives["videos/a.mp4"] == {"opens_a_door"}
    assert [str(entry).split(": ", 2)[1:] for entry in result.skipped] == [
        ["val.csv line 4", "video 'videos/a.mp4': listed twice; its first label, 'opens_a_door', is used"],
        ["val.csv line 5", "empty video"],
        ["val.csv line 6", "video 'videos/a.mp4': empty label"],
    ]


@pytest.mark.parametrize(
    "name, text",
    [
        ("val.jsonl", '{"video": "a.mp4", "label": "waves"}\n{"video": "7.mp4", "label": 3.0}\n'),
        ("val.json", '[{"video": "a.mp4", "label": "waves"}, {"video": "7.mp4", "label": 3}]'),
        ("val.tsv", "video\tlabel\na.mp4\twaves\n7.mp4\t3\n"),
        ("excel.csv", "\ufeffvideo;label\r\na.mp4;waves\r\n7.mp4;3\r\n"),
    ],
)
def test_table_formats(name: str, text: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4"), touch(tmp_path / "7.mp4")
    (tmp_path / name).write_text(text)
    result = load_classes(tmp_path / name, name="set")
    assert ([str(entry) for entry in result.skipped], result.query_ids) == ([], ["a.mp4", "7.mp4"])
    assert result.positives == {"a.mp4": {"waves"}, "7.mp4": {"3"}}


def test_invalid_table_rows_are_reported(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    rows = "a.mp4,opens, then closes\na.mp4\na.mp4,nan\nNone,waves\na.mp4,waves\n"
    (tmp_path / "val.csv").write_text("video,label\n" + rows)
    (tmp_path / "val.jsonl").write_text(
        '{"video": "a.mp4", "label": ["waves", "runs"]}\n{"video": {}, "label": "waves"}\n'
    )
    result = load_classes(tmp_path / "val.csv", name="set")
    assert (result.query_ids, result.corpus_ids) == (["a.mp4"], ["waves"])
    assert [error.where for error in result.skipped] == [f"val.csv line {n}" for n in (2, 3, 4, 5)]
    assert [
        str(entry).split(": ", 2)[2] for entry in load_classes(tmp_path / "val.jsonl", name="set").skipped[:2]
    ] == [
        "video 'a.mp4': label=['waves', 'runs']: not a label",
        "video={}: not a path",
    ]


def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    touch(tmp_path / "waves/a.mp4")
    with open(os.fsencode(tmp_path) + b"/waves/caf\xe9.mp4", "wb"):
        pass
    result = load_classes(tmp_path, name="set")
    assert result.query_ids == ["waves/a.mp4"]
    assert [str(entry) for entry in result.skipped] == [
        "set: waves: 'waves/caf\\udce9.mp4': the name is not UTF-8; rename it"
    ]


def test_invalid_tables_and_templates_are_reported(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("path,label\n")
    assert "no column video" in str(load_classes(tmp_path / "bad.csv", name="s").skipped[0])
    (tmp_path / "binary.csv").write_bytes(b"video,label\n\xff\xfe,x\n")
    assert "line 2: byte 0xff" in str(load_classes(tmp_path / "binary.csv", name="s").skipped[0])
    assert "no videos" in str(load_classes(tmp_path / "nowhere", name="s").skipped[0])
    with pytest.raises(ValueError, match=r"data\.x\.template='a video': put \{label\}"):
        DataConfig(name="x", folder="x", format="classes", template="a video")


def test_accuracy_and_confusion() -> None:
    labels = ["a", "b", "c", "d", "e", "f"]
    rankings = {
        "1": labels,  # a is correct: rank 1
        "2": labels[::-1],  # b is correct: rank 5
        "3": labels[::-1],  # a is correct: rank 6
        "4": ["b", *labels[:1], *labels[2:]],  # a is correct: rank 2
    }
    positives = {"1": {"a"}, "2": {"b"}, "3": {"a"}, "4": {"a"}}
    result = classification(rankings, positives, n_labels=6)
    assert (result["accuracy@1"]["score"], result["accuracy@5"]["score"]) == (0.25, 0.75)
    assert result["confusion"] == {"a": {"a": 1, "f": 1, "b": 1}, "b": {"f": 1}}
    assert (result["n_labels"], result["chance"]) == (6, pytest.approx(1 / 6))
    result["accuracy@1"]["interval"], result["accuracy@5"]["interval"] = [0.0, 0.75], None
    assert classification_line(result) == "accuracy@1 0.250 [0.000, 0.750], accuracy@5 0.750 of 6 labels"


def test_a_video_that_could_not_be_read_is_a_miss() -> None:
    result = classification({"1": ["a", "b"], "2": []}, {"1": {"a"}, "2": {"a"}}, n_labels=2)
    assert (result["accuracy@1"]["score"], result["accuracy@5"]["score"]) == (0.5, 0.5)
    assert result["confusion"] == {"a": {"a": 1}}
