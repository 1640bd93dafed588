"""Zero-shot classification: folders and tables of labelled videos as retrieval sets, and what is scored."""

import os
from pathlib import Path

import pytest
from PIL import Image

from gve_ray.evaluation.config import DataConfig
from gve_ray.evaluation.data.labelled_videos import classification, load_classes, told, words
from gve_ray.evaluation.scores.statistics import bootstrap_mean


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"only its name is looked at")
    return path


@pytest.mark.parametrize(
    "name,said",
    [
        ("brush_hair", "brush hair"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("playing violin", "playing violin"),
        ("YoYo", "Yo Yo"),
        ("TV", "TV"),
    ],
)
def test_names_of_class_folders_are_read_as_words(name: str, said: str) -> None:
    assert words(name) == said


def test_a_folder_of_classes(tmp_path: Path) -> None:
    touch(tmp_path / "pull_up/b.mp4")
    touch(tmp_path / "pull_up/a.AVI")
    touch(tmp_path / "pull_up/notes.txt")
    touch(tmp_path / "BrushHair/c.webm")
    touch(tmp_path / "BrushHair/.hidden.mp4")
    touch(tmp_path / "readme.mp4")  # beside the classes, so of none
    (tmp_path / "BrushHair/frames").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "BrushHair/frames/0.png")
    (tmp_path / "empty/nothing").mkdir(parents=True)
    found = load_classes(tmp_path, name="set", template="someone does this: {label}.")
    assert found.query_ids == ["BrushHair/c.webm", "BrushHair/frames", "pull_up/a.AVI", "pull_up/b.mp4"]
    assert [one.video for one in found.queries] == [str(tmp_path / one) for one in found.query_ids]
    assert found.corpus_ids == ["BrushHair", "pull_up"]
    assert [one.text for one in found.corpus] == [
        "someone does this: Brush Hair.",
        "someone does this: pull up.",
    ]
    assert found.positives["pull_up/b.mp4"] == {"pull_up"}
    assert found.candidates is None
    first, second = map(str, found.skipped)
    assert first.startswith("set: pull_up: 1 files are no videos") or second.startswith("set: pull_up: 1")
    assert any("'empty/nothing': no such file or folder of frames" in one for one in (first, second))


def test_a_table_of_labels(tmp_path: Path) -> None:
    here, there = touch(tmp_path / "videos/a.mp4"), touch(tmp_path / "elsewhere/b.mp4")
    table = tmp_path / "val.csv"
    table.write_text(
        f"label,video,split\nopens_a_door,videos/a.mp4,val\nSits Down,{there},val\n"
        "waves,videos/a.mp4,val\nwaves,,val\n,videos/a.mp4,val\nwaves,videos/gone.mp4,val\n"
    )
    found = load_classes(table, name="set")
    assert [one.video for one in found.queries] == [str(here), str(there)]
    assert [one.text for one in found.corpus] == ["Sits Down", "opens_a_door"]  # as they are
    assert found.positives["videos/a.mp4"] == {"opens_a_door"}
    assert [str(one).split(": ", 2)[1:] for one in found.skipped] == [
        ["val.csv line 4", "video 'videos/a.mp4': there twice; 'opens_a_door', its first label, counts"],
        ["val.csv line 5", "empty video"],
        ["val.csv line 6", "video 'videos/a.mp4': empty label"],
        ["val.csv line 7", "video 'videos/gone.mp4': no such file or folder of frames"],
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
def test_a_table_of_any_form(name: str, text: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4"), touch(tmp_path / "7.mp4")
    (tmp_path / name).write_text(text)
    found = load_classes(tmp_path / name, name="set")
    assert ([str(one) for one in found.skipped], found.query_ids) == ([], ["a.mp4", "7.mp4"])
    assert found.positives == {"a.mp4": {"waves"}, "7.mp4": {"3"}}


def test_rows_of_a_table_that_cannot_be_used(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    rows = "a.mp4,opens, then closes\na.mp4\na.mp4,nan\nNone,waves\na.mp4,waves\n"
    (tmp_path / "val.csv").write_text("video,label\n" + rows)
    (tmp_path / "val.jsonl").write_text(
        '{"video": "a.mp4", "label": ["waves", "runs"]}\n{"video": {}, "label": "waves"}\n'
    )
    found = load_classes(tmp_path / "val.csv", name="set")
    assert (found.query_ids, found.corpus_ids) == (["a.mp4"], ["waves"])
    assert [fault.where for fault in found.skipped] == [f"val.csv line {n}" for n in (2, 3, 4, 5)]
    assert [
        str(one).split(": ", 2)[2] for one in load_classes(tmp_path / "val.jsonl", name="set").skipped[:2]
    ] == [
        "video 'a.mp4': label=['waves', 'runs']: no label",
        "video={}: no path",
    ]


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "waves/a.mp4")
    with open(os.fsencode(tmp_path) + b"/waves/caf\xe9.mp4", "wb"):
        pass
    found = load_classes(tmp_path, name="set")
    assert found.query_ids == ["waves/a.mp4"]
    assert [str(one) for one in found.skipped] == [
        "set: waves: 'waves/caf\\udce9.mp4': the name is not UTF-8; rename it"
    ]


def test_what_is_no_data_set(tmp_path: Path) -> None:
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
        "1": labels,  # right at once
        "2": labels[::-1],  # right is b: the fifth
        "3": labels[::-1],  # right is a: the sixth
        "4": ["b", *labels[:1], *labels[2:]],  # right is a: the second
    }
    positives = {"1": {"a"}, "2": {"b"}, "3": {"a"}, "4": {"a"}}
    found = classification(rankings, positives, n_labels=6, resamples=500, seed=1)
    assert (found["accuracy@1"]["score"], found["accuracy@5"]["score"]) == (0.25, 0.75)
    interval = bootstrap_mean([1, 0, 0, 0], resamples=500, seed=1)
    assert found["accuracy@1"]["interval"] == [interval.low, interval.high]
    assert found["confusion"] == {"a": {"a": 1, "f": 1, "b": 1}, "b": {"f": 1}}
    assert (found["n_labels"], found["chance"]) == (6, pytest.approx(1 / 6))
    assert told(found).startswith("accuracy@1 0.250 [0.000, ")
