import json
from pathlib import Path

import numpy as np
import pytest

from gve_ray.demo.render import encode_mp4
from gve_ray.evaluation.config import ANNOTATED, DataConfig
from gve_ray.evaluation.data.annotations import FORMATS, load_annotations
from gve_ray.evaluation.data.eval_sets import read
from gve_ray.media import encode_jpeg


def touch(folder, *names):
    """Empty files; annotations are read without opening a video."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def load(tmp_path, format, content, name="annotations.json", **options):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return load_annotations(file, format=format, videos=tmp_path / "videos", name="SET", **options)


def pairs(data):
    """The text of each query, and the file name of its video."""
    names = {key: Path(item.video).name for key, item in zip(data.corpus_ids, data.corpus, strict=True)}
    return [
        (item.text, names[next(iter(data.positives[key]))])
        for key, item in zip(data.query_ids, data.queries, strict=True)
    ]


def test_msrvtt_1ka_is_a_table_with_a_sentence_per_video(tmp_path):
    touch(tmp_path / "videos", "video7020.mp4", "video7021.webm", "video1.mp4")
    data = load(
        tmp_path,
        "msrvtt",
        "key,vid_key,video_id,sentence\n"
        "ret0,msr7020,video7020,a woman creating a fondant baby and flower\n"
        'ret1,msr7021,video7021,"a boy, who plays grand theft auto 5"\n',
        "MSRVTT_JSFUSION_test.csv",
    )
    assert pairs(data) == [
        ("a woman creating a fondant baby and flower", "video7020.mp4"),
        ("a boy, who plays grand theft auto 5", "video7021.webm"),
    ]
    assert data.corpus_ids == ["video7020", "video7021"]  # a video without a caption is not in the corpus
    assert not data.skipped


def test_msrvtts_json_is_read_by_split(tmp_path):
    touch(tmp_path / "videos", "video0.mp4", "video9000.mp4")
    content = {
        "videos": [{"video_id": "video0", "split": "train"}, {"video_id": "video9000", "split": "test"}],
        "sentences": [
            {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
            {"caption": "a man sings", "video_id": "video9000", "sen_id": 1},
            {"caption": "someone sings on a stage", "video_id": "video9000", "sen_id": 2},
        ],
    }
    data = load(tmp_path, "msrvtt", content)
    assert pairs(data) == [("a man sings", "video9000.mp4"), ("someone sings on a stage", "video9000.mp4")]
    assert pairs(load(tmp_path, "msrvtt", content, split="train")) == [("a car is shown", "video0.mp4")]
    (error,) = load(tmp_path, "msrvtt", content, split="validate").skipped
    assert "no video has split='validate'; its splits are test, train" in str(error)


def test_msrvtt_list_of_videos_with_several_captions(tmp_path):
    touch(tmp_path / "videos", "video1.mp4")
    content = [{"video_id": "video1", "video": "video1.mp4", "caption": ["one", "two"]}]
    assert pairs(load(tmp_path, "msrvtt", content)) == [("one", "video1.mp4"), ("two", "video1.mp4")]


def test_didemo_joins_the_descriptions_of_a_video(tmp_path):
    touch(tmp_path / "videos" / "part2", "54322086@N00_24085_27.avi.mp4")
    content = [
        {"video": "54322086@N00_24085_27.avi", "description": "a dog runs", "times": [[1, 1]]},
        {"video": "54322086@N00_24085_27.avi", "description": "it barks", "times": [[2, 2]]},
    ]
    data = load(tmp_path, "didemo", content)
    assert pairs(data) == [("a dog runs it barks", "54322086@N00_24085_27.avi.mp4")]


def test_activitynet_joins_sentences_and_finds_videos_without_the_prefix(tmp_path):
    touch(tmp_path / "videos", "QOlSCBRmfWY.mkv", "v_ehGHCYKzyZ8.mp4")
    content = {
        "v_QOlSCBRmfWY": {"duration": 82.7, "timestamps": [[0, 9], [9, 20]], "sentences": [" A girl.", " She dances."]},
        "v_ehGHCYKzyZ8": {"duration": 61.7, "timestamps": [[0, 4]], "sentences": ["The video starts."]},
    }  # fmt: skip
    assert pairs(load(tmp_path, "activitynet", content)) == [
        ("A girl. She dances.", "QOlSCBRmfWY.mkv"),
        ("The video starts.", "v_ehGHCYKzyZ8.mp4"),
    ]


def test_vatex_has_a_query_per_english_caption(tmp_path):
    touch(tmp_path / "videos", "Ptf_2VRj-V0_000122_000132.mp4")
    content = [
        {
            "videoID": "Ptf_2VRj-V0_000122_000132",
            "enCap": ["a man lifts", "a bar is lifted"],
            "chCap": ["一名男子"],
        }
    ]
    data = load(tmp_path, "vatex", content)
    assert [text for text, _ in pairs(data)] == ["a man lifts", "a bar is lifted"]
    assert len(data.corpus) == 1


def test_lsmdc_names_with_dots_and_frame_folders(tmp_path):
    clip, other = "1001_Flight_00.41.37.972-00.41.39.700", "1001_Flight_00.42.00.000-00.42.03.999"
    touch(tmp_path / "videos" / "1001_Flight", f"{clip}.avi")
    frames = tmp_path / "videos" / "1001_Flight" / other
    frames.mkdir()
    (frames / "1.jpg").write_bytes(encode_jpeg(np.zeros((28, 28, 3), np.uint8)))
    data = load(
        tmp_path,
        "lsmdc",
        f"{clip}\t00.41.37.972\t00.41.39.700\t00.41.37\t00.41.39\tSOMEONE looks at a gauge.\n\n"
        f"{other}\t00.42.00.000\t00.42.03.999\t00.42.00\t00.42.03\tSOMEONE sits.\n",
        "LSMDC16_challenge_1000_publictect.csv",
    )
    assert pairs(data) == [("SOMEONE looks at a gauge.", f"{clip}.avi"), ("SOMEONE sits.", other)]


def test_every_text_is_a_query_or_an_error(tmp_path):
    touch(tmp_path / "videos", "a.mp4", "b.mp4", "b.webm")
    content = [
        {"videoID": "a", "enCap": ["a dog", "  ", 7]},
        {"videoID": "b", "enCap": []},
        {"videoID": None, "enCap": ["a cat"]},
        "text",
        {"videoID": "gone", "enCap": ["a bird", "a fish"]},
    ]
    data = load(tmp_path, "vatex", content)
    # A video that does not exist is not left out: it counts as a miss.
    assert pairs(data) == [("a dog", "a.mp4"), ("a bird", "gone.mp4"), ("a fish", "gone.mp4")]
    messages = [str(error) for error in data.skipped]
    assert len(messages) == 6
    for part in (
        "entry 1: video 'a': ' ' is not a caption",
        "entry 1: video 'a': 7 is not a caption",
        "entry 2: video 'b': None is not a caption",
        "entry 3: video=None: give the id of a video",
        "entry 4: 'text': not an object",
        "b.webm: has the same id as",
    ):
        assert any(part in message for message in messages), part


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_of_another_kind_is_an_error_and_no_exception(tmp_path, format):
    (tmp_path / "videos").mkdir()
    for content in ("", "3", '{"a": 3}', "[[1]]", "\0\0", "x" * 100):
        data = load(tmp_path, format, content)
        assert not data.queries
        if content:
            assert data.skipped, content


def test_the_config_reads_each_format(tmp_path):
    assert tuple(FORMATS) == ANNOTATED
    (tmp_path / "videos").mkdir()
    encode_mp4(
        tmp_path / "videos" / "video1.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, fps=3, width=64, height=64
    )
    (tmp_path / "test.csv").write_text("video_id,sentence\nvideo1,black\n")
    config = DataConfig(
        name="MSRVTT-1kA",
        format="msrvtt",
        folder=str(tmp_path / "videos"),
        annotations=str(tmp_path / "test.csv"),
    )
    assert pairs(read(config)) == [("black", "video1.mp4")]
    with pytest.raises(ValueError, match="format msrvtt needs the annotation file"):
        DataConfig(name="A", format="msrvtt", folder="videos")
    with pytest.raises(ValueError, match="format mteb has no annotation file"):
        DataConfig(name="A", format="mteb", folder="videos", annotations="a.json")
