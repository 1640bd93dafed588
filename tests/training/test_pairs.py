import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gve_ray.schema import Frames, Item, Task
from gve_ray.training.pairs import (
    PairSet,
    check_references,
    freeze,
    id_of,
    identity_of,
    source_of,
)

NONE = {"text": None, "image": None, "video": None}


def row(number: int, **changes: Any) -> dict[str, Any]:
    base = {
        "pair_id": f"p{number}",
        "task": "T2V",
        "query": {**NONE, "text": f"words {number}"},
        "target": {**NONE, "video": f"asset://v{number}/video"},
        "negatives": [],
        "instruction": "Find it.",
        "domain": "CG",
        "style": "short",
    }
    return base | changes


def pair_set(folder: Path, rows: list, **options: Any) -> PairSet:
    freeze(rows, folder / "pairs.arrow")
    return PairSet(folder / "pairs.arrow", name="uvrd-T2V", task=Task.T2V, **options)


def test_rows_are_returned_in_the_requested_order(tmp_path: Path) -> None:
    negative = row(2, negatives=[{**NONE, "video": "asset://v9/clip/1"}])
    rows = [negative if i == 2 else row(i) for i in range(2500)]  # three Arrow batches
    pairs = pair_set(tmp_path, rows)
    assert len(pairs) == 2500
    taken = pairs.take(np.array([2400, 2, 1024, 2], dtype=np.int32))
    assert [pair.pair_id for pair in taken] == ["p2400", "p2", "p1024", "p2"]
    assert taken[0].query == Item(text="words 2400", instruction="Find it.")
    assert taken[0].target == Item(video="asset://v2400/video")
    assert taken[1].negatives == (Item(video="asset://v9/clip/1"),)
    with pytest.raises(IndexError, match="of 2500 pairs"):
        pairs.take([2500])


def test_a_pickled_pair_set_has_the_same_pairs(tmp_path: Path) -> None:
    pairs = pair_set(tmp_path, [row(i) for i in range(5)], sample=3, seed=1)
    ids = [pair.pair_id for pair in pairs.take(range(3))]
    again = pickle.loads(pickle.dumps(pairs))
    assert [pair.pair_id for pair in again.take(range(3))] == ids


def test_the_seed_determines_the_sample(tmp_path: Path) -> None:
    rows = [row(i) for i in range(200)]
    drawn = {
        seed: tuple(pair.pair_id for pair in pair_set(tmp_path, rows, sample=20, seed=seed).take(range(20)))
        for seed in (1, 2)
    }
    assert len(set(drawn[1])) == 20
    assert drawn[1] != drawn[2]
    assert drawn[1] == tuple(p.pair_id for p in pair_set(tmp_path, rows, sample=20, seed=1).take(range(20)))
    assert len(pair_set(tmp_path, rows, sample=1000)) == 200


def test_skipped_rows_are_counted(tmp_path: Path) -> None:
    assert freeze([row(0), None, row(1), None, None], tmp_path / "x.arrow") == 3
    assert len(PairSet(tmp_path / "x.arrow", name="x", task=Task.T2V)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.arrow"]


def test_a_reader_never_sees_an_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"

    def rows() -> Iterator[dict[str, Any]]:
        for number in range(2):
            assert not path.exists()
            yield row(number)

    freeze(rows(), path)
    assert path.exists()


def test_a_data_set_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="uvrd-T2V: no pairs"):
        len(pair_set(tmp_path, []))


def test_sources_are_videos_files_or_texts() -> None:
    assert source_of(Item(video="asset://a%2Fb/clip/3")) == "a/b"
    assert source_of(Item(image="asset://a%2Fb/frame/0", text="words")) == "a/b"
    assert source_of(Item(video="s3://bucket/x.mp4")) == "s3://bucket/x.mp4"
    assert source_of(Item(text="words")) == "words"
    still = Frames(
        pixels=np.zeros((1, 2, 2, 3), dtype=np.uint8),
        timestamps=np.zeros(1),
        indices=np.zeros(1, dtype=np.int64),
        fps=0.0,
        duration=0.0,
        total_frames=1,
    )
    with pytest.raises(TypeError, match="in memory"):
        source_of(Item(image=still))


def test_ids_are_distinct_and_fit_an_int64_tensor() -> None:
    ids = {id_of(f"pair {i}") for i in range(1000)}
    assert len(ids) == 1000
    assert all(-(2**63) <= number < 2**63 for number in ids)


def test_an_identity_covers_all_that_an_item_shows_but_not_its_instruction() -> None:
    items = [
        Item(text="in winter", image="asset://v1/frame/0"),
        Item(text="in summer", image="asset://v1/frame/0"),
        Item(text="in winter", image="asset://v1/frame/1"),
        Item(text="in winter", video="asset://v1/frame/0"),
        Item(text="in winter"),
        Item(image="asset://v1/frame/0"),
        Item(text='in winter", "asset://v1/frame/0'),
    ]
    ids = [identity_of(item) for item in items]
    assert len(set(ids)) == len(items)
    assert [identity_of(replace(item, instruction="Find it.")) for item in items] == ids


@pytest.mark.parametrize("sample", [None, 1100])
def test_the_ids_of_all_pairs_are_those_of_their_items(tmp_path: Path, sample: int | None) -> None:
    rows = [
        row(
            i,
            query={**NONE, "text": f"words {i % 7}"},
            target={**NONE, "video": f"asset://v{i % 5}/clip/{i}"},
        )
        for i in range(2500)  # three Arrow batches
    ]
    pairs = pair_set(tmp_path, rows, sample=sample, seed=1)
    ids = pairs.ids()
    everything = pairs.take(range(len(pairs)))
    assert ids.queries.tolist() == [identity_of(pair.query) for pair in everything]
    assert ids.targets.tolist() == [identity_of(pair.target) for pair in everything]
    assert ids.sources.tolist() == [id_of(source_of(pair.target)) for pair in everything]
    assert (len(set(ids.queries.tolist())), len(set(ids.sources.tolist()))) == (7, 5)


def test_the_error_for_unresolved_references_names_them(tmp_path: Path) -> None:
    here = tmp_path / "here.jpg"
    here.touch()
    good = [
        row(0),
        row(1, target={**NONE, "video": "asset://a%2Fb/clip/0"}),
        row(2, query={**NONE, "image": str(here)}),
        row(3, query={**NONE, "image": "https://example.org/x.jpg"}, target={**NONE, "text": "words"}),
    ]
    check_references([pair_set(tmp_path, good)], {"v0", "a/b", "v2"})
    with pytest.raises(
        ValueError, match=r"uvrd-T2V: 2 references do not resolve, e\.g\. asset://a%2Fb, asset://v2:"
    ):
        check_references([pair_set(tmp_path, good)], {"v0"})
    lost = [row(0, negatives=[{**NONE, "image": str(tmp_path / "gone.jpg")}])]
    with pytest.raises(ValueError, match=r"gone\.jpg: no such file"):
        check_references([pair_set(tmp_path, lost)], {"v0"})
