"""The filters as functions of tables: who stays, who goes, and that every row is accounted for."""

import json

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.media.signature import FRAME_BYTES
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.synthesis.quality import drop_duplicates, drop_inconsistent, drop_static, rectify_captions


def test_captions_are_cleaned_or_rejected_as_captions() -> None:
    manifest = pa.table(
        {
            "video_id": ["a", "b", "c", "d"],
            "caption": pa.array(["<i>a dog runs</i>", None, "IMG_0001.MOV", " "], pa.string()),
        }
    )
    captions, verdict = rectify_captions(manifest)
    assert captions == {"a": "a dog runs"}
    assert (verdict.counts.n_in, verdict.counts.n_out, verdict.counts.n_rejected) == (3, 1, 2)
    assert [(row["video_id"], row["unit"], row["reason"]) for row in verdict.rejects] == [
        ("c", "caption", "file_name"),
        ("d", "caption", "empty"),
    ]
    assert verdict.rejects[0]["detail"] == "IMG_0001.MOV"
    pa.Table.from_pylist(list(verdict.rejects), schema=REJECT_SCHEMA)


def test_rectification_can_be_switched_off() -> None:
    manifest = pa.table({"video_id": ["a", "b"], "caption": pa.array(["IMG_0001.MOV", None], pa.string())})
    captions, verdict = rectify_captions(manifest, on=False)
    assert captions == {"a": "IMG_0001.MOV"}
    assert (verdict.counts.n_in, verdict.counts.n_rejected) == (1, 0)


def test_static_videos_go_with_their_score() -> None:
    videos = pa.table({"video_id": ["a", "b", "c"], "motion": [0.5, 0.0699, 0.07]})
    verdict = drop_static(videos, threshold=0.07)
    assert list(verdict.kept) == ["a", "c"]
    (row,) = verdict.rejects
    assert (row["video_id"], row["stage"], row["reason"]) == ("b", "dynamics", "static")
    assert json.loads(row["scores"]) == {"motion": 0.0699}
    assert drop_static(videos, threshold=0.0).counts.n_rejected == 0


def test_copies_go_and_name_the_one_that_stays() -> None:
    cells = np.random.default_rng(1).integers(0, 256, (2, 8 * FRAME_BYTES), dtype=np.uint8)
    videos = pa.table(
        {
            "video_id": ["a", "b", "c"],
            "content_hash": ["x", "y", "x"],
            "signature": pa.array([cells[0].tobytes(), cells[1].tobytes(), cells[0].tobytes()], pa.binary()),
            "width": [10, 10, 10],
            "height": [10, 10, 10],
            "duration": [1.0, 1.0, 1.0],
        }
    )
    verdict = drop_duplicates(videos, threshold=0.1)
    assert list(verdict.kept) == ["a", "b"]
    (row,) = verdict.rejects
    assert (row["video_id"], row["reason"], row["detail"]) == ("c", "exact_duplicate", "copy of a")


def test_pairs_below_the_threshold_go_and_videos_without_caption_pass() -> None:
    failed = {"d": {"video_id": "d", "reason": "error"}}
    verdict = drop_inconsistent(["a", "b", "c", "d"], {"a": 0.2, "b": 0.3}, failed, threshold=0.3)
    assert list(verdict.kept) == ["b", "c"]
    assert [row["video_id"] for row in verdict.rejects] == ["a", "d"]
    assert json.loads(verdict.rejects[0]["scores"]) == {"consistency": 0.2, "threshold": 0.3}
    assert verdict.counts.n_in == 4


@pytest.mark.parametrize("threshold", [-1.0, 0.25, 1.1])
def test_a_threshold_only_moves_the_cut(threshold: float) -> None:
    scores = {f"v{i}": i / 10 for i in range(10)}
    verdict = drop_inconsistent(list(scores), scores, {}, threshold=threshold)
    assert list(verdict.kept) == [one for one, score in scores.items() if score >= threshold]
