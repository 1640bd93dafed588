"""Queries of several parts: the expected vectors are worked out by hand."""

import numpy as np
import pytest

from gve_ray.search import SearchError, composed

X, Y = np.eye(2, dtype=np.float32)
HALF = np.float32(np.sqrt(0.5))


def test_one_part_stays_as_it_is() -> None:
    vector = np.array([0.6, 0.8], np.float32)
    for query in (composed(content=vector), composed(like=vector[None])):
        assert query.dtype == np.float32
        assert query.tolist() == vector.tolist()


def test_the_mean_of_segments_has_unit_length() -> None:
    assert composed(like=np.stack([X, Y])).tolist() == [HALF, HALF]


def test_segments_count_as_much_as_the_content_however_many_there_are() -> None:
    assert composed(content=Y, like=np.stack([X, X, X])).tolist() == [HALF, HALF]


def test_half_of_what_is_not_wanted_is_subtracted() -> None:
    expected = np.array([2, -1]) / np.sqrt(5)  # (1, 0) - (0, 1) / 2
    assert composed(content=X, without=Y).tolist() == expected.astype(np.float32).tolist()
    # (1, 0) + (0, 1) - (0, 1) / 2 = (1, 1 / 2)
    expected = np.array([2, 1]) / np.sqrt(5)
    assert composed(content=X, like=Y[None], without=Y).tolist() == expected.astype(np.float32).tolist()


def test_parts_that_cancel_each_other_out() -> None:
    with pytest.raises(SearchError, match="cancel each other out"):
        composed(content=X, like=-X[None])
    with pytest.raises(SearchError, match="cancel each other out"):
        composed(like=np.stack([Y, -Y]), without=X)
