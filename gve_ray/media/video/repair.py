"""Repair what a remux can repair: garbage before the container, and broken container timestamps.

A repaired file is checked by the same strict pass. No repair leaves out frames.
"""

import io

import av
import numpy as np

from gve_ray.media.container.framing import gif_end
from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.source import Blob
from gve_ray.media.video.probe import Scan

_SEARCHED = 1 << 16  # bytes at the start in which a container's signature is searched for
_GAP_SECONDS = 10.0  # a longer jump is a discontinuity and not a pause (FFmpeg's threshold for TS)


def cut_leading_rubbish(blob: Blob) -> Blob | None:
    """Return the file from the signature of its container on, without the HTTP headers and the like
    that some downloaders save in front of it; None if there is no signature after the start."""
    data = blob.read()
    head = data[:_SEARCHED]
    signature_at = [head.find(b"ftyp") - 4, head.find(b"\x1a\x45\xdf\xa3"), head.find(b"RIFF")]
    start = min((at for at in signature_at if at > 0), default=0)
    if not start:
        return None
    return Blob(name=blob.name, size=len(data) - start, data=data[start:])


def without_trailer(blob: Blob) -> Blob:
    """Return a GIF without the bytes after its last block, which FFmpeg would take for another
    picture; any other file as it is."""
    with blob.open() as file:
        if not file.read(4).startswith(b"GIF8"):
            return blob
        end, complete = gif_end(file)
    if not complete or end >= blob.size:
        return blob
    return Blob(name=blob.name, size=end, data=blob.read()[:end])


def has_broken_timestamps(scan: Scan) -> bool:
    """Return whether the container has timestamps, but they repeat, run backwards or jump.

    Containers that by design have none for some frames (AVI) are not broken. In MP4, Matroska and
    IVF timestamps cannot run backwards (FFmpeg only guesses Matroska's decoding times), jumps are
    intended, and a repeated timestamp belongs to a hidden reference picture of VP8 or VP9, which
    the decoder leaves out.
    """
    packets = scan.packets
    if not (packets.has_pts and packets.has_dts) or len(packets) < 2:
        return False
    if scan.info.container in ("mp4", "matroska", "ivf"):
        return False
    if scan.timeline is None:
        return True
    steps = np.diff(packets.dts) * float(packets.time_base)
    return bool(steps.min() < 0 or (scan.info.container == "mpegts" and steps.max() > _GAP_SECONDS))


def remux(scanned: Scan) -> Blob:
    """Copy the best video stream's packets into Matroska with timestamps that ascend without jumps.

    A gap in the decoding times is closed: all later packets are shifted to continue one frame
    later. Raises MediaError("corrupt") if the packets cannot be copied.
    """
    out, name = io.BytesIO(), scanned.blob.name
    try:
        with scanned.open() as video:
            stream = video.stream
            steps = np.diff(scanned.packets.dts)
            step = int(np.median(steps[steps > 0])) if np.any(steps > 0) else 1
            limit = _GAP_SECONDS / float(scanned.packets.time_base)
            with av.open(out, "w", format="matroska") as target:
                copy = target.add_stream_from_template(stream)
                shift, last = 0, None
                for packet in video.packets():
                    if packet.size == 0 or packet.dts is None or packet.pts is None:
                        continue
                    dts = packet.dts + shift
                    if last is not None and not 0 < dts - last <= limit:
                        shift += last + step - dts
                        dts = last + step
                    packet.pts, packet.dts, last = packet.pts + shift, dts, dts
                    packet.stream = copy
                    target.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise MediaError(Reason.CORRUPT, f"{name}: cannot be remuxed: {error}") from error
    data = out.getvalue()
    return Blob(name=name, size=len(data), data=data)
