"""Evaluation videos that were used in training are found; others are not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.demo.render import frames, write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.evaluation import contamination, training_videos
from gve_ray.evaluation.contamination import Overlap, overlap
from gve_ray.evaluation.embed import ItemIndex
from gve_ray.evaluation.training_videos import Assets
from gve_ray.evaluation.video_signatures import Fingerprint, fingerprints
from gve_ray.media import encode_jpeg, read_frames
from gve_ray.media.signature import THRESHOLD
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.store import Store
from gve_ray.synthesis.config import MediaConfig
from gve_ray.synthesis.ingest import INGEST_SCHEMA, IngestWorker

SCENES = [draw_scene(seed, "corpus", long=False) for seed in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four training videos, t0 to t3, and an unrelated evaluation video, e9."""
    root = tmp_path_factory.mktemp("videos")
    for i, scene in enumerate(SCENES):
        write_mp4(root / f"t{i}.mp4", scene)
    write_mp4(root / "e9.mp4", draw_scene(9, "heldout", long=False))
    return root


@pytest.fixture(scope="module")
def assets(folder, tmp_path_factory):
    """assets.lance as synthesis writes it, in two commits."""
    ingest = IngestWorker(MediaConfig(clips=0, reference_frames=0), seed=1)
    rows = ingest([{"video_id": f"id{i}", "uri": str(folder / f"t{i}.mp4")} for i in range(4)])
    assert all(set(row) == set(INGEST_SCHEMA.names) for row in rows)
    store = Store(str(tmp_path_factory.mktemp("run") / "assets.lance"), ASSET_SCHEMA).create()
    for part in (rows[:2], rows[2:]):
        store.append(pa.Table.from_pylist(part, schema=ASSET_SCHEMA))
    return store


def prints_of(*videos: str) -> dict[str, Fingerprint]:
    """Fingerprints by path; that of a video that does not decode is empty."""
    empty = Fingerprint(content_hash="", signature=b"", duration=np.nan)
    return dict.fromkeys(videos, empty) | fingerprints(list(dict.fromkeys(videos)), frames=8, workers=2)


def tables(training: Store) -> Iterator[pa.Table]:
    return Assets(store=training).tables(ItemIndex(Path(training.uri).parent), None)


def matches_in(training: Store, *videos: str) -> list[Overlap]:
    return overlap(tables(training), prints_of(*videos))


def store_of(folder: Path, *rows: dict[str, Any]) -> Store:
    """Training assets with these rows, in one commit; columns that a row lacks are null."""
    store = Store(str(folder / "assets.lance"), ASSET_SCHEMA).create()
    store.append(pa.Table.from_pylist(list(rows), schema=ASSET_SCHEMA))
    return store


def copied(folder, name, to):
    """Copy a file to another name."""
    (folder / to).write_bytes((folder / name).read_bytes())
    return str(folder / to)


def test_each_kind_of_match(folder, assets):
    same_path = str(folder / "t0.mp4")
    same_bytes = copied(folder, "t1.mp4", "copy.mp4")
    write_mp4(folder / "again.mp4", SCENES[2], crf=30)
    eight = folder / "eight"
    eight.mkdir()
    for i, picture in enumerate(read_frames(folder / "t3.mp4", k=8).pixels):
        (eight / f"{i}.jpg").write_bytes(encode_jpeg(picture, quality=80))
    other = str(folder / "e9.mp4")
    videos = [other, str(eight), str(folder / "again.mp4"), same_bytes, "file://" + same_path, same_bytes]
    matches = matches_in(assets, *videos)
    assert [(match.video, match.video_id, match.kind) for match in matches] == [
        (str(eight), "id3", "near"),
        (str(folder / "again.mp4"), "id2", "near"),
        (same_bytes, "id1", "exact"),
        ("file://" + same_path, "id0", "uri"),
    ]
    assert [0 < match.distance <= THRESHOLD for match in matches] == [True, True, False, False]
    assert str(matches[2]) == f"{same_bytes}: is training video 'id1' (the same bytes)"
    assert {match.kind for match in overlap(tables(assets), prints_of(*videos), threshold=0)} == {
        "uri",
        "exact",
    }


def test_a_mirrored_video_does_not_match(folder, assets):
    picture = np.stack(list(frames(SCENES[0], np.linspace(0, 1, 8), 112, 112)))
    mirrored = folder / "mirrored"
    mirrored.mkdir()
    for i, frame in enumerate(picture[:, :, ::-1]):
        (mirrored / f"{i}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(frame)))
    assert matches_in(assets, str(mirrored)) == []


def test_videos_that_do_not_decode_are_compared_by_path_only(folder, assets, tmp_path):
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    assert matches_in(assets, str(broken), str(folder / "gone.mp4")) == []
    training = store_of(tmp_path, {"video_id": "a", "uri": str(broken)})
    assert [match.kind for match in matches_in(training, str(broken))] == ["uri"]


def test_training_videos_may_lack_values(folder, assets, tmp_path):
    """A row without a signature matches by its bytes, one without a hash by its frames, and one
    without either by nothing.
    """
    video = copied(folder, "t1.mp4", "moved.mp4")
    row = assets.table(["video_id", "content_hash", "signature"]).to_pylist()[1]
    rows = ({**row, "signature": None}, {**row, "content_hash": None}, {"video_id": "n"})
    kinds = [
        [match.kind for match in matches_in(store_of(tmp_path / str(i), row), video)]
        for i, row in enumerate(rows)
    ]
    assert kinds == [["exact"], ["near"], []]


def test_videos_of_different_lengths_do_not_match(folder, assets, tmp_path):
    """Equal signatures match only if the durations agree, e.g. not at half the speed."""
    video = copied(folder, "t1.mp4", "length.mp4")
    row = assets.table(["video_id", "signature", "duration"]).to_pylist()[1]
    doubled = {**row, "duration": 2 * row["duration"]}
    assert len(matches_in(store_of(tmp_path / "same", row), video)) == 1
    assert matches_in(store_of(tmp_path / "doubled", doubled), video) == []


def test_the_most_certain_match_is_reported_in_any_order_and_chunking(folder, assets, tmp_path, monkeypatch):
    video = copied(folder, "t1.mp4", "both.mp4")
    monkeypatch.setattr(training_videos, "ROWS", 1)
    monkeypatch.setattr(contamination, "_CHUNK", 1)
    exact = assets.table(["video_id", "content_hash", "signature", "duration"]).to_pylist()[1]
    near = {**exact, "video_id": "a", "content_hash": "0" * 64}
    for name, rows in (("near_first", (near, exact)), ("exact_first", (exact, near))):
        matches = matches_in(store_of(tmp_path / name, *rows), str(folder / "e9.mp4"), video)
        assert [(match.video, match.video_id, match.kind) for match in matches] == [(video, "id1", "exact")]


def test_fingerprints_equal_those_stored_by_synthesis(folder, assets):
    stored = assets.table(["content_hash", "signature", "duration"]).to_pylist()[0]
    video = str(folder / "t0.mp4")
    assert vars(fingerprints([video], frames=8)[video]) == stored


def test_a_long_video_is_a_training_video_if_one_of_its_shots_is(folder, assets, tmp_path):
    """By its path, its bytes and its frames, all of which a shot has from its parent."""
    write_mp4(folder / "film again.mp4", SCENES[2], crf=30)
    videos = [str(folder / name) for name in ("t2.mp4", "film copy.mp4", "film again.mp4")]
    copied(folder, "t2.mp4", "film copy.mp4")
    (row,) = assets.table(filter="video_id = 'id2'").to_pylist()
    (other,) = assets.table(filter="video_id = 'id0'").to_pylist()  # the frames of the shot
    shot = {
        **other, "video_id": "film#0001", "uri": row["uri"], "content_hash": row["content_hash"], "duration": 1.0,
        "shot": {"parent_id": "film", "start": 1.0, "end": 2.0},
        "parent": {"duration": row["duration"], "signature": row["signature"]},
    }  # fmt: skip
    training = store_of(tmp_path, {**shot, "video_id": "film#0000"}, shot, other)
    matches = matches_in(training, *videos)
    assert [(match.video_id, match.kind) for match in matches] == [
        ("film", "uri"),
        ("film", "exact"),
        ("film", "near"),
    ]


def test_assets_of_a_version_without_shots_are_read(folder, assets, tmp_path):
    old = pa.schema([field for field in ASSET_SCHEMA if field.name not in ("shot", "parent")])
    Store(str(tmp_path / "assets.lance"), old).create().append(assets.table(old.names))
    training = Store(str(tmp_path / "assets.lance"), ASSET_SCHEMA)
    assert [match.video_id for match in matches_in(training, str(folder / "t0.mp4"))] == ["id0"]
