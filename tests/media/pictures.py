"""Still pictures that would take long to encode."""

import io
import struct

import numpy as np
from PIL import Image

_MCU = 16  # pixels of a side of what 4:2:0 encodes together


def large_jpeg(width: int, height: int) -> tuple[bytes, np.ndarray]:
    """(a baseline JPEG of eight vertical stripes, their colours [8, 3] from left to right).

    One row of blocks is encoded, and repeated between restart markers.
    """
    colours = np.random.default_rng(width).integers(0, 256, (8, 3), dtype=np.uint8)
    stripes = Image.fromarray(np.repeat(colours[None], _MCU, axis=0)).resize(
        (width, _MCU), Image.Resampling.NEAREST
    )
    out = io.BytesIO()
    stripes.save(out, "JPEG", quality=95, subsampling="4:2:0", restart_marker_rows=1)
    head, row = out.getvalue()[:-2], b""
    scan = head.index(b"\xff\xda")
    start = scan + 2 + int.from_bytes(head[scan + 2 : scan + 4], "big")
    head, row = bytearray(head[:start]), head[start:]
    struct.pack_into(">H", head, head.index(b"\xff\xc0") + 5, height)
    rows = -(-height // _MCU)
    marked = (row + bytes([0xFF, 0xD0 + i % 8]) for i in range(rows - 1))
    return b"".join([bytes(head), *marked, row, b"\xff\xd9"]), colours
