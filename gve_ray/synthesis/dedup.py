"""Find exact and near-duplicate videos, so that one copy of each is kept.

Exact copies share the sha256 of their bytes. Near copies (encoded again, rescaled, a little brighter) share
their signature (gve_ray.media.signature) and their length.

The videos of a job may come in parts (`KeptVideos`): then those of a part are also compared with the videos
that earlier parts have kept, and the earliest part wins; what a part has kept stays.

Candidates come from a nearest-neighbour search over a 128-dimensional mean of the signature (FAISS: exact
up to 20,000 videos, an inverted file above), so that 1.55 M videos need no quadratic pass; the decision is
always made on the whole signature. Signatures are 3 kB each and wait in a file: 1.55 M of them are more than
an Arrow array of binaries may hold.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.media.signature import (
    THRESHOLD,
    distance,
    distances,
    lengths_agree,
    may_be_near,
    normalised,
    points,
)
from gve_ray.progress import Progress

log = logging.getLogger(__name__)

_CHUNK = 2048
_NEIGHBOURS = 32
_EXACT_SEARCH = 20_000
_DIMENSIONS = 128  # of `points`
_ADDED_AT_ONCE = 65_536
_PROBES = 16


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """video_id is a copy of `kept`. kind: exact or near. distance: of the signatures, 0 for exact."""

    video_id: str
    kept: str
    kind: str
    distance: float


def find_duplicates(
    videos: pa.Table,
    signatures: Iterable[pa.RecordBatch] | None = None,
    *,
    threshold: float = THRESHOLD,
    earlier: "KeptVideos | None" = None,
) -> list[Duplicate]:
    """The videos to drop, sorted by id. Groups are closed under "is a copy of".

    videos: columns video_id, content_hash, width, height, duration (seconds). signatures: batches of video_id and
    signature, in any order, others than those of `videos` among them; None: a column of `videos`. Of each group
    the copy with the largest picture stays, then the one with the smallest id: the same for any order of rows.
    threshold: largest `distance` of near copies; 0 finds exact ones only. earlier: videos of earlier parts; a
    group with a copy of one of them is dropped as a whole, and what stays of `videos` is added to them. Takes
    about 1.1 kB of memory a video, and its signature in a temporary file.
    """
    if signatures is None:
        signatures = videos.select(["video_id", "signature"]).to_batches()
    videos = videos.sort_by("video_id").combine_chunks()
    ids = videos["video_id"]
    area = pc.multiply(videos["width"].cast(pa.int64()), videos["height"].cast(pa.int64())).to_numpy()
    # Of each row the first row with the same bytes: codes count up in the order of their first rows.
    codes = videos["content_hash"].combine_chunks().dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    same = first[codes]
    groups = _Groups(videos.num_rows)
    for i in np.flatnonzero(same != np.arange(videos.num_rows)).tolist():
        groups.join(i, int(same[i]))
    with _Signatures(signatures, ids) as stored:
        durations, originals = videos["duration"].to_numpy(), np.sort(first)
        if threshold > 0:
            for a, b in _near_pairs(stored, durations, originals, threshold):
                groups.join(a, b)
        before: dict[int, int] = {}
        if earlier is not None:
            for i, k in earlier.copies(videos["content_hash"], stored, durations, originals, threshold):
                root = groups.root(i)
                before[root] = min(before.get(root, k), k)
        duplicates, stays = [], np.ones(videos.num_rows, dtype=bool)
        for members in groups.sets(also=before):
            if earlier is not None and members[0] in before:
                kept_id, kept_hash, kept_signature = earlier.video(before[members[0]])
                copies = members
            else:
                kept = min(members, key=lambda i: (-area[i], i))
                kept_id, kept_hash = ids[kept].as_py(), videos["content_hash"][kept].as_py()
                (kept_signature,) = stored.read(np.array([kept]))
                copies = [i for i in members if i != kept]
            for i in copies:
                exact = videos["content_hash"][i].as_py() == kept_hash
                apart = 0.0 if exact else distance(stored.read(np.array([i]))[0], kept_signature)
                kind = "exact" if exact else "near"
                duplicates.append(Duplicate(video_id=ids[i].as_py(), kept=kept_id, kind=kind, distance=apart))
                stays[i] = False
        if earlier is not None:
            earlier.add(videos, stored, np.flatnonzero(stays))
    return sorted(duplicates, key=lambda copy: copy.video_id)


class KeptVideos:
    """The videos that earlier parts have kept, numbered in the order in which they were added.

    Takes 0.2 kB of memory a video (0.6 kB up to 20,000 of them); its signature, content hash and id are in a
    temporary file.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="gve-signatures-")  # noqa: SIM115
        # Where each video starts in the file, and where the last one ends.
        self._starts = np.zeros(1, dtype=np.int64)
        self._sizes = np.zeros(0, dtype=np.int32)  # of the signatures, which come first
        self._durations = np.zeros(0)
        self._digests = np.zeros(0, dtype=np.uint64)  # of the content hashes, sorted
        self._numbers = np.zeros(0, dtype=np.int64)  # of the videos that they belong to
        self._indexes: dict[int, _Index] = {}  # by the size of a signature

    def add(self, videos: pa.Table, signatures: "_Signatures", rows: np.ndarray) -> None:
        """Add rows of `videos`, in the order of their ids within this call, the largest pictures first."""
        areas = pc.multiply(videos["width"].cast(pa.int64()), videos["height"].cast(pa.int64())).to_numpy()
        rows = rows[np.lexsort((rows, -areas[rows]))]
        first, sizes = len(self._sizes), signatures.sizes[rows]
        hashes, ids = (videos[name].take(rows).to_pylist() for name in ("content_hash", "video_id"))
        names = [f"{content_hash}\n{name}".encode() for content_hash, name in zip(hashes, ids, strict=True)]
        self._file.seek(int(self._starts[-1]))
        for i in range(0, len(rows), _CHUNK):
            records = zip(signatures.read(rows[i : i + _CHUNK]), names[i : i + _CHUNK], strict=True)
            self._file.write(b"".join(part for record in records for part in record))
        self._file.flush()
        lengths = sizes + np.array([len(name) for name in names], dtype=np.int64)
        self._starts = np.append(self._starts, self._starts[-1] + np.cumsum(lengths))
        self._sizes = np.append(self._sizes, sizes.astype(np.int32))
        self._durations = np.append(self._durations, videos["duration"].to_numpy()[rows])
        digests = np.append(self._digests, _digests(hashes))
        order = np.argsort(digests, kind="stable")
        numbers = np.append(self._numbers, first + np.arange(len(rows)))
        self._digests, self._numbers = digests[order], numbers[order]
        for size in np.unique(sizes[sizes > 0]).tolist():
            index = self._indexes.setdefault(size, _Index(self.read))
            index.add(first + np.flatnonzero(sizes == size))

    def video(self, number: int) -> tuple[str, str, bytes]:
        """Return id, content hash and signature of a video."""
        start, end = self._starts[number : number + 2].tolist()
        record, size = os.pread(self._file.fileno(), end - start, start), int(self._sizes[number])
        content_hash, _, video_id = record[size:].decode().partition("\n")
        return video_id, content_hash, record[:size]

    def read(self, numbers: np.ndarray) -> list[bytes]:
        """The signatures of some videos, in their order."""
        return _read(self._file, self._starts[numbers], self._sizes[numbers])

    def copies(
        self,
        hashes: pa.ChunkedArray,
        signatures: "_Signatures",
        durations: np.ndarray,
        rows: np.ndarray,
        threshold: float,
    ) -> Iterator[tuple[int, int]]:
        """Yield (row, number) of each copy of a kept video, among `rows` without exact copies of each other.

        hashes, durations (seconds): of all rows.
        """
        if not len(self._sizes):
            return
        yield from self._exact_copies(hashes.take(rows).to_pylist(), rows)
        sizes = signatures.sizes[rows]
        for size in np.unique(sizes[sizes > 0]).tolist() if threshold > 0 else ():
            if (index := self._indexes.get(size)) is None:
                continue
            members = rows[sizes == size]
            for start in range(0, len(members), _CHUNK):
                some = members[start : start + _CHUNK]
                cells = normalised(signatures.read(some))
                near = index.neighbours(points(cells))  # int64 [c, neighbours]
                pairs = np.stack([np.repeat(np.arange(len(some)), near.shape[1]), near.ravel()], axis=1)
                pairs = pairs[pairs[:, 1] >= 0]
                lengths = durations[some[pairs[:, 0]]], self._durations[pairs[:, 1]]
                pairs = pairs[lengths_agree(*lengths)]
                for part in np.array_split(pairs, len(pairs) // _CHUNK + 1) if len(pairs) else ():
                    a, b = cells[part[:, 0]], normalised(self.read(part[:, 1]))
                    candidates = may_be_near(points(a), points(b), threshold)
                    part = part[candidates]
                    for i, k in part[_are_near(a[candidates], b[candidates], threshold)].tolist():
                        yield int(some[i]), k

    def _exact_copies(self, hashes: Sequence[str], rows: np.ndarray) -> Iterator[tuple[int, int]]:
        """Yield (row, number) of each exact copy. hashes: of `rows`."""
        digests = _digests(hashes)
        firsts, ends = (np.searchsorted(self._digests, digests, side) for side in ("left", "right"))
        for i in np.flatnonzero(firsts < ends).tolist():
            for number in self._numbers[firsts[i] : ends[i]].tolist():
                if self.video(number)[1] == hashes[i]:
                    yield int(rows[i]), number


class _Index:
    """A nearest-neighbour index of kept videos, which grows. read: gives signatures by number.

    It is built again whenever it has grown fourfold, so its answers depend only on what was added, and in
    which order.
    """

    def __init__(self, read: Callable[[np.ndarray], list[bytes]]) -> None:
        self._read = read
        self._numbers = np.zeros(0, dtype=np.int64)
        self._index: Any = None
        self._rebuild_above = 0

    def add(self, numbers: np.ndarray) -> None:
        """Add videos by their numbers."""
        self._numbers = np.append(self._numbers, numbers)
        if len(self._numbers) > self._rebuild_above:
            self._index = _index_of(lambda rows: self._spots(self._numbers[rows]), len(self._numbers))
            is_exact = len(self._numbers) <= _EXACT_SEARCH
            self._rebuild_above = _EXACT_SEARCH if is_exact else 4 * len(self._numbers)
        else:
            self._index.add(self._spots(numbers))

    def neighbours(self, spots: np.ndarray) -> np.ndarray:
        """Return the numbers of the nearest videos of each spot, int64 [n, k], -1 where there are fewer."""
        _, near = self._index.search(spots, min(_NEIGHBOURS, len(self._numbers)))
        return np.where(near >= 0, self._numbers[near], -1)

    def _spots(self, numbers: np.ndarray) -> np.ndarray:
        return _spots(self._read, numbers)


class _Signatures:
    """Signatures in a temporary file, by row of `ids`. sizes: int64 [n], bytes each, 0 if missing."""

    def __init__(self, batches: Iterable[pa.RecordBatch], ids: pa.ChunkedArray) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="gve-signatures-")  # noqa: SIM115
        given_ids, lengths = [], [np.zeros(0, dtype=np.int64)]
        for batch in batches:
            column = batch.column("signature").fill_null(b"")
            self._file.write(b"".join(column.to_pylist()))
            # A copy: a column of a batch keeps all columns of it in memory.
            given_ids.append(pa.array(batch.column("video_id").to_pylist(), pa.string()))
            lengths.append(pc.binary_length(column).to_numpy().astype(np.int64))
        self._file.flush()
        sizes = np.concatenate(lengths)
        at = pc.index_in(ids, value_set=pa.chunked_array(given_ids, pa.string()).combine_chunks())
        there = at.fill_null(-1).to_numpy()
        self.sizes = np.where(there < 0, 0, np.append(sizes, 0)[there])
        self._starts = np.append(np.cumsum(sizes) - sizes, 0)[there]

    def __enter__(self) -> "_Signatures":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, rows: np.ndarray) -> list[bytes]:
        """The signatures of some rows, in their order."""
        return _read(self._file, self._starts[rows], self.sizes[rows])


def _digests(hashes: Iterable[str]) -> np.ndarray:
    """Return 64 bits of each content hash, uint64 [n]: enough to find those that may be equal."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in hashes)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _read(file: IO[bytes], starts: np.ndarray, sizes: np.ndarray) -> list[bytes]:
    return [
        os.pread(file.fileno(), size, start)
        for size, start in zip(sizes.tolist(), starts.tolist(), strict=True)
    ]


def _near_pairs(
    signatures: _Signatures, durations: np.ndarray, rows: np.ndarray, threshold: float
) -> Iterator[tuple[int, int]]:
    """Row pairs of near copies, among videos with as many frames each. durations: of all rows, seconds."""
    sizes = signatures.sizes[rows]
    for size in np.unique(sizes[sizes > 0]):
        members = rows[sizes == size]
        if len(members) < 2:
            continue
        lengths = durations[members]
        for pairs in _candidates(signatures.read, members, lengths, threshold):  # int64 [m, 2], into members
            if not len(pairs):
                continue
            for part in np.array_split(members[pairs], len(pairs) // _CHUNK + 1):
                a, b = (normalised(signatures.read(side)) for side in part.T)
                for x, y in part[_are_near(a, b, threshold)]:
                    yield int(x), int(y)


def _are_near(a: np.ndarray, b: np.ndarray, threshold: float) -> np.ndarray:
    """bool [n]: whether `distances` of n pairs, float32 [n, T, 384] each, are within the threshold.

    Most pairs are not copies; comparing first frames rules them out at an eighth of the cost.
    """
    near = distances(a[:, :1], b[:, :1]) <= threshold
    if near.any():
        near[near] = distances(a[near], b[near]) <= threshold
    return near


def _candidates(
    read: Callable[[np.ndarray], list[bytes]], members: np.ndarray, lengths: np.ndarray, threshold: float
) -> Iterator[np.ndarray]:
    """Index pairs, int64 [m, 2] with a < b, that may be within the threshold, from nearest neighbours.

    read: gives the signatures of members, which are as long each. lengths: seconds of members. Pairs whose
    lengths disagree or whose 4x4 block means are far apart are left out before their signatures are looked at.
    """
    n = len(members)
    spots = _spots(read, members)
    index = _index_of(lambda rows: spots[rows], n)
    progress = Progress("duplicates", n, unit="videos")
    for start in range(0, n, _CHUNK):
        _, near = index.search(spots[start : start + _CHUNK], min(_NEIGHBOURS, n))  # int64 [c, neighbours]
        a = np.repeat(np.arange(start, start + len(near)), near.shape[1])
        pairs = np.stack([a, near.ravel()], axis=1)
        pairs = pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])]
        pairs = pairs[lengths_agree(lengths[pairs[:, 0]], lengths[pairs[:, 1]])]
        pairs = np.unique(np.sort(pairs, axis=1), axis=0)
        progress.reach(start + len(near))
        yield pairs[may_be_near(spots[pairs[:, 0]], spots[pairs[:, 1]], threshold)]


def _spots(read: Callable[[np.ndarray], list[bytes]], members: np.ndarray) -> np.ndarray:
    """The `points` of members, float32 [n, 128]."""
    spots = np.empty((len(members), _DIMENSIONS), dtype=np.float32)
    for i in range(0, len(members), _CHUNK):
        spots[i : i + _CHUNK] = points(normalised(read(members[i : i + _CHUNK])))
    return spots


def _index_of(spots: Callable[[np.ndarray], np.ndarray], n: int) -> Any:
    """Return a FAISS index of n spots: exact for few of them, else with a byte for each dimension.

    spots: returns those of the given rows, float32 [m, 128].
    """
    import faiss

    if n <= _EXACT_SEARCH:
        index: Any = faiss.IndexFlatL2(_DIMENSIONS)
    else:
        cells = int(4 * np.sqrt(n))
        log.info("duplicates: dividing %d videos into %d cells", n, cells)
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatL2(_DIMENSIONS), _DIMENSIONS, cells, faiss.ScalarQuantizer.QT_8bit
        )
        index.cp.seed = 1
        index.train(spots(np.arange(0, n, max(1, n // (64 * cells)))))
        index.nprobe = _PROBES
    for start in range(0, n, _ADDED_AT_ONCE):
        index.add(spots(np.arange(start, min(n, start + _ADDED_AT_ONCE))))
    return index


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

    def sets(self, also: Iterable[int] = ()) -> list[list[int]]:
        """Groups of two or more, and those with the roots `also`, in order of their first members."""
        members_of: dict[int, list[int]] = {root: [root] for root in also}
        for i in range(len(self._parent)):
            if (root := self.root(i)) != i:
                members_of.setdefault(root, [root]).append(i)  # a root is the smallest of its group
        return [members_of[root] for root in sorted(members_of)]
