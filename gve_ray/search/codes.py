"""Small codes of vectors, among which FAISS finds candidates for a query.

    codes = Codes.of(read, 100_000, options)        # read: row numbers [m] -> vectors, float32 [m, d]
    rows = codes.nearest(query, 100)                # int64 [up to 100], of a query, float32 [d]

Codes are in memory, while the vectors stay on disk. `IndexOptions.structure` names their form, and with
`prefix` they are made of the first dimensions of the vectors, with unit norm again. Products of codes
are approximate, so the candidates have to be scored again by their vectors.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from gve_ray.schema import truncated
from gve_ray.search.index import IndexOptions

# A code of SQ8 is linear between the least and the largest value of its dimension. RaBitQ: arXiv:2405.12497.
# HNSW: arXiv:1603.09320, with 32 neighbours.
_FACTORIES = {
    "FLAT": "Flat",
    "SQ": "SQ8",
    "RQ": "RaBitQ",
    "IVF_SQ": "IVF{cells},SQ8",
    "IVF_RQ": "IVF{cells},RaBitQ",
    "HNSW_SQ": "HNSW32,SQ8",
}
_SAMPLE = 65_536  # vectors from which the ranges of codes and the centroids of cells are learned
_PER_CELL = 64  # the same for each cell, if that is more
_QUERY_BITS = 8  # of each dimension of a query that is compared with RaBitQ codes
_AT_ONCE = 65_536  # vectors

Read = Callable[[np.ndarray], np.ndarray]  # row numbers, int64 [m] -> their vectors, float32 [m, d]


class Codes:
    """The codes of n rows, in their order. Create with `of` or `load`.

    index: of FAISS. is_kept: bool [codes]; the code of a row that was removed stays in the index,
    because HNSW cannot remove any. learned_from: number of vectors when the codes were made.
    """

    def __init__(self, index: Any, options: IndexOptions, is_kept: np.ndarray, learned_from: int) -> None:
        self._index, self._options = index, options
        self._learned_from = learned_from
        self._set_kept(is_kept)

    @classmethod
    def of(cls, read: Read, count: int, options: IndexOptions) -> "Codes":
        """Return the codes of the rows 0 to count - 1."""
        import faiss

        structure = str(options.chosen_structure)
        cells = max(1, round(count / options.cell)) if structure.startswith("IVF") else 0
        size = min(count, max(_SAMPLE, _PER_CELL * cells))
        sample = np.sort(np.random.default_rng(0).choice(count, size, replace=False))
        vectors = _searched(read(sample), options)
        factory = _FACTORIES[structure].format(cells=cells)
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        codes = cls(index, options, np.zeros(0, dtype=bool), count)
        codes.extend(read, count)
        return codes

    @classmethod
    def load(cls, path: Path, options: IndexOptions) -> "Codes":
        """Return what `save` wrote. Raises OSError or ValueError if the file cannot be read."""
        import faiss

        try:
            with np.load(path, allow_pickle=False) as arrays:
                index = faiss.deserialize_index(arrays["index"])
                is_kept = np.unpackbits(arrays["is_kept"], count=int(arrays["codes"])).astype(bool)
                return cls(index, options, is_kept, int(arrays["learned_from"]))
        except (BadZipFile, KeyError, RuntimeError) as error:
            raise ValueError(str(error)) from error

    def save(self, path: Path) -> None:
        """Write the codes to a file."""
        import faiss

        with path.open("wb") as file:
            np.savez(
                file,
                index=faiss.serialize_index(self._index),
                is_kept=np.packbits(self._is_kept),
                codes=len(self._is_kept),
                learned_from=self._learned_from,
            )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._places)

    def suits(self, count: int) -> bool:
        """Return whether so many rows should have these codes, rather than codes that are made anew.

        Those are better if half of the codes would be of rows that were added or removed later.
        """
        codes = len(self._is_kept) + count - len(self)
        return codes <= 2 * self._learned_from and codes <= 2 * count

    def extend(self, read: Read, count: int) -> None:
        """Add the codes of the rows up to count - 1 that have none."""
        for start in range(len(self), count, _AT_ONCE):
            numbers = np.arange(start, min(start + _AT_ONCE, count))
            self._index.add(_searched(read(numbers), self._options))
            self._set_kept(np.append(self._is_kept, np.ones(len(numbers), dtype=bool)))

    def keep(self, kept: np.ndarray) -> None:
        """Remove rows. kept: bool [n], whether a row stays; the others get the numbers after it."""
        is_kept = self._is_kept.copy()
        is_kept[self._places] = kept
        self._set_kept(is_kept)

    def nearest(self, query: np.ndarray, depth: int, among: np.ndarray | None = None) -> np.ndarray:
        """Return the numbers of about `depth` rows with about the largest products, int64.

        query: float32 [d]. among: bool [n], the rows among which to search; None for all. There are
        fewer numbers if fewer rows are in the cells that are read.
        """
        is_searched, share = self._is_kept, 1.0
        if among is not None:
            is_searched = np.zeros_like(self._is_kept)
            is_searched[self._places[among]] = True
            share = max(1, int(np.count_nonzero(among))) / len(among)
        parameters = self._parameters(depth, share, None if is_searched.all() else is_searched)
        _, (places,) = self._index.search(_searched(query[None], self._options), depth, params=parameters)
        return np.asarray(np.searchsorted(self._places, places[places >= 0]))

    def _parameters(self, depth: int, share: float, is_searched: np.ndarray | None) -> Any:
        """Return the parameters of a search. share: of the rows that pass the filter."""
        import faiss

        kinds: Any = faiss  # whose type hints lack some of the classes
        structure, probes = str(self._options.chosen_structure), math.ceil(self._options.probes / share)
        parameters: dict[str, Any] = {}
        if is_searched is not None:
            parameters["sel"] = kinds.IDSelectorBitmap(np.packbits(is_searched, bitorder="little"))
        if structure.startswith("IVF"):
            parameters["nprobe"] = min(probes, self._index.nlist)
        if structure.startswith("HNSW"):
            parameters["efSearch"] = max(probes, depth)
        if structure.endswith("RQ"):
            parameters["qb"] = _QUERY_BITS
        kind = {
            "RQ": kinds.RaBitQSearchParameters,
            "IVF_SQ": kinds.SearchParametersIVF,
            "IVF_RQ": kinds.IVFRaBitQSearchParameters,
            "HNSW_SQ": kinds.SearchParametersHNSW,
        }.get(structure, kinds.SearchParameters)
        return kind(**parameters)

    def _set_kept(self, is_kept: np.ndarray) -> None:
        self._is_kept = is_kept
        self._places = np.flatnonzero(is_kept)  # int64 [n], the code of each row


def _searched(vectors: np.ndarray, options: IndexOptions) -> np.ndarray:
    """Return the part of vectors that is coded, float32 [n, prefix or d]."""
    prefix = options.prefix or vectors.shape[1]
    return np.ascontiguousarray(truncated(vectors, prefix))
