import json
import math
from pathlib import Path

import numpy as np
import pytest

from gve_ray.training.curriculum import Curriculum, EpochRecord, History, alignment, easy_first

SIZES = {"T2T": 100, "T2V": 300, "V2V": 100}
SCORES = {"T2T": 0.8, "T2V": 0.5, "V2V": 0.7}


def test_sigma_is_linear_from_the_first_epoch_to_the_last() -> None:
    assert [Curriculum(epochs=3).sigma_at(t) for t in (1, 2, 3)] == pytest.approx([0.1, 0.55, 1.0])
    assert Curriculum(epochs=1).sigma_at(1) == 0.1
    with pytest.raises(ValueError, match="epochs 1 to 3"):
        Curriculum(epochs=3).sigma_at(4)


def test_pyramid_probabilities_by_hand() -> None:
    # Epoch 1, sigma 0.1: exp(8), exp(5), exp(7). Relative to the first: 1, e^-3, e^-1.
    first = Curriculum().probabilities(1, SIZES, scores=SCORES)
    total = 1 + math.exp(-3) + math.exp(-1)
    assert first == pytest.approx(
        {"T2T": 1 / total, "T2V": math.exp(-3) / total, "V2V": math.exp(-1) / total}
    )
    # Epoch 3, sigma 1.0: exp(0.8), exp(0.5), exp(0.7).
    last = Curriculum().probabilities(3, SIZES, scores=SCORES)
    shares = {task: math.exp(score) for task, score in SCORES.items()}
    assert last == pytest.approx({task: share / sum(shares.values()) for task, share in shares.items()})


def test_a_small_sigma_does_not_overflow() -> None:
    drawn = Curriculum(sigma=(1e-4, 1.0)).probabilities(1, SIZES, scores=SCORES)
    assert drawn == pytest.approx({"T2T": 1.0, "T2V": 0.0, "V2V": 0.0})


def test_probabilities_of_the_other_curricula_by_hand() -> None:
    assert Curriculum(kind="uniform").probabilities(2, SIZES) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    assert Curriculum(kind="proportional").probabilities(1, SIZES) == pytest.approx(
        {"T2T": 0.2, "T2V": 0.6, "V2V": 0.2}
    )
    static = Curriculum(kind="easy_to_hard", epochs=3)
    by_epoch = [static.probabilities(t, SIZES, first_scores=SCORES) for t in (1, 2, 3)]
    assert by_epoch == [
        pytest.approx({"T2T": 1, "T2V": 0, "V2V": 0}),
        pytest.approx({"T2T": 0.5, "T2V": 0, "V2V": 0.5}),
        pytest.approx({"T2T": 0.2, "T2V": 0.6, "V2V": 0.2}),
    ]
    assert [Curriculum(kind=kind).needs_scores for kind in ("pyramid", "uniform", "easy_to_hard")] == [
        True,
        False,
        True,
    ]


def test_weights_multiply_before_normalising() -> None:
    drawn = Curriculum(kind="proportional").probabilities(1, SIZES, weights={"T2V": 0.5, "V2V": 0.0})
    assert drawn == pytest.approx({"T2T": 0.4, "T2V": 0.6, "V2V": 0.0})  # 100 : 150 : 0


def test_alignment_is_the_mean_cosine() -> None:
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    targets = np.array([[0.6, 0.8], [0.6, 0.8]], dtype=np.float32)
    assert alignment(queries, targets) == pytest.approx(0.7)


def test_easy_first_breaks_ties_by_name() -> None:
    assert easy_first({"b": 0.5, "c": 0.9, "a": 0.5}) == ["c", "a", "b"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"sizes": {"T2T": 0, "T2V": 3}}, "no pairs for T2T"),
        ({"sizes": {}}, "at least one task"),
        ({"scores": {"T2T": 0.3}}, "no score R_k for T2V, V2V"),
        ({"scores": None}, "no score"),
        ({"scores": {**SCORES, "T2V": math.nan}}, "score of T2V is not a number"),
        ({"weights": dict.fromkeys(SIZES, 0.0)}, "weight 0"),
    ],
)
def test_impossible_draws_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curriculum().probabilities(**{"epoch": 1, "sizes": SIZES, "scores": SCORES} | change)


@pytest.mark.parametrize("wrong", [{"kind": "random"}, {"epochs": 0}, {"sigma": (0.0, 1.0)}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"curriculum.{next(iter(wrong))}"):
        Curriculum(**wrong)


def test_a_saved_history_can_be_loaded(tmp_path: Path) -> None:
    record = EpochRecord(epoch=1, sigma=0.1, prober="base", scores=SCORES, probabilities={"T2T": 1.0})
    history = History(kind="pyramid").add(record)
    history.save(str(tmp_path / "curriculum.json"))
    assert json.loads((tmp_path / "curriculum.json").read_text())["epochs"][0]["scores"] == SCORES
    again = History.load(tmp_path / "curriculum.json")
    assert again == history
    assert again.first_scores == SCORES
    assert again.of(1) == record
    assert again.of(2) is None
    with pytest.raises(ValueError, match="epoch 1 after 1"):
        again.add(record)
