"""The contamination check of a run: matches by path, bytes and frames, which are reported or refuse
the run.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.embedder.embeddings import Finished, ignore
from gve_ray.evaluation import embed, video_signatures
from gve_ray.evaluation.config import ContaminationConfig, DataConfig, ModelConfig
from gve_ray.evaluation.contamination import ContaminationCheck
from gve_ray.evaluation.data.eval_sets import EvalSet, open_eval_sets
from gve_ray.evaluation.embed import EMBEDDING_SCHEMA, KEY, Embedded, EmbedWorker, ItemIndex, pending_table
from gve_ray.evaluation.training_videos import open_training
from gve_ray.inputs.manifest import video_id_of
from gve_ray.job import PreflightError
from gve_ray.media.signature import THRESHOLD
from gve_ray.schema import ASSET_SCHEMA, Item
from gve_ray.stage import StageCounts
from gve_ray.store import Store
from gve_ray.synthesis.config import MediaConfig
from gve_ray.synthesis.ingest import IngestWorker

SCENES = [draw_scene(seed, "corpus", long=False) for seed in range(2)]


class World:
    """Training videos t0 and t1; data set "one" has the bytes of t0 and an unrelated video; data
    set "two" has t1 encoded again and the same unrelated video under another name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        for i, scene in enumerate(SCENES):
            write_mp4(root / f"t{i}.mp4", scene)
        ingest = IngestWorker(MediaConfig(clips=0, reference_frames=0), seed=1)
        rows = ingest([{"video_id": f"t{i}", "uri": str(root / f"t{i}.mp4")} for i in range(2)])
        self.training = Store(str(root / "assets.lance"), ASSET_SCHEMA).create()
        self.training.append(pa.Table.from_pylist(rows, schema=ASSET_SCHEMA))
        for name, videos in (("one", ("copy", "own")), ("two", ("again", "also"))):
            (root / name / "videos").mkdir(parents=True)
            (root / name / "jsonl").mkdir()
            lines = {
                "queries": [{"id": "q", "text": "words"}],
                "corpus": [{"id": video, "video": f"{video}.mp4"} for video in videos],
                "instances": [{"qid": "q", "pos": [videos[0]]}],
            }
            for file, fields in lines.items():
                (root / name / f"jsonl/{file}.jsonl").write_text("\n".join(map(json.dumps, fields)))
        write_mp4(root / "one/videos/own.mp4", draw_scene(9, "heldout", long=False))
        self.copy, self.again = root / "one/videos/copy.mp4", root / "two/videos/again.mp4"
        self.copy.write_bytes((root / "t0.mp4").read_bytes())
        (root / "two/videos/also.mp4").write_bytes((root / "one/videos/own.mp4").read_bytes())
        write_mp4(self.again, SCENES[1], crf=30)
        self.index = ItemIndex(root / "cache")
        self.sources = open_eval_sets(
            [DataConfig(name=name, folder=str(root / name)) for name in ("one", "two")], self.index
        )

    def check(self, **options: Any) -> ContaminationCheck:
        config = ContaminationConfig(**{"training": self.training.uri, **options})
        return ContaminationCheck(config, open_training(config), *self.seen)

    @property
    def seen(self) -> tuple[list[EvalSet], ItemIndex]:
        return self.sources, self.index

    def embedded(self, folder: Path, frames: int, monkeypatch: pytest.MonkeyPatch) -> Embedded:
        """What the embedding stage commits for all items when it takes this many frames per video."""
        monkeypatch.setattr(embed, "open_model", lambda *_: Ones())
        settings = EmbedderSettings(frames=frames, max_pixels=12544, min_pixels=3136)
        pending = pending_table(
            [item for dataset in self.sources for item in (*dataset.queries, *dataset.data.corpus)],
            [key for dataset in self.sources for key in (*dataset.query_keys, *dataset.corpus_keys)],
        )
        rows = EmbedWorker(ModelConfig(name="m", model="m"), settings, {}, readers=1)(pending.to_pylist())
        store = Store(str(folder / "embeddings.lance"), EMBEDDING_SCHEMA, key=KEY).create()
        store.append(pa.Table.from_pylist(rows, schema=EMBEDDING_SCHEMA))
        counts = StageCounts(name="embed", n_in=4, n_out=4, n_rejected=0, seconds=0.0)
        return Embedded(store=store, counts=counts, n_found=0, rejects={})


class Ones:
    """A model that ignores its input and returns ones."""

    def refuses(self, item: Item) -> str:
        return ""

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        ones = np.ones((len(items), 1), dtype=np.float32)
        return replace(Embeddings.empty(len(items), 1), vectors=ones)

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a video was decoded a second time")


def test_near_copies_are_found_from_the_embedded_frames(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    embedded = world.embedded(tmp_path, 8, monkeypatch)
    monkeypatch.setattr(video_signatures, "fingerprints", refuse)
    with caplog.at_level(logging.WARNING):
        result = world.check(on_hit="flag").check(embedded, cache=str(tmp_path), workers=1)
    copy, again = result["hits"]
    assert copy == {
        "dataset": "one",
        "video": str(world.copy),
        "training": world.training.uri,
        "training_video": "t0",
        "how": "exact",
        "distance": 0.0,
    }
    assert (again["dataset"], again["video"], again["training_video"]) == ("two", str(world.again), "t1")
    assert again["how"] == "near"
    assert 0 < again["distance"] <= THRESHOLD
    assert (result["checked_videos"], result["datasets"]) == (3, {"one": 1, "two": 1})
    assert result["training"] == [world.training.uri]
    (warning,) = caplog.messages
    assert "2 hits among 3 videos" in warning
    assert f"one: {world.copy}: is training video 't0' (the same bytes)" in warning
    only_bytes = world.check(on_hit="flag", threshold=0.0).check(embedded, cache=str(tmp_path), workers=1)
    assert [hit["how"] for hit in only_bytes["hits"]] == ["exact"]


def test_videos_are_decoded_once_if_frame_counts_differ(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = world.embedded(tmp_path, 4, monkeypatch)
    decoded: list[str] = []
    original = video_signatures.fingerprints

    def counted(videos: Sequence[str], **options: Any) -> Any:
        decoded.extend(videos)
        return original(videos, **options)

    monkeypatch.setattr(video_signatures, "fingerprints", counted)
    results = [world.check(on_hit="flag").check(embedded, cache=str(tmp_path), workers=1) for _ in range(2)]
    assert [hit["how"] for hit in results[0]["hits"]] == ["exact", "near"]
    assert results[0] == results[1]
    assert len(decoded) == len(set(decoded)) == 3  # once per content, not once per name


def test_a_run_is_refused_before_and_after_embedding(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PreflightError) as refused:
        world.check().check_bytes()
    first, *lines = str(refused.value).splitlines()
    assert "1 hits among 3 videos" in first
    assert lines == [f"one: {world.copy}: is training video 't0' (the same bytes)"]
    world.check(on_hit="flag").check_bytes()
    embedded = world.embedded(tmp_path, 8, monkeypatch)
    with pytest.raises(PreflightError, match="2 hits among 3 videos") as refused:
        world.check().check(embedded, cache=str(tmp_path), workers=1)
    assert len(str(refused.value).splitlines()) == 3


def test_missing_training_assets_are_an_error(tmp_path: Path) -> None:
    assert open_training(ContaminationConfig()) == []
    with pytest.raises(PreflightError, match=r"contamination\.training='gone\.lance': no assets there"):
        open_training(ContaminationConfig(training="gone.lance"))
    with pytest.raises(PreflightError, match=r"contamination\.training='nowhere': no such file or folder"):
        open_training(ContaminationConfig(training=("nowhere",)))
    with pytest.raises(ValueError, match=r"contamination.threshold=2\.0"):
        ContaminationConfig(threshold=2.0)


def test_videos_of_a_folder_and_of_a_table_are_training_videos(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The assets hold t0 and t1. The folder has the evaluation video `own` under another name, which is
    also `also`; the table has a re-encoded copy of t1 and a file that is no video.
    """
    (tmp_path / "films").mkdir()
    (tmp_path / "films/renamed.mp4").write_bytes((world.root / "one/videos/own.mp4").read_bytes())
    write_mp4(tmp_path / "smaller.mp4", SCENES[1], crf=34)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "films.csv").write_text("video_id,uri\nsmall,smaller.mp4\nbroken,broken.mp4\n")
    embedded = world.embedded(tmp_path, 8, monkeypatch)
    folder, table = str(tmp_path / "films"), str(tmp_path / "films.csv")

    def hits(*sources: str, **options: Any) -> list[tuple[str, str, str, str]]:
        check = world.check(training=sources, on_hit="flag", **options)
        result = check.check(embedded, cache=str(tmp_path), workers=1)
        assert result["training"] == list(sources)
        return [
            (Path(hit["video"]).stem, hit["training"], hit["training_video"], hit["how"])
            for hit in result["hits"]
        ]

    renamed = ("own", folder, video_id_of(f"{folder}/renamed.mp4"), "exact")
    again = ("again", table, "small", "near")
    assert hits(folder, table) == [renamed, again, ("also", *renamed[1:])]
    assert hits(folder, table, threshold=0.0) == [renamed, ("also", *renamed[1:])]
    in_both = hits(folder, world.training.uri)  # each video is reported once
    assert [(video, source) for video, source, _, _ in in_both] == [
        ("copy", world.training.uri),
        ("own", folder),
        ("again", world.training.uri),
        ("also", folder),
    ]
    monkeypatch.setattr(video_signatures, "fingerprints", refuse)  # signatures are in the cache
    assert hits(folder, table) == [renamed, again, ("also", *renamed[1:])]
    with pytest.raises(PreflightError, match=r"2 hits among 3 videos match .*films"):
        world.check(training=folder).check_bytes()
