"""Tests which words of videos are indexed, and that only those are changed that have changed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.config import ModelConfig
from gve_ray.indexing.config import IndexConfig, SpeechConfig, WordsConfig
from gve_ray.indexing.files import states_of
from gve_ray.indexing.speech import SPEECH_SCHEMA
from gve_ray.indexing.subtitles import (
    PENDING_SUBTITLES,
    SUBTITLE_SCHEMA,
    SubtitleWorker,
    words_version,
)
from gve_ray.indexing.words import Words, words_of_name
from gve_ray.media import Limits
from gve_ray.media.subtitles import Cue
from gve_ray.search import LibraryFacts
from gve_ray.search.library import FIELDS
from gve_ray.search.words import WordIndex
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store
from gve_ray.store.runfolder import filesystem
from tests.media.test_subtitles import write_subtitled

SRT = "1\n00:00:00,500 --> 00:00:01,500\nthe treasure map\n\n2\n00:00:02,500 --> 00:00:03,000\nis gone\n"


def test_files_belong_to_the_video_of_their_name(tmp_path: Path) -> None:
    for name in (
        "a.mp4",
        "a.mkv",
        "a.2.mp4",
        "a.srt",
        "a.en.vtt",
        "a.pt-BR.forced.SRT",
        "a.2.srt",
        "a.txt",
        "b.srt",
    ):
        (tmp_path / name).write_text(SRT)
    videos = [str(tmp_path / name) for name in ("a.mp4", "a.mkv", "a.2.mp4")]
    states = states_of([*videos, "https://host/videos/a.mp4", str(tmp_path / "none" / "a.mp4")])
    found = {video: state.subtitles for video, state in states.items()}
    names = {Path(video).name: [Path(uri).name for uri, _ in found[video]] for video in videos}
    own = ["a.en.vtt", "a.pt-BR.forced.SRT", "a.srt"]
    assert names == {"a.mp4": own, "a.mkv": own, "a.2.mp4": ["a.2.srt"]}
    assert [len(files) for files in found.values()] == [3, 3, 1, 0, 0]
    before = words_version("v", found[videos[0]])
    (tmp_path / "a.srt").write_text("another")
    now = {video: state.subtitles for video, state in states_of(videos).items()}
    assert words_version("v", now[videos[0]]) != before
    assert now[videos[2]] == found[videos[2]]


def test_a_file_that_cannot_be_read_is_a_fault_and_the_others_count(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "a.srt").write_text(SRT)
    (tmp_path / "a.vtt").write_text("nothing")
    row = {
        "words": "w", "uri": str(tmp_path / "a.mp4"), "start": 10.0,
        "files": [str(tmp_path / name) for name in ("a.srt", "a.vtt", "gone.srt")],
    }  # fmt: skip
    (result,) = SubtitleWorker(Limits())(pa.Table.from_pylist([row], PENDING_SUBTITLES).to_pylist())
    assert isinstance(result, dict)
    assert (result["starts"], result["texts"]) == ([10.5, 12.5], ["the treasure map", "is gone"])
    assert [any(name in fault for fault in result["faults"]) for name in ("a.mp4", "a.vtt", "gone.srt")] == [
        True
    ] * 3
    assert len(result["faults"]) == 3
    pa.Table.from_pylist([result], SUBTITLE_SCHEMA)


def test_subtitles_in_an_object_store(s3: str, tmp_path: Path) -> None:
    path = write_subtitled(tmp_path / "a.mp4", "mov_text", [Cue(0.5, 1.5, "in the file")])
    files, folder = filesystem(f"{s3}/videos")
    for name, data in (("a b.mp4", Path(path).read_bytes()), ("a b.en.srt", SRT.encode())):
        with files.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(data)
    uri = f"{s3}/videos/a%20b.mp4"
    found = [file for file, _ in states_of([uri])[uri].subtitles]
    assert found == [f"{s3}/videos/a%20b.en.srt"]
    (result,) = SubtitleWorker(Limits())([{"words": "w", "uri": uri, "start": 0.0, "files": found}])
    assert isinstance(result, dict)
    assert (result["texts"], result["faults"]) == (["in the file", "the treasure map", "is gone"], [])


class Folder:
    """An output folder whose stages have finished: two videos of two segments of 2 s; `cues` of the first."""

    def __init__(self, output: Path, **words: Any) -> None:
        config = IndexConfig(
            input="m.jsonl",
            output=str(output),
            model=ModelConfig(name="m", model="m"),
            words=WordsConfig(**words),
        )
        rejects = Store(f"{output}/rejects.lance", REJECT_SCHEMA)
        self.output = output
        self.words = Words(config, str(output), FIELDS, rejects)
        self.files: list[dict[str, Any]] = [
            {
                "video_id": f"v{i}", "uri": f"/videos/GreenKite_{i}.mp4", "version": f"{i}", "words": f"w{i}",
                "caption": ["a red ball", None][i], "metadata": json.dumps({"transcript": [None, "hello"][i]}),
            }
            for i in range(2)
        ]  # fmt: skip
        self.entries: dict[str, Mapping[str, Any]] = {
            f"v{i}s{j}": {
                **dict.fromkeys(FIELDS), "video_id": f"v{i}", "segment": j, "start": 2.0 * j, "end": 2.0 * j + 2,
            }
            for i in range(2)
            for j in range(2)
        }  # fmt: skip
        self.facts: LibraryFacts | None = None

    def subtitles(self, words: str, texts: list[str]) -> None:
        """Write the result of the stage for one file: a text each second, from 0.5 on, for 1 s."""
        row = {
            "words": words, "starts": [i + 0.5 for i in range(len(texts))], "texts": texts, "faults": [],
            "ends": [i + 1.5 for i in range(len(texts))],
        }  # fmt: skip
        self.words._subtitles.create().append(pa.Table.from_pylist([row], SUBTITLE_SCHEMA))

    def speech(self, file: int, texts: list[str]) -> None:
        """Write what is said in one file, as `subtitles` does."""
        row = {
            "speech": self.words._speech_key(self.files[file]), "model": "m", "texts": texts, "faults": [],
            "starts": [i + 0.5 for i in range(len(texts))], "ends": [i + 1.5 for i in range(len(texts))],
        }  # fmt: skip
        self.words._speech.create().append(pa.Table.from_pylist([row], SPEECH_SCHEMA))

    def fill(self) -> None:
        words = self.words.fill(self.files, self.entries, self.facts)
        self.facts = LibraryFacts(
            generation=1, index="index", model={}, settings={}, identity={}, strip_frames=1, words=words
        )
        self.words.delete_unused(self.files, [words["index"]] if words else [])

    def texts(self) -> dict[str, tuple[str, ...]]:
        """Return the texts of the index by source and segment or video."""
        assert self.facts is not None
        assert self.facts.words is not None
        index = WordIndex.open(
            f"{self.output}/{self.facts.words['index']}", FIELDS, self.facts.words["version"]
        )
        rows = index._dataset.to_table(columns=["_source", "_segment", "video_id", "_text"]).to_pylist()
        return {f"{row['_source']} {row['_segment'] or row['video_id']}": row["_text"] for row in rows}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


NAMES = {"name v0": "Green Kite 0", "name v1": "Green Kite 1"}


def test_cues_are_of_the_segments_that_they_overlap(folder: Folder) -> None:
    folder.subtitles("w0", ["one", "two", "three"])
    folder.fill()
    assert folder.texts() == {
        **NAMES, "caption v0": "a red ball", "transcript v1": "hello",
        "subtitles v0s0": "one\ntwo", "subtitles v0s1": "two\nthree",
    }  # fmt: skip


def test_changed_subtitles_change_only_the_words_of_their_video(folder: Folder) -> None:
    folder.subtitles("w0", ["one"])
    folder.subtitles("w1", ["other"])
    folder.fill()
    assert folder.facts is not None
    published = folder.facts
    folder.words.fill(folder.files, folder.entries, published)
    assert folder.words.fill(folder.files, folder.entries, published) == published.words  # nothing is written

    changed: list[tuple[list[str], list[str]]] = []
    update = WordIndex.update

    def recorded(index: WordIndex, removed: Any, added: Any) -> None:
        rows = list(added)
        changed.append((list(removed), [row.key for row in rows]))
        update(index, removed, rows)

    folder.files[0]["words"] = "w0 new"
    folder.subtitles("w0 new", ["1", "2", "3"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordIndex, "update", recorded)
        folder.words.fill(folder.files, folder.entries, published)  # killed before it publishes
        folder.fill()
    assert folder.texts()["subtitles v0s0"] == "1\n2"
    assert folder.texts()["subtitles v1s0"] == "other"
    ((removed, added), again) = changed
    assert again == (removed, added)
    assert [json.loads(key)[:2] for key in removed] == [["subtitles", "v0s0"]]
    assert [json.loads(key)[:2] for key in added] == [["subtitles", "v0s0"], ["subtitles", "v0s1"]]
    assert folder.words._subtitles.keys() == {"w0 new", "w1"}


@pytest.mark.parametrize("subtitled", [False, True])
def test_speech_is_of_videos_without_subtitles_unless_asked_for_all(tmp_path: Path, subtitled: bool) -> None:
    """The first video has subtitles; those of the second could not be read."""
    speech = SpeechConfig(url="http://a/v1", model="m", subtitled=subtitled)
    folder = Folder(tmp_path, names=False, captions=False, speech=speech)
    folder.subtitles("w0", ["one"])
    folder.subtitles("w1", [])
    assert [file["video_id"] for file in folder.words._to_transcribe(folder.files)] == (
        ["v0", "v1"] if subtitled else ["v1"]
    )
    folder.speech(0, ["said"])
    folder.speech(1, ["1", "2", "3"])
    folder.fill()
    heard = {"subtitles v0s0": "one", "speech v1s0": "1\n2", "speech v1s1": "2\n3"}
    assert folder.texts() == (heard | {"speech v0s0": "said"} if subtitled else heard)

    # Without speech recognition it is left out, but kept for a later run.
    off = Folder(tmp_path, names=False, captions=False)
    off.facts = folder.facts
    off.fill()
    assert off.texts() == {"subtitles v0s0": "one"}
    assert len(folder.words._speech.keys()) == 2
    folder.facts, folder.files = off.facts, folder.files[1:]
    folder.entries = {key: row for key, row in folder.entries.items() if row["video_id"] == "v1"}
    folder.fill()
    assert folder.texts() == {"speech v1s0": "1\n2", "speech v1s1": "2\n3"}
    assert len(folder.words._speech.keys()) == 1


def test_words_can_be_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path, subtitles=False, captions=False)
    folder.fill()
    assert folder.texts() == NAMES
    config = replace(folder.words._config, words=WordsConfig(subtitles=False, names=False, captions=False))
    none = Words(config, str(tmp_path), FIELDS, folder.words._rejects)
    assert none.fill(folder.files, folder.entries, folder.facts) is None


@pytest.mark.parametrize(
    "uri,words",
    [
        ("/v/RedBall2024_final-cut.mp4", "Red Ball 2024 final cut"),
        ("s3://bucket/a/caf%C3%A9%20noir.mov?region=x", "caf\u00e9 noir"),
        ("/v/frames/", "frames"),
        ("IMG_0042.MOV", "IMG 0042"),
    ],
)
def test_words_of_names(uri: str, words: str) -> None:
    assert words_of_name(uri) == words
