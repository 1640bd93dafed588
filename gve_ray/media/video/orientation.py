"""The eight ways in which a stored picture is mirrored and rotated for display.

`Orientation.from_matrix` reads the display matrix of MP4, QuickTime and Matroska files;
`Orientation.apply` turns decoded pixels upright.
"""

import math
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """mirrored: flip left to right. rotation: then rotate clockwise by 0, 90, 180 or 270 degrees."""

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def from_matrix(cls, a: int, b: int, c: int, d: int) -> "Orientation":
        """Return the orientation of a display matrix, with the angle rounded to a multiple of 90 degrees.

        The matrix moves stored (x, y) to displayed (a x + c y, b x + d y), with y downwards
        (ISO/IEC 14496-12, section 8.3.2).
        """
        mirrored = a * d - b * c < 0
        if mirrored:  # undo the flip, which leaves a rotation
            a, b = -a, -b
        degrees = math.degrees(math.atan2(b, a) if a or b else math.atan2(-c, d))
        return cls(rotation=round(degrees / 90) * 90 % 360, mirrored=mirrored)

    @classmethod
    def of_frame(cls, frame: VideoFrame) -> "Orientation":
        """Return the orientation that the container, or an SEI message of the stream, states for a frame."""
        try:
            # PyAV's type stub knows only one of its two kinds of keys.
            matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
        except ValueError:
            # PyAV 18 cannot list the side data if one kind of it is newer than PyAV (spatial
            # video). It still reads the angle, so only a mirrored spatial video is shown without
            # the mirroring.
            return cls(rotation=round(-frame.rotation / 90) * 90 % 360)
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        return cls.from_matrix(a, b, c, d)

    @property
    def swaps_sides(self) -> bool:
        """Whether width and height are exchanged."""
        return self.rotation % 180 != 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn uint8 [H, W, 3] as stored into uint8 [H', W', 3] as displayed."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, -self.rotation // 90))
