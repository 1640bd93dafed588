"""Contamination check: finds evaluation videos that are among the training videos.

    check = ContaminationCheck(config.contamination, open_training(config.contamination), datasets, index)
    check.check_bytes()                                      # paths and bytes, before anything is embedded
    results["contamination"] = check.check(embedded, ...)    # near copies as well, once frames are embedded

A video matches if it has the same path, the same bytes (`content_hash`) or nearly the same frames
(`signature`) as a training video; the latter also finds re-encoded copies and folders of uniform
frames. Training sources are streamed, so they may be of any size. A run reuses its own digests and the
signatures of the frames it embedded. Videos are decoded again only if they have no such signature
(training videos of a folder or table, another frame count than the source, a model that takes no
videos), once per cache.

Not found are excerpts, since a clip cut out of a training video has other uniform frames, and most
folders extracted at 1 FPS from videos of a few seconds, which show other moments (4 of 12 short
moving scenes were found). A match proves an overlap; no match does not prove that there is none.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.evaluation.config import ContaminationConfig
from gve_ray.evaluation.data.eval_sets import EvalSet
from gve_ray.evaluation.embed import Embedded, ItemIndex, read_signatures
from gve_ray.evaluation.training_videos import TrainingVideos
from gve_ray.evaluation.video_signatures import NO_SIGNATURE, Fingerprint, stored_signatures
from gve_ray.job import PreflightError
from gve_ray.media.signature import (
    FRAME_BYTES,
    THRESHOLD,
    distances,
    lengths_agree,
    may_be_near,
    normalised,
    points,
)

log = logging.getLogger(__name__)

_NEIGHBOURS = 32  # candidates per evaluation video in each batch of training videos
_CHUNK = 1024  # evaluation videos per search; 12 kB each
_ORDER = ("uri", "exact", "near")
_LOGGED_HITS = 20  # hits in the log of a run that continues; results.json has them all


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """An evaluation video and the training video it matches.

    kind: the same path ("uri"), the same bytes ("exact"), or nearly the same frames ("near").
    distance: between the signatures, from 0 (identical) to the threshold; 0 for the first two
    kinds.
    """

    video: str
    video_id: str
    kind: Literal["uri", "exact", "near"]
    distance: float

    def __str__(self) -> str:
        how = {"uri": "the same path", "exact": "the same bytes", "near": f"distance {self.distance:.3f}"}
        return f"{self.video}: is training video {self.video_id!r} ({how[self.kind]})"


def overlap(
    training: Iterable[pa.Table], prints: Mapping[str, Fingerprint], *, threshold: float = THRESHOLD
) -> list[Overlap]:
    """Find the evaluation videos that are among the training videos: at most one match per video.

    training: tables of `training_videos.COLUMNS`. prints: fingerprints by path or URI, which give the
    order of the result. threshold: largest distance of near copies; 0 ignores them. If a video
    matches in several ways, the most certain one is reported: path, then bytes, then the smallest
    distance.
    """
    matches: dict[str, Overlap] = {}
    for table in training:
        for match in _matches_in(table, prints, threshold):
            if match.video not in matches or _rank(match) < _rank(matches[match.video]):
                matches[match.video] = match
    return [matches[video] for video in prints if video in matches]


def _matches_in(table: pa.Table, prints: Mapping[str, Fingerprint], threshold: float) -> Iterator[Overlap]:
    """Yield all matches among some training videos."""
    by_path: dict[str, list[str]] = {}
    by_hash: dict[str, list[str]] = {}
    for video, fingerprint in prints.items():
        by_path.setdefault(_plain_path(video), []).append(video)
        by_hash.setdefault(fingerprint.content_hash, []).append(video)
    yield from _equal(table, "uri", [_plain_path(uri) for uri in table["uri"].to_pylist()], by_path)
    yield from _equal(table, "exact", table["content_hash"].to_pylist(), by_hash)
    if threshold > 0:
        # Data sets share videos: each is searched once and reported under all its paths.
        for match in _near(table, {same[0]: prints[same[0]] for same in by_hash.values()}, threshold):
            for video in by_hash[prints[match.video].content_hash]:
                yield replace(match, video=video)


def _equal(
    table: pa.Table,
    kind: Literal["uri", "exact"],
    values: Sequence[str | None],
    videos_by_value: Mapping[str, Sequence[str]],
) -> Iterator[Overlap]:
    for row, value in enumerate(values):
        for video in videos_by_value.get(value, ()) if value else ():
            yield Overlap(video=video, video_id=table["video_id"][row].as_py(), kind=kind, distance=0.0)


def _near(table: pa.Table, prints: Mapping[str, Fingerprint], threshold: float) -> Iterator[Overlap]:
    """Yield near copies: the nearest training videos by `points` whose whole signatures agree."""
    import faiss

    size = max((len(fingerprint.signature) for fingerprint in prints.values()), default=0)
    videos = [video for video, fingerprint in prints.items() if len(fingerprint.signature) == size > 0]
    table = table.filter(pc.equal(pc.binary_length(table["signature"]), size))
    if not table.num_rows or not videos:
        return
    ids = table["video_id"].to_pylist()
    seconds = np.array(table["duration"].to_pylist(), dtype=np.float64)
    training_signatures = normalised(table["signature"].to_pylist())  # float32 [m, T, 384]
    training_points = points(training_signatures)  # float32 [m, 128]
    for start in range(0, len(videos), _CHUNK):
        part = videos[start : start + _CHUNK]
        signatures = normalised([prints[video].signature for video in part])
        signature_points = points(signatures)
        neighbours = min(_NEIGHBOURS, len(training_points))
        _, near = faiss.knn(signature_points, training_points, neighbours)  # int64 [n, neighbours]
        a = np.repeat(np.arange(len(part)), near.shape[1])
        b = near.ravel()
        own_seconds = np.array([prints[video].duration for video in part])
        is_unknown = np.isnan(own_seconds[a]) | np.isnan(seconds[b])
        is_candidate = may_be_near(signature_points[a], training_points[b], threshold)
        is_candidate &= is_unknown | lengths_agree(own_seconds[a], seconds[b])
        for i, j in zip(a[is_candidate], b[is_candidate], strict=True):
            distance = float(distances(signatures[i : i + 1], training_signatures[j : j + 1])[0])
            if distance <= threshold:
                yield Overlap(video=part[i], video_id=ids[j], kind="near", distance=distance)


def _rank(match: Overlap) -> tuple[int, float, str]:
    return _ORDER.index(match.kind), match.distance, match.video_id


def _plain_path(uri: str | None) -> str:
    """An absolute path; URIs other than file:// are returned unchanged."""
    if not uri or ("://" in uri and not uri.startswith("file://")):
        return uri or ""
    return os.path.abspath(unquote(urlsplit(uri).path) if uri.startswith("file://") else uri)


class ContaminationCheck:
    """Compares the videos of data sets, in queries and corpora, with training videos.

    index: has the digests of the data sets' items. A hit is one video in one data set; if it
    matches in several ways or sources, the most certain match is reported.
    """

    def __init__(
        self,
        config: ContaminationConfig,
        training: Sequence[TrainingVideos],
        datasets: Sequence[EvalSet],
        index: ItemIndex,
    ) -> None:
        self._config, self._training, self._index = config, training, index
        self._keys: dict[str, str] = {}  # by path: the item with this video, one without text if there is one
        self._sets: dict[str, list[str]] = {}  # by path: names of the data sets
        for dataset in datasets:
            items = [*dataset.data.corpus, *dataset.queries]
            for item, key in zip(items, [*dataset.corpus_keys, *dataset.query_keys], strict=True):
                if isinstance(item.video, str):
                    self._keys.setdefault(item.video, key)
                    names = self._sets.setdefault(item.video, [])
                    if dataset.data.name not in names:
                        names.append(dataset.data.name)
        self._digests = {path: index.digest(path) for path in self._keys}

    def check_bytes(self) -> None:
        """Compare paths and bytes, which needs no decoding.

        Raises PreflightError if the run is refused.
        """
        if self._config.on_hit == "refuse":
            self._report([(source, self._same_bytes(source)) for source in self._training])

    def check(self, embedded: Embedded, *, cache: str, workers: int) -> dict[str, Any]:
        """Compare frames as well, and return the part of results.json.

        embedded: of any model. cache: stores signatures computed here. workers: decoding processes.
        Raises PreflightError if the run is refused.
        """
        if self._config.threshold == 0:
            return self._report([(source, self._same_bytes(source)) for source in self._training])
        return self._report(
            [(source, self._near_copies(source, embedded, cache, workers)) for source in self._training]
        )

    def _same_bytes(self, source: TrainingVideos) -> list[Overlap]:
        prints = self._prints(dict.fromkeys(self._digests.values(), NO_SIGNATURE))
        return overlap(source.tables(self._index, None), prints, threshold=0)

    def _near_copies(
        self, source: TrainingVideos, embedded: Embedded, cache: str, workers: int
    ) -> list[Overlap]:
        frames = source.frames
        stored = read_signatures(embedded.store, list(self._keys.values()))

        def decoded(videos: Mapping[str, str]) -> dict[str, tuple[bytes, float]]:
            return stored_signatures(videos, f"{cache}/signatures-{frames}", frames=frames, workers=workers)

        signatures = {
            self._digests[path]: stored[key]
            for path, key in self._keys.items()
            if key in stored and len(stored[key][0]) == frames * FRAME_BYTES
        }
        missing = {digest: path for path, digest in self._digests.items() if digest not in signatures}
        prints = self._prints(signatures | decoded(missing))
        return overlap(source.tables(self._index, decoded), prints, threshold=self._config.threshold)

    def _prints(self, signatures: Mapping[str, tuple[bytes, float]]) -> dict[str, Fingerprint]:
        """Fingerprints by path. signatures: (signature, duration) by digest."""
        prints = {}
        for path, digest in self._digests.items():
            frames, duration = signatures[digest]
            prints[path] = Fingerprint(content_hash=digest, signature=frames, duration=duration)
        return prints

    def _report(self, overlaps: Sequence[tuple[TrainingVideos, Sequence[Overlap]]]) -> dict[str, Any]:
        best: dict[str, tuple[Overlap, str]] = {}
        for source, matches in overlaps:
            for match in matches:
                if match.video not in best or _rank(match) < _rank(best[match.video][0]):
                    best[match.video] = match, source.name
        hits = [(name, match, origin) for match, origin in best.values() for name in self._sets[match.video]]
        hits.sort(key=lambda hit: (hit[0], hit[1].video))
        sources = [source.name for source in self._training]
        checked = len(set(self._digests.values()))
        counts = Counter(name for name, _, _ in hits)
        lines = [f"{name}: {match}" for name, match, _ in hits]
        if hits:
            by_dataset = ", ".join(f"{name} {count}" for name, count in counts.items())
            total = (
                f"contamination: {len(hits)} hits among {checked} videos match {', '.join(sources)} "
                f"({by_dataset})"
            )
            if self._config.on_hit == "refuse":
                raise PreflightError(
                    "\n".join([f"{total}; remove them, or set --contamination.on_hit flag", *lines])
                )
            shown = lines[:_LOGGED_HITS]
            if rest := len(lines) - len(shown):
                shown.append(f"... and {rest} more, all in the results")
            warning = f"{total}: scores on these data sets are not zero-shot"
            log.warning("%s", "\n".join([warning, *shown]))
        return {
            "checked_videos": checked,
            "training": sources,
            "hits": [
                {
                    "dataset": name,
                    "video": match.video,
                    "training": origin,
                    "training_video": match.video_id,
                    "how": match.kind,
                    "distance": match.distance,
                }
                for name, match, origin in hits
            ],
            "datasets": {name: counts[name] for name in sorted(set().union(*self._sets.values()))},
        }
