"""Find damage and loss in the packet headers of an MPEG transport stream (ISO/IEC 13818-1, 2.4.3).

FFmpeg skips packets without a sync byte and joins the others, often without an error from the
decoder.
"""

import numpy as np

from gve_ray.media.limits import MediaError, Reason
from gve_ray.media.source import Blob

SYNC = 0x47
_LAYOUTS = ((188, 0), (192, 4))  # packet size, bytes before the sync byte (.m2ts puts a time code there)
_NULL_PID = 0x1FFF


def layout(head: bytes) -> tuple[int, int] | None:
    """Return (packet size, offset of the sync byte) of a transport stream; None for any other file."""
    for size, sync in _LAYOUTS:
        if head[sync : sync + 5 * size : size] == bytes([SYNC]) * 5:
            return size, sync
    return None


def damage(blob: Blob, size: int, sync: int) -> str:
    """Describe the damage to the packets, or return "". Raises MediaError("encrypted") if one is scrambled.

    A packet without its sync byte or with its error bit set is damage. A jump of a continuity
    counter is lost data, except where a new unit starts: two undamaged recordings were joined
    there.
    """
    raw: np.ndarray
    raw = np.memmap(blob.path, np.uint8, "r") if blob.path else np.frombuffer(blob.read(), np.uint8)
    packets = raw[: len(raw) // size * size].reshape(-1, size)
    heads = np.ascontiguousarray(packets[:, sync : sync + 6]).astype(np.int32)  # [n, 6]
    broken = (heads[:, 0] != SYNC) | (heads[:, 1] & 0x80 != 0)
    if broken.any():
        return f"{int(broken.sum())} of {len(packets)} transport packets are broken"
    scrambled = heads[:, 3] & 0xC0 != 0
    if scrambled.any():
        raise MediaError(
            Reason.ENCRYPTED,
            f"{int(scrambled.sum())} of {len(packets)} transport packets are scrambled; decrypt the file first",
        )
    pids = (heads[:, 1] & 0x1F) << 8 | heads[:, 2]
    unit_start = heads[:, 1] & 0x40 != 0
    adapted, payload = heads[:, 3] & 0x20 != 0, heads[:, 3] & 0x10 != 0
    announced = adapted & (heads[:, 4] > 0) & (heads[:, 5] & 0x80 != 0)  # discontinuity_indicator
    for pid in np.unique(pids[pids != _NULL_PID]):
        mine = np.flatnonzero((pids == pid) & payload)
        counter = heads[mine, 3] & 0x0F
        step = np.diff(counter) % 16
        lost = (step > 1) & ~unit_start[mine[1:]] & ~announced[mine[1:]]  # a step of 0 is a repeated packet
        if lost.any():
            return f"{int(lost.sum())} gaps in the transport packets of stream {pid}"
    return ""
