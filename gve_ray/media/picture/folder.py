"""Read a folder of frames as a video; UVRB is published in this layout."""

import hashlib

import numpy as np

from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.picture.still import picture_size
from gve_ray.media.source import Blob, Source, folder_blobs
from gve_ray.media.video.probe import Timeline, VideoInfo

FRAMES_PER_SECOND = 1.0  # frame folders have 1 frame per second in arXiv:2510.27571, section 5


def scan_folder(source: Source, limits: Limits) -> tuple[list[Blob], VideoInfo, Timeline, str]:
    """Return (pictures by name, facts, timeline at 1 FPS, sha256 over the digests of the pictures).

    Raises MediaError: empty, too_large, too_many_frames, corrupt.
    """
    blobs = list(folder_blobs(source))
    if not blobs:
        raise MediaError(Reason.EMPTY, f"{source!r}: no pictures in this folder")
    limits.check_bytes(sum(blob.size for blob in blobs))
    n = len(blobs)
    timeline = Timeline(seconds=np.arange(n) / FRAMES_PER_SECOND, pts=None, end=n / FRAMES_PER_SECOND)
    limits.check_length(timeline.end, n)
    height, width = picture_size(blobs[0], limits)
    info = VideoInfo(
        container="folder",
        codec=blobs[0].name.rsplit(".", 1)[-1].lower(),
        width=width,
        height=height,
        fps=FRAMES_PER_SECOND,
        duration=timeline.end,
        total_frames=n,
    )
    digest = hashlib.sha256("".join(blob.sha256() for blob in blobs).encode()).hexdigest()
    return blobs, info, timeline, digest
