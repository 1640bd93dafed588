"""How a stored picture is mirrored and rotated for display: the eight orientations of a display matrix.

`Orientation.from_matrix` reads the matrix that MP4, QuickTime and Matroska files carry;
`Orientation.apply` turns decoded pixels upright.
"""

import math
from dataclasses import dataclass

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame


@dataclass(frozen=True, kw_only=True)
class Orientation:
    """mirrored: flip left to right first. rotation: then rotate clockwise by 0, 90, 180 or 270 degrees."""

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def from_matrix(cls, a: int, b: int, c: int, d: int) -> "Orientation":
        """The orientation of a display matrix; angles are rounded to the nearest quarter turn.

        The matrix moves stored (x, y) to displayed (a x + c y, b x + d y), with y downwards
        (ISO/IEC 14496-12, section 8.3.2).
        """
        mirrored = a * d - b * c < 0
        if mirrored:  # undo the flip: what is left is a rotation
            a, b = -a, -b
        degrees = math.degrees(math.atan2(b, a) if a or b else math.atan2(-c, d))
        return cls(rotation=round(degrees / 90) * 90 % 360, mirrored=mirrored)

    @classmethod
    def of_frame(cls, frame: VideoFrame) -> "Orientation":
        """The orientation that the container, or an SEI message of the stream, states for a frame."""
        try:
            # PyAV's type stub knows only one of its two kinds of keys.
            matrix = frame.side_data.get(Type.DISPLAYMATRIX)  # type: ignore[call-overload]
        except ValueError:
            # PyAV 18 lists no side data at all if one kind of it is newer than PyAV (spatial video); the
            # angle it reads without listing, so only a mirrored spatial video is shown unmirrored.
            return cls(rotation=round(-frame.rotation / 90) * 90 % 360)
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        return cls.from_matrix(a, b, c, d)

    @property
    def swaps_sides(self) -> bool:
        """True if width and height change places."""
        return self.rotation % 180 != 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] as stored -> uint8 [H', W', 3] as displayed."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(np.rot90(pixels, -self.rotation // 90))
