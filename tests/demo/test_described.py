"""Videos with descriptions: correct texts, objects of the training split, readable by our WebVid
converter.
"""

import csv
import os

import pytest

from gve_ray.demo.described import write_described
from gve_ray.demo.facts import judge
from gve_ray.demo.scenes import SPLIT_OF, draw_scene
from gve_ray.media import read_frames
from gve_ray.training.config import DataSetConfig
from gve_ray.training.convert import convert


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_described(tmp_path_factory.mktemp("described"), n=12, seed=3, workers=1)


def scene_of(row):
    return draw_scene(int(row["videoid"]), "corpus", long=False)


def test_each_video_has_a_complete_and_a_shorter_description(table):
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 24
    judgements = [judge(row["name"], scene_of(row)) for row in rows]
    assert all(j.stated == j.true for j in judgements)
    assert all(j.covered >= 0.8 * j.total for j in judgements[::2])
    assert sum(j.covered < j.total for j in judgements[1::2]) > 6


def test_every_object_is_of_the_training_split(table):
    for row in csv.DictReader(table.open()):
        for chapter in scene_of(row).chapters:
            for t in chapter.things:
                assert SPLIT_OF[t.colour, t.shape, t.size, chapter.background, t.column, t.row] == "corpus"


def test_the_converter_finds_every_video(table):
    config = DataSetConfig(name="described", uri=str(table), format="webvid", root=str(table.parent))
    pairs = list(convert(config))
    assert len(pairs) == 24
    lengths = {read_frames(pair["target"]["video"]).duration for pair in pairs}
    assert 1.0 <= min(lengths) <= max(lengths) <= 4.2


def test_missing_files_are_rendered_again_and_others_are_kept(table):
    videos = sorted(table.parent.glob("videos/*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in videos}
    expected = table.read_bytes(), videos[0].read_bytes()
    os.unlink(table)
    os.unlink(videos[0])
    assert write_described(table.parent, n=12, seed=3, workers=1) == table
    assert (table.read_bytes(), videos[0].read_bytes()) == expected
    assert all(path.stat().st_mtime_ns == before[path] for path in videos[1:])


def test_a_folder_made_with_other_arguments_is_refused(table):
    with pytest.raises(ValueError, match="made with other arguments"):
        write_described(table.parent, n=13, seed=3, workers=1)
