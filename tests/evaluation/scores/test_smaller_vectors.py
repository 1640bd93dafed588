"""Truncated, int8 and binary vectors, worked out by hand."""

import numpy as np
import pytest

from gve_ray.evaluation.config import EvaluationConfig, ModelConfig, SmallerVectors
from gve_ray.evaluation.scores.smaller_vectors import applicable, bytes_per_vector, facts_of, shrink
from gve_ray.search import exact


def floats(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_the_first_dimensions_get_unit_norm() -> None:
    corpus = floats((3 / 13, 4 / 13, 12 / 13), (0, 0, 1))
    compact = shrink(corpus[:1], corpus, SmallerVectors(dimension=2))
    assert compact.queries == pytest.approx(floats((0.6, 0.8)))
    assert compact.corpus == pytest.approx(floats((0.6, 0.8), (0, 0)))
    assert (compact.corpus.dtype, compact.scale, compact.rescoring) == (np.float32, None, None)


def test_int8_has_the_scale_of_the_corpus() -> None:
    """The largest value of the corpus is 0.254, so a code is a step of 0.002; queries are clipped."""
    compact = shrink(floats((0.9, -0.9, 0.0029)), floats((0.254, 0.1, 0), (-0.02, 0.0011, -0.1)),
                     SmallerVectors(dtype="int8"))  # fmt: skip
    assert compact.scale == pytest.approx(0.002)
    assert compact.corpus.tolist() == [[127, 50, 0], [-10, 1, -50]]
    assert compact.queries.tolist() == [[127, -127, 1]]


def test_int8_truncates_first() -> None:
    """(0.3, 0.4, x) becomes (0.6, 0.8), so the scale is 0.8 / 127."""
    corpus = floats((0.3, 0.4, 0.5))
    compact = shrink(corpus, corpus, SmallerVectors(dimension=2, dtype="int8"))
    assert compact.scale == pytest.approx(0.8 / 127)
    assert compact.corpus.tolist() == [[95, 127]]


def test_a_corpus_of_zeros_has_codes() -> None:
    assert shrink(floats((1, 0)), floats((0, 0)), SmallerVectors(dtype="int8")).corpus.tolist() == [[0, 0]]


def test_binary_vectors_are_ranked_by_hamming_distance() -> None:
    rng = np.random.default_rng(0)
    queries, corpus = (rng.standard_normal((n, 20)).astype(np.float32) for n in (5, 30))
    compact = shrink(queries, corpus, SmallerVectors(dtype="binary"))
    bits = np.packbits(queries > 0, axis=1), np.packbits(corpus > 0, axis=1)
    distances = np.unpackbits(bits[0][:, None] ^ bits[1][None], axis=2).sum(axis=2)
    rows, scores = exact(compact.queries, compact.corpus, 30)
    assert rows.tolist() == np.argsort(distances, axis=1, kind="stable").tolist()
    assert scores.tolist() == (20 - 2 * np.sort(distances.astype(int), axis=1)).tolist()
    assert bits[1].shape[1] == bytes_per_vector(20, "binary") == 3


def test_zero_is_a_negative_sign_and_rescoring_has_the_query_in_float32() -> None:
    vectors = floats((0.6, 0, -0.8))
    compact = shrink(vectors, vectors, SmallerVectors(dtype="binary", rescore=True))
    assert compact.corpus.tolist() == [[1, -1, -1]]
    assert compact.rescoring is vectors


def test_forms_that_do_not_fit_are_left_out() -> None:
    forms = [
        SmallerVectors(dimension=512),
        SmallerVectors(dimension=256),
        SmallerVectors(dimension=256, dtype="int8"),
        SmallerVectors(dtype="binary", rescore=True),
    ]
    assert [form.label for form in applicable(forms, 1024)] == ["512", "256", "256-int8", "binary-rescored"]
    assert [form.label for form in applicable(forms, 256)] == ["256-int8", "binary-rescored"]
    assert applicable(forms, 0) == []
    assert facts_of("m", forms[2], 1024) == {
        "model": "m",
        "dimension": 256,
        "dtype": "int8",
        "rescore": False,
        "bytes": 256,
        "full_bytes": 4096,
    }


@pytest.mark.parametrize(
    "options,message",
    [
        ([{}], "without dimension and dtype is the full vector"),
        ([{"dimension": 0}], "vectors.dimension=0: use a number that is at least 1"),
        ([{"dtype": "int8", "rescore": True}], "rescore=True: only for dtype binary, not for int8"),
        ([{"dimension": 8}, {"dimension": 8}], "vectors: 8 named twice"),
    ],
)
def test_invalid_forms(options: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationConfig(
            models=(ModelConfig(name="m", model="m"),),
            root="r",
            vectors=tuple(SmallerVectors(**each) for each in options),  # type: ignore[arg-type]
        )
