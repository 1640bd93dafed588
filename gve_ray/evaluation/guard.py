"""The contamination guard of a run: its videos against the training assets, at the price of no second decode.

    guard = Guard(config.contamination, sources, index)     # None where none is configured
    guard.check_bytes()                                      # paths and bytes: before anything is embedded
    results["contamination"] = guard.check(embedded, ...)    # and near copies, once a model has seen the frames

A run's fingerprints hold the bytes' digests, and its embeddings the signatures of the frames that went into
the model. Only what has no such signature is decoded (another number of frames than the training set's, a
model that takes no videos), and that once a cache.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.evaluation.config import ContaminationConfig
from gve_ray.evaluation.contamination import Fingerprint, Overlap, fingerprints, overlap, signature_frames
from gve_ray.evaluation.data.eval_sets import Source
from gve_ray.evaluation.embed import Embedded, ItemIndex, read_signatures
from gve_ray.job import PreflightError
from gve_ray.media.signature import FRAME_BYTES
from gve_ray.schema import ASSET_SCHEMA
from gve_ray.store import FolderLock, Store

log = logging.getLogger(__name__)

_DIGEST = "digest"
_SIGNATURE_SCHEMA = pa.schema(
    [(_DIGEST, pa.string()), ("signature", pa.binary()), ("duration", pa.float64())]  # null: does not decode
)
_CHUNK = 256  # videos decoded between two commits
_TOLD = 20  # hits in the log of a run that goes on; results.json has them all


def open_training(config: ContaminationConfig) -> Store | None:
    """The training assets; None where the config names none. Raises PreflightError where there are none."""
    if config.training is None:
        return None
    store = Store(config.training, ASSET_SCHEMA)
    try:
        there = store.exists()
    except (OSError, ValueError) as error:
        raise PreflightError(
            f"contamination.training={config.training!r}: cannot be read ({error}); name an assets.lance"
        ) from error
    if not there:
        raise PreflightError(
            f"contamination.training={config.training!r}: no assets there; name the assets.lance that the models "
            "were trained on, or leave the option out"
        )
    return store


class Guard:
    """Compares the videos of data sets, in queries and corpora, with training assets.

    index: has seen the items of the sources. A hit is one video of one data set; of a video that is found in
    several ways the surest is told.
    """

    def __init__(
        self, config: ContaminationConfig, training: Store, sources: Sequence[Source], index: ItemIndex
    ) -> None:
        self._config, self._training = config, training
        self._keys: dict[
            str, str
        ] = {}  # by path: the item that is this video alone, or with the least beside
        self._sets: dict[str, list[str]] = {}  # by path
        for source in sources:
            items = [*source.data.corpus, *source.queries]
            for item, key in zip(items, [*source.corpus_keys, *source.query_keys], strict=True):
                if isinstance(item.video, str):
                    self._keys.setdefault(item.video, key)
                    names = self._sets.setdefault(item.video, [])
                    if source.data.name not in names:
                        names.append(source.data.name)
        self._digests = {path: index.digest(path) for path in self._keys}

    def check_bytes(self) -> None:
        """Look for the same paths and bytes, which costs no decoding. Raises PreflightError to refuse."""
        if self._config.on_hit == "refuse":
            self._judge(self._find(self._bytes_alone(), threshold=0.0))

    def check(self, embedded: Embedded, *, cache: str, workers: int) -> dict[str, Any]:
        """Look for near copies, too; what results.json says of it. Raises PreflightError to refuse.

        embedded: of any model. cache: keeps signatures that were made here. workers: decoding processes.
        """
        prints = self._bytes_alone()
        if self._config.threshold > 0:
            prints |= self._signed(embedded, cache, workers)
        return self._judge(self._find(prints, threshold=self._config.threshold))

    def _bytes_alone(self) -> dict[str, Fingerprint]:
        return {
            path: Fingerprint(content_hash=digest, signature=b"", duration=np.nan)
            for path, digest in self._digests.items()
        }

    def _find(self, prints: Mapping[str, Fingerprint], *, threshold: float) -> list[Overlap]:
        return overlap(self._training, list(self._keys), threshold=threshold, known=prints)

    def _signed(self, embedded: Embedded, cache: str, workers: int) -> dict[str, Fingerprint]:
        """Fingerprints by path with as many frames as the training set's."""
        frames = signature_frames(self._training)
        stored = read_signatures(embedded.store, list(self._keys.values()))
        found = {
            self._digests[path]: stored[key]
            for path, key in self._keys.items()
            if key in stored and len(stored[key][0]) == frames * FRAME_BYTES
        }
        missing = {self._digests[path]: path for path in self._keys if self._digests[path] not in found}
        found |= _decoded(missing, f"{cache}/signatures-{frames}", frames=frames, workers=workers)
        return {
            path: Fingerprint(content_hash=digest, signature=found[digest][0], duration=found[digest][1])
            for path, digest in self._digests.items()
        }

    def _judge(self, overlaps: Sequence[Overlap]) -> dict[str, Any]:
        hits = [(name, one) for one in overlaps for name in self._sets[one.video]]
        hits.sort(key=lambda hit: (hit[0], hit[1].video))
        checked = len(set(self._digests.values()))
        counts = Counter(name for name, _ in hits)
        lines = [f"{name}: {one}" for name, one in hits]
        if hits:
            told = ", ".join(f"{name} {count}" for name, count in counts.items())
            total = f"contamination: {len(hits)} hits among {checked} videos are in {self._config.training} ({told})"
            if self._config.on_hit == "refuse":
                raise PreflightError(
                    "\n".join([f"{total}; take them out, or set --contamination.on_hit flag", *lines])
                )
            more = [f"... and {len(lines) - _TOLD} more, all in the results"] if len(lines) > _TOLD else []
            log.warning("%s", "\n".join([f"{total}: no zero-shot claim holds there", *lines[:_TOLD], *more]))
        return {
            "checked_videos": checked,
            "training": self._config.training,
            "hits": [
                {
                    "dataset": name,
                    "video": one.video,
                    "training_video": one.video_id,
                    "how": one.kind,
                    "distance": one.distance,
                }
                for name, one in hits
            ],
            "datasets": {name: counts.get(name, 0) for name in sorted(self._set_names())},
        }

    def _set_names(self) -> set[str]:
        return {name for names in self._sets.values() for name in names}


def _decoded(
    videos: Mapping[str, str], folder: str, *, frames: int, workers: int
) -> dict[str, tuple[bytes, float]]:
    """(signature, duration) by digest of videos by digest; what does not decode has an empty signature."""
    if not videos:
        return {}
    store = Store(f"{folder}/signatures.lance", _SIGNATURE_SCHEMA, key=_DIGEST)
    with FolderLock(folder):
        store.create()
        there = store.keys()
        todo = [digest for digest in videos if digest not in there]
        if todo:
            log.info("contamination: %d videos decoded for their signatures alone", len(todo))
        for start in range(0, len(todo), _CHUNK):
            part = todo[start : start + _CHUNK]
            made = fingerprints([videos[digest] for digest in part], frames=frames, workers=workers)
            rows = [
                {
                    _DIGEST: digest,
                    "signature": one.signature if one else None,
                    "duration": None if one is None or np.isnan(one.duration) else one.duration,
                }
                for digest in part
                for one in [made.get(videos[digest])]
            ]
            store.append(pa.Table.from_pylist(rows, schema=_SIGNATURE_SCHEMA))
    found = store.take(list(videos)).to_pylist()
    return {
        row[_DIGEST]: (row["signature"] or b"", np.nan if row["duration"] is None else row["duration"])
        for row in found
    }
