"""The cut of the consistency filter, and its worker with an embedder whose vectors are known."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gve_ray.embedder.backends
from gve_ray.media import encode_jpeg
from gve_ray.schema import Item
from gve_ray.store import Store
from gve_ray.synthesis.assets import _warn_of_chance
from gve_ray.synthesis.config import ConsistencyConfig
from gve_ray.synthesis.consistency import (
    CONSISTENCY_SCHEMA,
    ConsistencyWorker,
    caption_hash,
    mismatched_captions,
    roc_auc,
    scores_fingerprint,
    separation,
)
from gve_ray.synthesis.cut import calibrate, threshold_of
from gve_ray.synthesis.ingest import INGEST_SCHEMA


def test_a_percentile_cuts_that_share_whatever_the_scale() -> None:
    scores = [i / 100 for i in range(100)]
    for scale in (1.0, 0.01):
        threshold = calibrate([scale * score for score in scores], 10)
        assert sum(scale * score < threshold for score in scores) == 10
    assert calibrate(scores, 0) == 0.0
    assert calibrate([0.4], 50) == 0.4
    assert calibrate([], 10) == -1.0
    with pytest.raises(ValueError, match="percentile=100"):
        calibrate(scores, 100)


def test_the_threshold_is_the_configured_one_or_the_percentiles() -> None:
    assert threshold_of(ConsistencyConfig(model="m", threshold=0.3), [0.9]) == 0.3
    assert threshold_of(ConsistencyConfig(model="m", percentile=50), [0.1, 0.2, 0.3]) == 0.2


def test_where_the_cut_lies_does_not_change_what_the_scores_are() -> None:
    def name(**changes: Any) -> str:
        return scores_fingerprint(ConsistencyConfig(**{"model": "m", "threshold": 0.3} | changes), "ingest-1")

    assert name() == name(threshold=0.4) == name(threshold=None, percentile=5.0)
    assert len({name(), name(model="n"), name(adapter="a"), name(revision="r"), name(dtype="bfloat16")}) == 5
    far = {"engine": "openai", "url": "http://a/v1"}
    assert len({name(), name(**far), name(**far, video_as="images")}) == 3


def test_each_video_gets_the_caption_of_another() -> None:
    captions = {f"v{i}": f"caption {i}" for i in range(50)}
    drawn = mismatched_captions(captions)
    assert sorted(drawn.values()) == sorted(captions.values())  # type: ignore[type-var]
    assert all(drawn[video_id] != caption for video_id, caption in captions.items())
    # Rows are in an order in which the drawn caption is that of the next one, the first after the last.
    order = list(drawn)
    assert [drawn[video_id] for video_id in order] == [captions[i] for i in (*order[1:], order[0])]
    # What is drawn depends on the ids only, and a new video changes it for one other.
    assert mismatched_captions(dict(reversed(captions.items()))) == drawn
    more = mismatched_captions(captions | {"v50": "caption 50"})
    assert sum(more[video_id] != drawn[video_id] for video_id in captions) == 1


def test_an_equal_caption_is_no_mismatch() -> None:
    captions = {f"v{i}": "a stock video" if i % 3 else f"caption {i}" for i in range(30)}
    drawn = mismatched_captions(captions)
    assert all(other not in (None, captions[video_id]) for video_id, other in drawn.items())
    assert mismatched_captions({"a": "same", "b": "same"}) == {"a": None, "b": None}
    assert mismatched_captions({"a": "alone"}) == {"a": None}
    assert mismatched_captions({}) == {}


def test_roc_auc_counts_pairs() -> None:
    # 0.9 is above both, 0.5 ties with one and is above the other: 3.5 of 4.
    assert roc_auc([0.9, 0.5], [0.5, 0.1]) == pytest.approx(3.5 / 4)
    assert roc_auc([0.9], []) is None


def test_separation_compares_given_pairs_with_mismatched_ones() -> None:
    result = separation([0.9, 0.5], [0.5, 0.1], 0.5)
    assert result is not None
    assert (result.videos, result.auc, result.threshold) == (2, pytest.approx(0.875), 0.5)
    assert (result.rejected, result.mismatched_rejected) == (0.0, 0.5)
    assert separation([], [], 0.5) is None


def test_the_interval_of_the_separation_is_that_of_hanley_and_mcneil() -> None:
    # Their example: 51 abnormal and 58 normal images, area 0.893, standard error 0.032.
    theirs = separation([100.0] * 45 + [31.0] + [-1.0] * 5, list(range(58)), 0.0)
    assert theirs is not None
    assert theirs.auc == pytest.approx(0.893, abs=1e-4)
    assert (theirs.high - theirs.low) / 2 / 1.96 == pytest.approx(0.032, abs=6e-4)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # two normal distributions one deviation apart: true area 0.7602
        result = separation(rng.normal(1, 1, 40), rng.normal(0, 1, 40), 0.0)  # type: ignore[arg-type]
        assert result is not None
        covered += result.low <= 0.7602 <= result.high
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize("videos,gap,warns", [(100, 0.0, True), (100, 1.0, False), (10, 0.0, False)])
def test_a_model_that_knows_nothing_is_reported(
    videos: int, gap: float, warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    result = separation(rng.normal(gap, 1, videos), rng.normal(0, 1, videos), 0.0)  # type: ignore[arg-type]
    assert result is not None
    assert result.is_chance is warns
    _warn_of_chance(ConsistencyConfig(model="m", threshold=0.0), result)
    assert ("quality.consistency.model='m': it does not tell the captions" in caplog.text) is warns


class FakeBackend:
    """A text's vector is its number in degrees; a video's the grey of its first frame."""

    def refuses(self, item: Item) -> str:
        return ""

    def embed(self, items: list[Item], finished: Callable[[int], object] = lambda n: None) -> Any:
        def degrees(item: Item) -> float:
            assert item.instruction is None
            if item.text is not None:
                return float(item.text)
            assert item.video is not None
            assert not isinstance(item.video, str)
            assert item.video.pixels.shape == (2, 28, 28, 3)
            assert item.video.timestamps.tolist() == [0.0, 1.5]
            return float(item.video.pixels[0].mean())

        angles = np.radians([degrees(item) for item in items])
        return SimpleNamespace(vectors=np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))


def test_the_score_is_the_cosine_of_a_caption_and_its_own_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load(config: Any, settings: Any, identity: Any) -> FakeBackend:
        loaded.append(config)
        return FakeBackend()

    monkeypatch.setattr(gve_ray.embedder.backends, "open_model", load)
    ingest = Store(str(tmp_path / "ingest.lance"), INGEST_SCHEMA).create()
    rows = []
    for video_id, grey in (("b", 60), ("a", 90), ("c", 200)):
        jpeg = encode_jpeg(np.full((28, 28, 3), grey, dtype=np.uint8))
        facts = {"video_id": video_id, "fps": 2.0, "duration": 2.0, "total_frames": 4}
        frames = {"frames": [jpeg, jpeg], "timestamps": [0.0, 1.5], "indices": [0, 3]}
        rows.append(dict.fromkeys(INGEST_SCHEMA.names) | facts | frames)
    ingest.append(pa.Table.from_pylist(rows, schema=INGEST_SCHEMA))

    config = ConsistencyConfig(model="m", engine="openai", url="http://127.0.0.1:9/v1", threshold=0.3)
    worker = ConsistencyWorker(config, ingest)
    scored = worker(
        [
            {"video_id": "a", "caption": "30", "other": "60"},
            {"video_id": "b", "caption": "60", "other": None},
        ]
    )

    assert [(model.model, model.engine, model.url) for model in loaded] == [("m", "openai", config.url)]
    assert [row["consistency"] for row in scored] == pytest.approx([0.5, 1.0], abs=1e-3)  # type: ignore[index]
    assert scored[1] == {
        "video_id": "b",
        "caption_hash": caption_hash("60"),
        "consistency": scored[1]["consistency"],  # type: ignore[index]
        "mismatched": None,
    }
    assert scored[0]["mismatched"] == pytest.approx(3**0.5 / 2, abs=1e-3)  # type: ignore[index]
    pa.Table.from_pylist(scored, schema=CONSISTENCY_SCHEMA)


def test_a_model_that_takes_no_videos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts(FakeBackend):
        def refuses(self, item: Item) -> str:
            return "the model takes text, not video" if item.video else ""

    monkeypatch.setattr(gve_ray.embedder.backends, "open_model", lambda *args: Texts())
    config = ConsistencyConfig(model="m", engine="openai", url="http://a/v1", threshold=0.3)
    with pytest.raises(ValueError, match=r"consistency.model='m': the model takes text, not video"):
        ConsistencyWorker(config, None)  # type: ignore[arg-type]
