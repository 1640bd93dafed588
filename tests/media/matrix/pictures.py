"""Pictures that show their frame number, how they were stored and whether alpha was applied.

A picture has four coloured corners, eight black or white cells in the middle (the frame's code,
0..255) and two patches at the sides that are transparent where the codec has alpha. `read` finds
all of it in RGB of any size, after lossy coding, scaling, turning and mirroring.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COLUMNS, ROWS = 4, 2  # of cells; one bit each
_CORNERS = {"red": (210, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 210), "yellow": (210, 210, 30)}
_STORED = np.array([["red", "green"], ["blue", "yellow"]])
_LUMA = (0.299, 0.587, 0.114)
_GROUND = 40  # the level of the ground, and of what transparent patches hide

# Stored picture [H, W, ...] -> displayed picture, by the name of the operation.
ORIENTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "upright": lambda a: a,
    "mirrored": lambda a: a[:, ::-1],
    "flipped": lambda a: a[::-1],
    "turned 180": lambda a: a[::-1, ::-1],
    "turned 90": lambda a: np.rot90(a, -1),
    "turned 270": lambda a: np.rot90(a, 1),
    "transposed": lambda a: a.swapaxes(0, 1),
    "transversed": lambda a: a[::-1, ::-1].swapaxes(0, 1),
}
_INVERSES = {"turned 90": "turned 270", "turned 270": "turned 90"}  # the others undo themselves
_BY_CORNERS = {tuple(turn(_STORED).ravel()): name for name, turn in ORIENTATIONS.items()}


@dataclass(frozen=True)
class Reading:
    """What a picture shows. code: 0..255, or None where a cell is neither black nor white.
    orientation: a key of ORIENTATIONS, or what the corners look like. sides: mean levels of the
    clear and the half-clear patch."""

    code: int | None
    orientation: str
    sides: tuple[int, int]


def draw(
    code: int, width: int = 160, height: int = 96, *, alpha: bool = False, noise: float = 0.0
) -> np.ndarray:
    """uint8 [height, width, 3], or 4 channels (RGBA) with `alpha`. noise: standard deviation of added grain."""
    pixels = np.full((height, width, 4), 255, np.uint8)
    pixels[..., :3] = _GROUND
    for name, part in zip(_STORED.ravel(), _corners(pixels), strict=True):
        part[..., :3] = _CORNERS[name]
    for bit, cell in enumerate(_cells(pixels)):
        cell[..., :3] = 255 * (code >> bit & 1)
    for patch, opacity in zip(_sides(pixels), (0, 128), strict=True):
        patch[..., 3] = opacity
    if noise:
        grain = np.random.default_rng(code).normal(0, noise, (height, width, 1))
        pixels[..., :3] = np.clip(pixels[..., :3] + grain, 0, 255).astype(np.uint8)
    return pixels if alpha else np.ascontiguousarray(pixels[..., :3])


def read(pixels: np.ndarray) -> Reading:
    """Read a picture that `draw` made. pixels: uint8 [H, W, 3]."""
    corners = tuple(_colour(part) for part in _corners(pixels, margin=0.3))
    orientation = _BY_CORNERS.get(corners)
    if orientation is None:
        return Reading(code=None, orientation=" ".join(corners), sides=(0, 0))
    upright = ORIENTATIONS[_INVERSES.get(orientation, orientation)](pixels)
    levels = [float(cell.mean()) for cell in _cells(upright, margin=0.25)]
    legible = all(level < 90 or level > 165 for level in levels)
    code = sum((level > 127) << bit for bit, level in enumerate(levels)) if legible else None
    clear, half = (round(float(patch.mean())) for patch in _sides(upright, margin=0.25))
    return Reading(code=code, orientation=orientation, sides=(clear, half))


def _part(
    pixels: np.ndarray, left: float, top: float, right: float, bottom: float, margin: float
) -> np.ndarray:
    """A view of the part between these shares of width and height, less `margin` of its size at each side."""
    height, width = pixels.shape[:2]
    dx, dy = margin * (right - left), margin * (bottom - top)
    return pixels[
        round((top + dy) * height) : round((bottom - dy) * height),
        round((left + dx) * width) : round((right - dx) * width),
    ]


def _corners(pixels: np.ndarray, margin: float = 0.0) -> list[np.ndarray]:
    return [_part(pixels, x, y, x + 0.2, y + 0.25, margin) for y in (0, 0.75) for x in (0, 0.8)]


def _cells(pixels: np.ndarray, margin: float = 0.0) -> list[np.ndarray]:
    wide, tall = 0.5 / COLUMNS, 0.5 / ROWS
    return [
        _part(pixels, 0.25 + x * wide, 0.25 + y * tall, 0.25 + (x + 1) * wide, 0.25 + (y + 1) * tall, margin)
        for y in range(ROWS)
        for x in range(COLUMNS)
    ]


def _sides(pixels: np.ndarray, margin: float = 0.0) -> list[np.ndarray]:
    return [_part(pixels, x, 0.35, x + 0.15, 0.65, margin) for x in (0.05, 0.8)]


def _colour(part: np.ndarray) -> str:
    """The corner colour that a part has; of a grey picture, the one of that brightness."""
    red, green, blue = part.reshape(-1, 3).mean(axis=0)
    grey = max(red, green, blue) - min(red, green, blue) < 12
    colours = {name: [np.dot(rgb, _LUMA)] * 3 if grey else rgb for name, rgb in _CORNERS.items()}
    near = {name: np.abs(np.array(rgb) - (red, green, blue)).max() for name, rgb in colours.items()}
    name = min(near, key=near.__getitem__)
    return name if near[name] < 85 else f"({red:.0f},{green:.0f},{blue:.0f})"
