import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gve_ray.training.curriculum import (
    Alignment,
    Curriculum,
    DataSetSize,
    EpochRecord,
    History,
    alignment,
    easy_first,
)


def sizes(*names: str) -> dict[str, DataSetSize]:
    """Data sets that are named after their formats, or `<data set>-<format>`."""
    return {name: DataSetSize(format=name.split("-")[-1], pairs=PAIRS[name]) for name in names or SIZES}


PAIRS = {"T2T": 100, "T2V": 300, "V2V": 100, "uvrd-T2V": 100, "uvrd-V2V": 40}
SIZES = {name: DataSetSize(format=name, pairs=PAIRS[name]) for name in ("T2T", "T2V", "V2V")}
SCORES = {"T2T": 0.8, "T2V": 0.5, "V2V": 0.7}
LITERAL = Curriculum(
    kind="pyramid", tasks="dataset", prior="none", scores="raw"
)  # the paper's formula as printed


def test_sigma_is_linear_from_the_first_epoch_to_the_last() -> None:
    assert [Curriculum(kind="pyramid", epochs=3).sigma_at(t) for t in (1, 2, 3)] == pytest.approx(
        [0.1, 0.55, 1.0]
    )
    assert Curriculum(kind="pyramid", epochs=1).sigma_at(1) == 0.1
    with pytest.raises(ValueError, match="epochs 1 to 3"):
        Curriculum(kind="pyramid", epochs=3).sigma_at(4)


def test_pyramid_probabilities_by_hand() -> None:
    # Epoch 1, sigma 0.1: exp(8), exp(5), exp(7). Relative to the first: 1, e^-3, e^-1.
    first = LITERAL.probabilities(1, SIZES, scores=SCORES)
    total = 1 + math.exp(-3) + math.exp(-1)
    assert first == pytest.approx(
        {"T2T": 1 / total, "T2V": math.exp(-3) / total, "V2V": math.exp(-1) / total}
    )
    # Epoch 3, sigma 1.0: exp(0.8), exp(0.5), exp(0.7).
    last = LITERAL.probabilities(3, SIZES, scores=SCORES)
    shares = {task: math.exp(score) for task, score in SCORES.items()}
    assert last == pytest.approx({task: share / sum(shares.values()) for task, share in shares.items()})


def test_a_small_sigma_does_not_overflow() -> None:
    drawn = Curriculum(kind="pyramid", prior="none", sigma=(1e-4, 1.0)).probabilities(1, SIZES, scores=SCORES)
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


def test_the_prior_multiplies_by_the_number_of_pairs() -> None:
    # Epoch 1, sigma 0.1: 100 exp(8), 300 exp(5), 100 exp(7).
    drawn = Curriculum(kind="pyramid", prior="size").probabilities(1, SIZES, scores=SCORES)
    total = 1 + 3 * math.exp(-3) + math.exp(-1)
    assert drawn == pytest.approx(
        {"T2T": 1 / total, "T2V": 3 * math.exp(-3) / total, "V2V": math.exp(-1) / total}
    )


def test_data_sets_of_a_format_share_its_steps_by_size() -> None:
    curriculum = Curriculum(kind="uniform")
    datasets = sizes("T2T", "T2V", "V2V", "uvrd-T2V", "uvrd-V2V")
    drawn = curriculum.probabilities(1, datasets)
    assert drawn == pytest.approx({"T2T": 1 / 3, "T2V": 1 / 3, "V2V": 1 / 3})
    assert curriculum.dataset_probabilities(datasets, drawn) == pytest.approx(
        {"T2T": 1 / 3, "T2V": 1 / 4, "uvrd-T2V": 1 / 12, "V2V": 5 / 21, "uvrd-V2V": 2 / 21}
    )
    each = Curriculum(kind="uniform", tasks="dataset")
    drawn = each.probabilities(1, datasets)
    assert drawn == pytest.approx(dict.fromkeys(datasets, 0.2))
    assert each.dataset_probabilities(datasets, drawn) == drawn


def test_the_score_of_a_format_is_that_of_its_pairs() -> None:
    datasets = sizes("T2T", "T2V", "uvrd-T2V")
    alignments = {
        "T2T": Alignment(positive=0.9, mismatched=0.8),
        "T2V": Alignment(positive=0.6, mismatched=0.2),
        "uvrd-T2V": Alignment(positive=0.4, mismatched=0.4),
    }
    # 300 and 100 pairs: (3 * 0.6 + 0.4) / 4, and (3 * 0.4 + 0) / 4.
    assert Curriculum(kind="pyramid", scores="raw").task_scores(datasets, alignments) == pytest.approx(
        {"T2T": 0.9, "T2V": 0.55}
    )
    assert Curriculum(kind="pyramid", scores="centred").task_scores(datasets, alignments) == pytest.approx(
        {"T2T": 0.1, "T2V": 0.3}
    )
    by_dataset = Curriculum(kind="pyramid", scores="raw", tasks="dataset").task_scores(datasets, alignments)
    assert by_dataset == pytest.approx({"T2T": 0.9, "T2V": 0.6, "uvrd-T2V": 0.4})
    with pytest.raises(ValueError, match="no score for T2T"):
        Curriculum(kind="pyramid").task_scores(
            datasets, {"T2V": alignments["T2V"], "uvrd-T2V": alignments["T2V"]}
        )


def test_weights_multiply_the_number_of_pairs() -> None:
    weighted = {
        name: DataSetSize(format=name, pairs=PAIRS[name], weight=weight)
        for name, weight in (("T2T", 1.0), ("T2V", 0.5), ("V2V", 0.0))
    }
    drawn = Curriculum(kind="proportional").probabilities(1, weighted)
    assert drawn == pytest.approx({"T2T": 0.4, "T2V": 0.6, "V2V": 0.0})  # 100 : 150 : 0
    # Without the prior, only the weight itself multiplies: 1 : 0.5 : 0.
    drawn = Curriculum(kind="pyramid", prior="none").probabilities(
        1, weighted, scores=dict.fromkeys(SCORES, 0.5)
    )
    assert drawn == pytest.approx({"T2T": 2 / 3, "T2V": 1 / 3, "V2V": 0.0})


def test_alignment_is_the_mean_cosine_of_pairs_and_of_mismatched_ones() -> None:
    queries = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    targets = np.array([[0.6, 0.8], [0.6, 0.8], [1, 0]], dtype=np.float32)
    # Cosines: [.6 .6 1], [.8 .8 0], [1 1 .6].
    found = alignment(queries, targets)
    assert found.positive == pytest.approx((0.6 + 0.8 + 0.6) / 3)
    assert found.mismatched == pytest.approx((0.6 + 1 + 0.8 + 0 + 1 + 1) / 6)
    assert alignment(queries[:1], targets[:1]) == Alignment(positive=pytest.approx(0.6), mismatched=0.0)


def test_easy_first_breaks_ties_by_name() -> None:
    assert easy_first({"b": 0.5, "c": 0.9, "a": 0.5}) == ["c", "a", "b"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"datasets": {"T2T": DataSetSize(format="T2T", pairs=0)}}, "no pairs for T2T"),
        ({"datasets": {}}, "at least one data set"),
        ({"scores": {"T2T": 0.3}}, "no score R_k for T2V, V2V"),
        ({"scores": None}, "no score"),
        ({"scores": {**SCORES, "T2V": math.nan}}, "score of T2V is not a number"),
        ({"datasets": {name: replace(size, weight=0.0) for name, size in SIZES.items()}}, "weight 0"),
    ],
)
def test_impossible_draws_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Curriculum(kind="pyramid").probabilities(**{"epoch": 1, "datasets": SIZES, "scores": SCORES} | change)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "random"},
        {"epochs": 0},
        {"sigma": (0.0, 1.0)},
        {"tasks": "pair"},
        {"prior": "sizes"},
        {"scores": "cosine"},
    ],
)
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"curriculum.{next(iter(wrong))}"):
        Curriculum(**wrong)


def test_a_saved_history_can_be_loaded(tmp_path: Path) -> None:
    record = EpochRecord(
        epoch=1, sigma=0.1, prober="base", scores=SCORES, probabilities={"T2T": 1.0}, datasets={"T2T": 1.0}
    )
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
