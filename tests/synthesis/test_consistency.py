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
from gve_ray.synthesis.config import ConsistencyConfig
from gve_ray.synthesis.consistency import (
    CONSISTENCY_SCHEMA,
    ConsistencyWorker,
    calibrate,
    caption_hash,
    scores_fingerprint,
    threshold_of,
)
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
    scored = worker([{"video_id": "a", "caption": "30"}, {"video_id": "b", "caption": "60"}])

    assert [(model.model, model.engine, model.url) for model in loaded] == [("m", "openai", config.url)]
    assert [row["consistency"] for row in scored] == pytest.approx([0.5, 1.0], abs=1e-3)  # type: ignore[index]
    assert scored[1] == {
        "video_id": "b",
        "caption_hash": caption_hash("60"),
        "consistency": scored[1]["consistency"],
    }  # type: ignore[index]
    pa.Table.from_pylist(scored, schema=CONSISTENCY_SCHEMA)


def test_a_model_that_takes_no_videos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Texts(FakeBackend):
        def refuses(self, item: Item) -> str:
            return "the model takes text, not video" if item.video else ""

    monkeypatch.setattr(gve_ray.embedder.backends, "open_model", lambda *args: Texts())
    config = ConsistencyConfig(model="m", engine="openai", url="http://a/v1", threshold=0.3)
    with pytest.raises(ValueError, match=r"consistency.model='m': the model takes text, not video"):
        ConsistencyWorker(config, None)  # type: ignore[arg-type]
