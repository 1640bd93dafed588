"""Semantic duplicates: which of several videos that show the same stays, in one part and in several."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.synthesis.config import (
    CaptionerConfig,
    ConsistencyConfig,
    QualityConfig,
    SynthesisConfig,
)
from gve_ray.synthesis.pipeline import STAGES, stages_of
from gve_ray.synthesis.semantic import KeptVectors, semantic_duplicates

DEGREES = {"a": 0, "b": 5, "c": 10, "d": 90, "e": 93}  # of the vectors, on a circle
LIMIT = float(np.cos(np.radians(7)))  # closer than 7 degrees: duplicates


def find(
    names: Sequence[str], kept: KeptVectors | None = None, widths: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Return whose duplicate each rejected video is."""
    table = pa.table(
        {"video_id": names, "width": [(widths or {}).get(n, 10) for n in names], "height": [10] * len(names)}
    )

    def read(ids: Sequence[str]) -> np.ndarray:
        angles = np.radians([DEGREES[video_id] for video_id in ids])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    rejects, nearest = semantic_duplicates(table, read, threshold=LIMIT, kept=kept or KeptVectors())
    assert {reject.reason for reject in rejects.values()} <= {"semantic_duplicate"}
    assert sum(cosine >= LIMIT for cosine in nearest) == len(rejects)
    return {name: reject.scores["copy_of"] for name, reject in rejects.items()}


@pytest.mark.parametrize("names", ["abcde", "edcba", "cadbe"])
def test_the_first_by_id_stays_and_a_chain_is_no_group(names: str) -> None:
    # c is as near to b as b is to a, but b does not stay.
    assert find(names) == {"b": "a", "e": "d"}


def test_the_largest_picture_stays() -> None:
    assert find("abc", widths={"b": 20}) == {"a": "b", "c": "b"}


def test_an_earlier_part_wins_however_small_its_picture() -> None:
    kept = KeptVectors()
    assert find("b", kept) == {}
    assert find("acd", kept, widths={"a": 99}) == {"a": "b", "c": "b"}
    assert find("e", kept) == {"e": "d"}


def test_many_videos_in_chunks_are_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = find("abcde")
    monkeypatch.setattr("gve_ray.synthesis.semantic._CHUNK", 2)
    assert find("abcde") == whole


def config(**quality: object) -> SynthesisConfig:
    given = QualityConfig(**quality)  # type: ignore[arg-type]
    return SynthesisConfig(input="v", output="o", captioner=CaptionerConfig(model="m"), quality=given)


def test_the_filter_is_off_by_default_and_needs_an_embedder() -> None:
    assert stages_of(config()) == STAGES
    assert "semantic_duplicate_threshold" not in config().identity()["quality"]
    with pytest.raises(
        ValueError, match=r"quality.semantic_duplicate_threshold=0.9: .*quality.consistency.model"
    ):
        config(semantic_duplicate_threshold=0.9)
    given = config(semantic_duplicate_threshold=0.9, consistency=ConsistencyConfig(model="m", threshold=-1.0))
    stages = {stage.name: stage for stage in stages_of(given)}
    assert [*stages][[*stages].index("consistency") + 1] == "semantic_duplicates"
    assert stages[
        "semantic_duplicates"
    ].in_order  # so parts are compared in their order, whichever is ready first
    assert given.identity()["quality"]["semantic_duplicate_threshold"] == 0.9
