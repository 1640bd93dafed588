"""Exact and near-duplicate removal: one copy of each video stays.

Exact copies share the sha256 of their bytes. Near copies (encoded again, rescaled, a little brighter) share
their signature: the k uniform frames as small thumbnails, luma 16x16 and two colour differences 8x8,
384 bytes a frame. A 64-bit perceptual hash would not do: scenes that share a background and differ in one
small object have equal hashes, while here the object changes a few cells by much. So two videos are copies
if in every frame even the cells that differ most differ little, and their lengths agree. A cell differs by
as much as it lies outside the range of the nine cells around its place in the other video: a copy at
another frame rate shows a moving object a few pixels further on.

Candidates come from a nearest-neighbour search over a 128-dimensional mean of the signature (FAISS: exact
up to 20,000 videos, an inverted file above), so that 1.55 M videos need no quadratic pass; the decision is
always made on the whole signature.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

LUMA, CHROMA = 16, 8  # cells a side
FRAME_BYTES = LUMA * LUMA + 2 * CHROMA * CHROMA
THRESHOLD = 0.1
DURATION_TOLERANCE = 0.1  # seconds, or this share of the longer one if that is more

_WORST_LUMA, _WORST_CHROMA = 6, 3  # cells of a frame: about the area of a small object
_SPREAD, _LEAST_SPREAD = (
    48.0,
    12.0,
)  # grey levels: contrast is brought to the first, but not from below the second
_BLOCK_FACTOR = 4.0  # a block's mean may differ by this many thresholds
_CHUNK = 2048
_NEIGHBOURS = 32
_EXACT_SEARCH = 20_000
_PROBES = 16


def signature(pixels: np.ndarray) -> bytes:
    """Thumbnails of the frames, quantised to bytes: T x 384 bytes.

    pixels: uint8 [T, H, W, 3]. Brightness is kept here and taken out when comparing.
    """
    return b"".join(_thumbnail(frame) for frame in pixels)


def _thumbnail(frame: np.ndarray) -> bytes:
    """luma 16x16, then (r-g)/2 and (b-g)/2 at 8x8, each cell the mean of its area, as uint8."""
    image = Image.fromarray(frame)
    small = np.asarray(image.resize((LUMA, LUMA), Image.Resampling.BOX)).astype(np.float32)
    luma = small @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    coarse = small.reshape(CHROMA, 2, CHROMA, 2, 3).mean(axis=(1, 3))
    red = 127.5 + 0.5 * (coarse[..., 0] - coarse[..., 1])
    blue = 127.5 + 0.5 * (coarse[..., 2] - coarse[..., 1])
    cells = np.concatenate([luma.ravel(), red.ravel(), blue.ravel()])
    return np.clip(np.round(cells), 0, 255).astype(np.uint8).tobytes()


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """video_id is a copy of `kept`. kind: exact or near. distance: of the signatures, 0 for exact."""

    video_id: str
    kept: str
    kind: str
    distance: float


def find_duplicates(videos: pa.Table, *, threshold: float = THRESHOLD) -> list[Duplicate]:
    """The videos to drop, sorted by id. Groups are closed under "is a copy of".

    videos: columns video_id, content_hash, signature, width, height, duration (seconds). Of each group the
    copy with the largest picture stays, then the one with the smallest id: the same for any order of rows.
    threshold: largest `distance` of near copies; 0 finds exact ones only. Takes about 5 kB a video.
    """
    videos = videos.sort_by("video_id").combine_chunks()
    ids, hashes = videos["video_id"].to_pylist(), videos["content_hash"].to_pylist()
    area = pc.multiply(videos["width"].cast(pa.int64()), videos["height"].cast(pa.int64())).to_pylist()
    groups = _Groups(videos.num_rows)
    first: dict[str, int] = {}
    for i, content in enumerate(hashes):
        groups.join(i, first.setdefault(content, i))
    if threshold > 0:
        for a, b in _near_pairs(videos, np.array(sorted(first.values()), dtype=np.int64), threshold):
            groups.join(a, b)
    found = []
    signatures = videos["signature"]
    for members in groups.sets():
        kept = min(members, key=lambda i: (-area[i], ids[i]))
        for i in members:
            if i == kept:
                continue
            exact = hashes[i] == hashes[kept]
            apart = 0.0 if exact else distance(signatures[i].as_py(), signatures[kept].as_py())
            kind = "exact" if exact else "near"
            found.append(Duplicate(video_id=ids[i], kept=ids[kept], kind=kind, distance=apart))
    return sorted(found, key=lambda one: one.video_id)


def distance(a: bytes, b: bytes) -> float:
    """0 (the same) to 1: over frames, the largest of the mean difference in a frame's worst cells.

    Signatures of different numbers of frames are 1 apart.
    """
    if len(a) != len(b) or not a:
        return 1.0
    return float(_distances(_normalised([a]), _normalised([b]))[0])


def _normalised(data: Sequence[bytes]) -> np.ndarray:
    """float32 [n, T, 384]: one gain and offset for each whole video taken out of the luma."""
    cells = (
        np.frombuffer(b"".join(data), dtype=np.uint8).reshape(len(data), -1, FRAME_BYTES).astype(np.float32)
    )
    luma, colour = cells[..., : LUMA * LUMA], cells[..., LUMA * LUMA :] - 127.5
    mean = luma.mean(axis=(1, 2), keepdims=True)
    scale = _SPREAD / np.maximum(luma.std(axis=(1, 2), keepdims=True), _LEAST_SPREAD)
    return np.concatenate([(luma - mean) * scale, colour * np.minimum(scale, 2.0)], axis=2)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, T, 384] twice -> float32 [n]."""
    worst = [np.zeros(a.shape[:2], dtype=np.float32)]
    for start, side, channels, cells in ((0, LUMA, 1, _WORST_LUMA), (LUMA * LUMA, CHROMA, 2, _WORST_CHROMA)):
        stop = start + channels * side * side
        grids = [x[..., start:stop].reshape(*x.shape[:2], channels, side, side) for x in (a, b)]
        for x, y in (grids, grids[::-1]):
            low, high = _neighbourhood(y, np.minimum), _neighbourhood(y, np.maximum)
            gap = np.maximum(np.maximum(x - high, low - x), 0.0).reshape(*x.shape[:2], -1)
            worst.append(np.partition(gap, -cells, axis=-1)[..., -cells:].mean(axis=-1))  # [n, T]
    return np.maximum.reduce(worst).max(axis=-1) / 255.0


def _neighbourhood(grid: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """Smallest or largest value of each cell and the eight around it. [..., h, w] -> the same."""
    padded = np.pad(grid, [(0, 0)] * (grid.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    rows = pick(pick(padded[..., :-2, :], padded[..., 1:-1, :]), padded[..., 2:, :])
    return pick(pick(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _near_pairs(videos: pa.Table, rows: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    """Row pairs of near copies, among videos with as many frames each."""
    sizes = pc.binary_length(videos["signature"]).to_numpy()[rows]
    durations = videos["duration"].to_numpy()
    for size in np.unique(sizes[sizes > 0]):
        members = rows[sizes == size]
        if len(members) < 2:
            continue
        signatures = videos["signature"].take(pa.array(members)).combine_chunks()
        for pairs in _candidates(signatures, threshold):  # int64 [m, 2], into members
            lengths = durations[members[pairs]]
            allowed = np.maximum(DURATION_TOLERANCE, DURATION_TOLERANCE * lengths.max(axis=1))
            pairs = pairs[np.abs(lengths[:, 0] - lengths[:, 1]) <= allowed]
            if not len(pairs):
                continue
            for part in np.array_split(pairs, len(pairs) // _CHUNK + 1):
                a, b = (_normalised(signatures.take(pa.array(side)).to_pylist()) for side in part.T)
                for x, y in part[_distances(a, b) <= threshold]:
                    yield int(members[x]), int(members[y])


def _candidates(signatures: pa.Array, threshold: float) -> Iterator[np.ndarray]:
    """Index pairs, int64 [m, 2] with a < b, that may be within the threshold, from nearest neighbours.

    Pairs whose 4x4 block means are far apart are left out before their signatures are looked at. The bound
    is wide, since a small object that has moved on by a cell may have left its block.
    """
    import faiss

    n = len(signatures)
    points = np.concatenate(
        [_points(_normalised(signatures[i : i + _CHUNK].to_pylist())) for i in range(0, n, _CHUNK)]
    )  # float32 [n, 128]
    if n <= _EXACT_SEARCH:
        index: Any = faiss.IndexFlatL2(points.shape[1])
    else:
        cells = int(4 * np.sqrt(n))
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(points.shape[1]), points.shape[1], cells)
        index.cp.seed = 1
        index.train(points[:: max(1, n // (64 * cells))])
        index.nprobe = _PROBES
    index.add(points)
    for start in range(0, n, _CHUNK):
        _, near = index.search(points[start : start + _CHUNK], min(_NEIGHBOURS, n))  # int64 [c, neighbours]
        a = np.repeat(np.arange(start, start + len(near)), near.shape[1])
        pairs = np.stack([a, near.ravel()], axis=1)
        pairs = np.unique(np.sort(pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])], axis=1), axis=0)
        gap = np.abs(points[pairs[:, 0]] - points[pairs[:, 1]]).max(axis=1, initial=0.0)
        yield pairs[gap <= _BLOCK_FACTOR * threshold * 255.0]


def _points(cells: np.ndarray) -> np.ndarray:
    """[n, T, 384] -> float32 [n, 128]: eight moments, each a mean of its frames, 4x4 luma cells."""
    n, moments, side = len(cells), cells.shape[1], LUMA // 4
    luma = cells[..., : LUMA * LUMA].reshape(n, moments, 4, side, 4, side).mean(axis=(3, 5))
    parts = [luma[:, part].mean(axis=1) for part in np.array_split(np.arange(moments), 8) if len(part)]
    parts += [parts[-1]] * (8 - len(parts))
    return np.ascontiguousarray(np.stack(parts, axis=1).reshape(n, 128))


class _Groups:
    """Union-find over 0..n-1."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)

    def sets(self) -> list[list[int]]:
        """Groups of two or more, in order of their first members."""
        found: dict[int, list[int]] = {}
        for i in range(len(self._parent)):
            found.setdefault(self.root(i), []).append(i)
        return [members for members in found.values() if len(members) > 1]
