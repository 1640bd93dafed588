"""The filters as functions of tables: which rows they reject, and why."""

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.media.signature import FRAME_BYTES
from gve_ray.stage import Reject
from gve_ray.synthesis.quality import duplicates, inconsistent_pairs, rectify_captions, static_videos


def test_captions_are_cleaned_or_rejected() -> None:
    manifest = pa.table(
        {
            "video_id": ["a", "b", "c", "d"],
            "caption": pa.array(["<i>a dog runs</i>", None, "IMG_0001.MOV", " "], pa.string()),
        }
    )
    captions, rejects = rectify_captions(manifest)
    assert captions == {"a": "a dog runs"}
    assert rejects == {"c": Reject("file_name", "IMG_0001.MOV"), "d": Reject("empty", " ")}


def test_rectification_can_be_switched_off() -> None:
    manifest = pa.table({"video_id": ["a", "b"], "caption": pa.array(["IMG_0001.MOV", None], pa.string())})
    assert rectify_captions(manifest, on=False) == ({"a": "IMG_0001.MOV"}, {})


def test_static_videos_are_rejected_with_their_score() -> None:
    videos = pa.table({"video_id": ["a", "b", "c"], "motion": [0.5, 0.0699, 0.07]})
    assert static_videos(videos, threshold=0.07) == {
        "b": Reject("static", "motion 0.0699 below 0.07", {"motion": 0.0699})
    }
    assert static_videos(videos, threshold=0.0) == {}


def test_copies_are_rejected_and_name_the_one_that_stays() -> None:
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
    assert duplicates(videos, threshold=0.1) == {
        "c": Reject("exact_duplicate", "copy of a", {"copy_of": "a", "distance": 0.0})
    }


@pytest.mark.parametrize("threshold", [-1.0, 0.25, 0.3, 1.1])
def test_pairs_below_the_threshold_are_rejected(threshold: float) -> None:
    scores = {f"v{i}": i / 10 for i in range(10)}
    rejects = inconsistent_pairs(scores, threshold=threshold)
    assert list(rejects) == [video_id for video_id, score in scores.items() if score < threshold]
    for video_id, reject in rejects.items():
        assert reject.reason == "inconsistent"
        assert reject.scores == {"consistency": scores[video_id], "threshold": threshold}
