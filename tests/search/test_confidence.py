"""Tests that the confidence of a score is the probability that it claims to be."""

import numpy as np
import pytest

from gve_ray.search.confidence import SAMPLE, Background, background_of

D = 48


def unit(rng: np.random.Generator, n: int, d: int = D) -> np.ndarray:
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best_confidences(background: Background, queries: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.array([background.judge(query, len(index))(float((index @ query).max())) for query in queries])


@pytest.mark.parametrize("size", [SAMPLE, 20 * SAMPLE])
def test_queries_without_an_answer_reach_a_confidence_as_often_as_it_says(size: int) -> None:
    """In an index that is much larger than the sample, rather less often."""
    rng = np.random.default_rng(0)
    index = unit(rng, size)
    background = background_of(index[:SAMPLE], [str(i // 2) for i in range(SAMPLE)])
    assert background is not None
    reached = best_confidences(background, unit(rng, 400), index)
    for level in (0.5, 0.9):
        share = np.mean(reached >= level) / (1 - level)
        assert (0.7 if size == SAMPLE else 0.2) < share < 1.3
    answered = 0.8 * index[:100] + 0.6 * unit(rng, 100)
    assert np.mean(best_confidences(background, answered, index) >= 0.99) == 1.0


def test_copies_in_the_index_do_not_hide_answers() -> None:
    rng = np.random.default_rng(1)
    films = unit(rng, 200)
    vectors = np.concatenate([films, films[:20]])
    with_copies = background_of(vectors, [str(i) for i in range(len(vectors))])
    without = background_of(films, [str(i) for i in range(len(films))])
    assert with_copies is not None
    assert without is not None
    judge, other = (made.judge(films[50], 200) for made in (with_copies, without))
    for score in (0.4, 0.5):
        assert judge(score) == pytest.approx(other(score), abs=0.1)


def test_it_survives_a_file_and_needs_enough_films() -> None:
    vectors = unit(np.random.default_rng(2), 32)
    assert background_of(vectors, [str(i % 15) for i in range(32)]) is None
    assert background_of(np.repeat(vectors[:1], 32, axis=0), [str(i) for i in range(32)]) is None
    background = background_of(vectors, [str(i % 16) for i in range(32)])
    assert background is not None
    read = Background.from_bytes(background.to_bytes())
    assert (read.location, read.scale) == (background.location, background.scale)
    np.testing.assert_allclose(read.vectors, vectors, atol=1e-3)
