"""Find semantic duplicates: videos whose vectors are so near to that of an earlier one that they show the same.

Near copies (dedup.py) are the same recording. These are other recordings of the same: the next take, the same
product from another seller. The earliest in the order of the duplicates rule stays: videos of earlier parts, then
those with the largest picture, then by id. A video is compared with those that stay, so a chain of
similar videos does not become one group.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.stage import Reject

_CHUNK = 1024  # videos; a chunk is compared with what stays of all before it


class KeptVectors:
    """The vectors of the videos that have stayed so far, in the order in which they were added.

    Search is exact, so the time grows with the square of their number: 6,000 vectors of 2,048 dimensions take
    4 s on one core, which makes 80 core hours of 1.55 M. They take 4 bytes times the dimension of memory each.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._index: Any = None

    def nearest(self, vectors: np.ndarray) -> tuple[np.ndarray, list[str | None]]:
        """Return the highest cosine of each vector with those that stay, -1 if there is none, and whose it is.

        vectors: float32 [n, d], unit length.
        """
        if not self._ids:
            return np.full(len(vectors), -1.0), [None] * len(vectors)
        cosines, at = self._index.search(vectors, 1)
        return cosines[:, 0].astype(np.float64), [self._ids[i] for i in at[:, 0]]

    def add(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Add videos."""
        import faiss

        if self._index is None:
            self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)
        self._ids += ids


def semantic_duplicates(
    videos: pa.Table, read: Callable[[Sequence[str]], np.ndarray], *, threshold: float, kept: KeptVectors
) -> tuple[dict[str, Reject], list[float]]:
    """Return a reject for each semantic duplicate, and the highest cosine of each video with an earlier one.

    videos: columns video_id, width, height. read: returns the unit vectors of videos by id, float32 [n, d].
    threshold: duplicates have a higher cosine. kept: videos of earlier parts; what stays of `videos` is added.
    """
    area = pc.multiply(videos["width"].cast(pa.int64()), videos["height"].cast(pa.int64())).to_numpy()
    ids = videos["video_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: (-area[i], ids[i]))
    rejects: dict[str, Reject] = {}
    nearest: list[float] = []
    for start in range(0, len(order), _CHUNK):
        names = [ids[i] for i in order[start : start + _CHUNK]]
        vectors = read(names)
        cosines, others = kept.nearest(vectors)
        among = vectors @ vectors.T  # [c, c]
        stay: list[int] = []
        for i, name in enumerate(names):
            if stay and (best := float(among[i, stay].max())) > cosines[i]:
                cosines[i], others[i] = best, names[stay[int(among[i, stay].argmax())]]
            cosine = float(cosines[i])
            if others[i] is not None:
                nearest.append(cosine)
            if cosine <= threshold:
                stay.append(i)
                continue
            rejects[name] = Reject(
                "semantic_duplicate",
                f"cosine {cosine:.4f} with {others[i]}, above {threshold:g}",
                {"copy_of": others[i], "semantic_duplicates": cosine, "threshold": threshold},
            )
        kept.add([names[i] for i in stay], vectors[stay])
    return rejects, nearest
