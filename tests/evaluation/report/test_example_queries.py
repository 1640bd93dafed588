"""Pictures of the queries in the report; their selection is tested in test_page.py."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from gve_ray.evaluation.data.retrieval_set import RetrievalSet
from gve_ray.evaluation.report.example_queries import examples
from gve_ray.media import encode_jpeg
from gve_ray.schema import Item


def test_no_picture_is_read_in_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that crashes its decoder must not crash the run."""
    (tmp_path / "sound.jpg").write_bytes(encode_jpeg(np.full((56, 56, 3), 90, np.uint8)))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    data = RetrievalSet(
        name="mine",
        query_ids=["q"],
        queries=[Item(text="grey", image=str(tmp_path / "sound.jpg"))],
        corpus_ids=["a"],
        corpus=[Item(image=str(tmp_path / "broken.jpg"))],
        positives={"q": frozenset(["a"])},
        candidates=None,
        skipped=[],
    )
    row = {
        "model": "m", "dataset": "mine", "query_id": "q", "first_rank": 1, "positives": ["a"],
        "top": ["a"], "top_scores": [0.5],
    }  # fmt: skip

    def deadly(*_: object) -> None:
        pytest.fail("a picture was read in the main process")

    monkeypatch.setattr(import_module("gve_ray.media.decode"), "read_picture", deadly)
    (example,) = examples([row], [row], {"mine": data}, tmp_path, frames=2)
    assert len(example.query.pictures) == 1
    assert not example.query.fault
    assert "no pictures of this image" in example.answers[0].item.fault
