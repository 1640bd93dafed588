"""Fingerprints of videos for the contamination check, and a store of signatures that were decoded for it.

stored_signatures({digest: path}, folder, frames=8, workers=4)     # decodes each content once per folder
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gve_ray.media import DecodeProcess, FrameRequest, MediaError
from gve_ray.media.signature import signature
from gve_ray.media.source import raise_storage_fault
from gve_ray.store import FolderLock, Store

log = logging.getLogger(__name__)

NO_SIGNATURE = (b"", np.nan)
_DIGEST = "digest"
_SIGNATURE_SCHEMA = pa.schema(
    # null: the video does not decode
    [(_DIGEST, pa.string()), ("signature", pa.binary()), ("duration", pa.float64())]
)
_COMMIT_VIDEOS = 256  # videos decoded between commits


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What identifies a video in comparisons, apart from its path.

    content_hash: sha256 hex of the bytes. signature: of k uniform frames, with the same k for all
    compared videos; if empty, frames are not compared. duration: seconds; NaN for a folder of
    frames, whose frame rate is unknown.
    """

    content_hash: str
    signature: bytes
    duration: float


def fingerprints(videos: Sequence[str], *, frames: int, workers: int = 1) -> dict[str, Fingerprint]:
    """Fingerprints, by path, of the videos that decode. frames: uniform frames in a signature.

    Raises OSError if an object store fails.
    """

    def decode_share(start: int) -> dict[str, Fingerprint]:
        """Every `workers`-th video from `start` on, in one decoding process."""
        prints = {}
        with DecodeProcess() as process:
            for video in videos[start::workers]:
                try:
                    decoded = process.decode(video, [FrameRequest(k=frames)], strict=False)
                except (MediaError, OSError, ValueError, MemoryError) as error:
                    raise_storage_fault(error)
                    continue  # `gve evaluate --check` reports these; they are not scored either
                folder = decoded.info.container == "folder"
                prints[video] = Fingerprint(
                    content_hash=decoded.content_hash,
                    signature=signature(decoded.samples[0].pixels),
                    duration=np.nan if folder else decoded.info.duration,
                )
        return prints

    with ThreadPoolExecutor(workers) as pool:
        return {
            video: fingerprint
            for part in pool.map(decode_share, range(workers))
            for video, fingerprint in part.items()
        }


def stored_signatures(
    videos: Mapping[str, str], folder: str, *, frames: int, workers: int
) -> dict[str, tuple[bytes, float]]:
    """(signature, duration) by digest; the signature of a video that does not decode is empty.

    videos: paths by digest. folder: stores the signatures, so that a video is decoded once. frames:
    uniform frames in a signature.
    """
    if not videos:
        return {}
    store = Store(f"{folder}/signatures.lance", _SIGNATURE_SCHEMA, key=_DIGEST)
    with FolderLock(folder):
        store.create()
        stored = store.keys()
        todo = [digest for digest in videos if digest not in stored]
        if todo:
            log.info("contamination: decoding %d videos for their signatures", len(todo))
        for start in range(0, len(todo), _COMMIT_VIDEOS):
            part = todo[start : start + _COMMIT_VIDEOS]
            made = fingerprints([videos[digest] for digest in part], frames=frames, workers=workers)
            prints = [made.get(videos[digest]) for digest in part]
            columns = {
                _DIGEST: part,
                "signature": [fingerprint and fingerprint.signature for fingerprint in prints],
                "duration": [fingerprint and fingerprint.duration for fingerprint in prints],
            }
            # from_pandas: NaN, an unknown duration, is stored as null
            arrays = [
                pa.array(columns[field.name], field.type, from_pandas=True) for field in _SIGNATURE_SCHEMA
            ]
            store.append(pa.Table.from_arrays(arrays, schema=_SIGNATURE_SCHEMA))
    return {
        row[_DIGEST]: (row["signature"] or b"", np.nan if row["duration"] is None else row["duration"])
        for row in store.take(list(videos)).to_pylist()
    }
