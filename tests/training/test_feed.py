import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gve_ray.schema import Item, Task
from gve_ray.training.config import DistillationConfig, LossConfig
from gve_ray.training.feed import Mined, ahead, items_of
from gve_ray.training.loss import info_nce
from gve_ray.training.mining import NONE as NONE_MINED
from gve_ray.training.mixture import DataSet
from gve_ray.training.pairs import PairSet, freeze, id_of, identity_of
from gve_ray.training.prober import score_dataset
from gve_ray.training.schedule import Step
from gve_ray.training.step import Taught, backward
from tests.training import tiny

NONE = {"text": None, "image": None, "video": None}


def make_dataset(folder: Path, *, negatives: int = 2, own: bool = True) -> DataSet:
    """Return a data set of four pairs. If `own`, row 1 has a hard negative in the data set."""
    rows = [
        {
            "pair_id": f"p{i}",
            "query": {**NONE, "text": f"q{i}"},
            "target": {**NONE, "video": f"asset://v{i}/video"},
            "negatives": [{**NONE, "text": "from the data set"}] if own and i == 1 else [],
            "instruction": "Find it.",
            "domain": None,
            "style": None,
        }
        for i in range(4)
    ]
    freeze(rows, folder / "x.arrow")
    pairs = PairSet(folder / "x.arrow", name="x", task=Task.T2V)
    return DataSet(
        pairs=pairs, weight=1.0, batch_size=2, negatives=negatives, brings_negatives=pairs.has_negatives()
    )


STEP = Step(index=0, dataset="x", rows=np.array([3, 0, 1, 2], dtype=np.int32), world_size=2)


def save_mined(folder: Path, rows: list[list[int]]) -> Mined:
    np.save(folder / "mined.npy", np.array(rows, dtype=np.int32))
    return Mined(path=folder / "mined.npy")


def test_a_rank_gets_its_pairs_with_given_negatives_then_mined_ones_then_its_targets(tmp_path: Path) -> None:
    mined = save_mined(tmp_path, [[1, 2], [3, 0], [0, NONE_MINED], [NONE_MINED, NONE_MINED]])
    step_items = items_of(STEP, 1, make_dataset(tmp_path), mined)  # rows 1 and 2
    assert [item.text for item in step_items.items[:2]] == ["q1", "q2"]
    assert [item.video for item in step_items.items[2:4]] == ["asset://v1/video", "asset://v2/video"]
    assert [item.text or item.video for item in step_items.items[4:]] == [
        "from the data set",
        "asset://v3/video",
        "asset://v0/video",
        "asset://v2/video",
    ]
    assert step_items.pair_ids.tolist() == [id_of("p1"), id_of("p2")]
    assert step_items.sources.tolist() == [id_of("v1"), id_of("v2")]
    assert step_items.query_sources.tolist() == [identity_of(Item(text=text)) for text in ("q1", "q2")]
    assert step_items.negative_sources.tolist() == [
        [id_of("from the data set"), id_of("v3")],
        [id_of("v0"), id_of("v2")],
    ]


def test_without_given_or_mined_negatives_there_are_none(tmp_path: Path) -> None:
    step_items = items_of(STEP, 0, make_dataset(tmp_path, own=False), None)
    assert step_items.negative_sources.shape == (2, 0)
    assert [item.text or item.video for item in step_items.items] == [
        "q3",
        "q0",
        "asset://v3/video",
        "asset://v0/video",
    ]


@pytest.mark.parametrize("gradcache", [False, True])
def test_chunks_in_any_order_give_the_loss_of_the_pairs(tmp_path: Path, gradcache: bool) -> None:
    dataset = replace(tiny.datasets(tmp_path)["two"], negatives=1)
    rows = np.array([5, 1, 30], dtype=np.int32)
    mined = save_mined(tmp_path, [[17]] * 40)
    items = items_of(Step(index=0, dataset="two", rows=rows, world_size=1), 0, dataset, mined)
    model = tiny.Letters()
    loss = backward(model, tiny.collate(items.items), items, LossConfig(), gradcache=gradcache)
    got = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()

    def vectors(texts: list[str | None]) -> torch.Tensor:
        return torch.cat([model([tiny.collate([Item(text=text)])[0].batch]) for text in texts])

    pairs = dataset.pairs.take(rows)
    expected = info_nce(
        vectors([pair.query.text for pair in pairs]),
        vectors([pair.target.text for pair in pairs]),
        vectors([dataset.pairs.take([17])[0].target.text] * 3)[:, None, :],
    )
    expected.value.backward()
    assert loss.value.item() == pytest.approx(expected.value.item(), abs=1e-5)
    for mine, weight in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, atol=1e-5, rtol=1e-4)


def test_the_teachers_term_is_added_and_a_rank_gets_the_gradient_of_both(tmp_path: Path) -> None:
    dataset = replace(tiny.datasets(tmp_path)["two"], negatives=1)
    rows = np.array([5, 1, 30], dtype=np.int32)
    items = items_of(
        Step(index=0, dataset="two", rows=rows, world_size=1), 0, dataset, save_mined(tmp_path, [[17]] * 40)
    )
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((9, 6)).astype(np.float32)
    teacher /= np.linalg.norm(teacher, axis=1, keepdims=True)
    config = DistillationConfig(model="teacher", weight=0.5, temperature=0.2)
    model = tiny.Letters()
    taught = Taught(embeddings=teacher, config=config)
    loss = backward(model, tiny.collate(items.items), items, LossConfig(), gradcache=False, taught=taught)
    got = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()

    alone = backward(model, tiny.collate(items.items), items, LossConfig(), gradcache=False)
    vectors = model([tiny.collate([item])[0].batch for item in items.items])
    # By hand: three queries, three targets, and one negative of each query.
    student = torch.stack([vectors[i] @ vectors[[3, 4, 5, 6 + i]].T for i in range(3)]) / 0.03
    given = torch.tensor(np.stack([teacher[[3, 4, 5, 6 + i]] @ teacher[i] for i in range(3)])) / 0.2
    p = torch.softmax(given, dim=1)
    term = (p * (p.log() - torch.log_softmax(student, dim=1))).sum(dim=1).mean()
    (0.5 * term).backward()  # adds to the gradient of the loss without a teacher
    assert term.item() > 0.1
    assert loss.value.item() == pytest.approx(alone.value.item() + 0.5 * term.item(), abs=1e-4)
    for mine, weight in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(mine, weight.grad, atol=1e-4, rtol=1e-3)


def test_the_score_of_a_data_set_is_the_mean_cosine_of_its_pairs(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, negatives=2, own=False)
    angles = {"q0": 0, "q1": 30, "q2": 60, "q3": 90, "v0": 10, "v1": 40, "v2": 70, "v3": 100}

    def embed(items: Sequence[Item]) -> np.ndarray:
        keys = [item.text or str(item.video)[8:10] for item in items]
        turned = np.deg2rad([angles[key] for key in keys])
        return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)

    assert score_dataset(embed, dataset, pairs=3, seed=1).positive == pytest.approx(np.cos(np.deg2rad(10)))


def test_ahead_keeps_the_order_and_raises_an_error_in_its_place() -> None:
    def make(number: int) -> int:
        if number == 5:
            raise KeyError("five")
        return number * 10

    assert [value for value, _ in ahead(make, range(5))] == [0, 10, 20, 30, 40]
    feed = ahead(make, range(9))
    assert [next(feed)[0] for _ in range(5)] == [0, 10, 20, 30, 40]
    with pytest.raises(KeyError, match="five"):
        next(feed)


def test_ahead_computes_in_advance_and_stops_when_it_is_closed() -> None:
    made: list[int] = []
    enough = threading.Event()

    def make(number: int) -> int:
        made.append(number)
        if number == 2:
            enough.set()
        return number

    feed = ahead(make, range(1000), depth=2)
    assert next(feed)[0] == 0
    assert enough.wait(60)  # 1 and 2 are computed although only 0 has been requested
    feed.close()
    assert max(made) <= 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gve-feed")]
