"""Evaluation videos that were used in training are found; others are not."""

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.demo.render import frames, write_mp4
from gve_ray.demo.scenes import draw_scene
from gve_ray.evaluation import contamination
from gve_ray.evaluation.contamination import COLUMNS, fingerprints, overlap
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
    matches = overlap(assets, videos, workers=2)
    assert [(match.video, match.video_id, match.kind) for match in matches] == [
        (str(eight), "id3", "near"),
        (str(folder / "again.mp4"), "id2", "near"),
        (same_bytes, "id1", "exact"),
        ("file://" + same_path, "id0", "uri"),
    ]
    assert [0 < match.distance <= THRESHOLD for match in matches] == [True, True, False, False]
    assert str(matches[2]) == f"{same_bytes}: is training video 'id1' (the same bytes)"
    assert {match.kind for match in overlap(assets, videos, threshold=0)} == {"uri", "exact"}


def test_a_mirrored_video_does_not_match(folder, assets):
    picture = np.stack(list(frames(SCENES[0], np.linspace(0, 1, 8), 112, 112)))
    mirrored = folder / "mirrored"
    mirrored.mkdir()
    for i, frame in enumerate(picture[:, :, ::-1]):
        (mirrored / f"{i}.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(frame)))
    assert overlap(assets, [str(mirrored)]) == []


def test_videos_that_do_not_decode_are_compared_by_path_only(folder, assets):
    broken = folder / "broken.mp4"
    broken.write_bytes(b"no video")
    assert overlap(assets, [str(broken), str(folder / "gone.mp4")]) == []
    table = pa.table({"video_id": ["a"], "uri": [str(broken)]})
    assert [match.kind for match in overlap(table, [str(broken)])] == ["uri"]


def test_a_table_may_lack_columns_and_values(folder, assets):
    video = copied(folder, "t1.mp4", "moved.mp4")
    rows = assets.table(["video_id", "content_hash"])
    assert [(match.video_id, match.kind) for match in overlap(rows, [video])] == [("id1", "exact")]
    rows = assets.table(["video_id", "signature"])
    assert [(match.video_id, match.kind) for match in overlap(rows, [video])] == [("id1", "near")]
    nulls = pa.Table.from_pylist([{"video_id": "n"}], schema=assets.table(list(COLUMNS)).schema)
    assert overlap(nulls, [video]) == []
    with pytest.raises(ValueError, match="give video_id and at least one of uri"):
        overlap(pa.table({"video_id": ["a"]}), [video])


def test_videos_of_different_lengths_do_not_match(folder, assets):
    """Equal signatures match only if the durations agree, e.g. not at half the speed."""
    video = copied(folder, "t1.mp4", "length.mp4")
    rows = assets.table(["video_id", "signature", "duration"])
    doubled = rows.set_column(
        2, "duration", pa.array([2 * seconds for seconds in rows["duration"].to_pylist()])
    )
    assert len(overlap(rows, [video])) == 1
    assert overlap(doubled, [video]) == []


def test_the_most_certain_match_is_reported_in_any_order_and_chunking(folder, assets, monkeypatch):
    video = copied(folder, "t1.mp4", "both.mp4")
    monkeypatch.setattr(contamination, "_ROWS", 1)
    monkeypatch.setattr(contamination, "_CHUNK", 1)
    rows = assets.table(list(COLUMNS)).slice(1, 1).to_pylist()
    near = {**rows[0], "video_id": "a", "content_hash": "0" * 64}
    for order in ([near, *rows], [*rows, near]):
        table = pa.Table.from_pylist(order)
        matches = overlap(table, [str(folder / "e9.mp4"), video])
        assert [(match.video, match.video_id, match.kind) for match in matches] == [(video, "id1", "exact")]


def test_fingerprints_equal_those_stored_by_synthesis(folder, assets):
    stored = assets.table(["content_hash", "signature", "duration"]).to_pylist()[0]
    video = str(folder / "t0.mp4")
    assert vars(fingerprints([video], frames=8)[video]) == stored
