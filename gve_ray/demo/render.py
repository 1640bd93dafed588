"""Render scenes: `frames` yields pictures of any size at given times, `write_mp4` a video file.

Objects are drawn from signed distance fields, antialiased and with a dark outline. The texture of a
background is drawn once for each chapter, at the resolution of the output, and sampled in every
frame as the camera moves.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from gve_ray.demo.scenes import SHAPES, Chapter, Scene
from gve_ray.demo.subtitles import add_track
from gve_ray.media.subtitles import Cue

RGB = {
    "red": (222, 38, 38),
    "orange": (248, 140, 24),
    "yellow": (248, 226, 52),
    "green": (44, 186, 74),
    "blue": (48, 86, 236),
    "purple": (146, 52, 204),
    "pink": (252, 132, 196),
    "white": (252, 252, 252),
}
OUTLINE = (16, 16, 16)
PAN = 0.4  # shift of the background over a chapter, in frame widths; objects do not shift
ZOOM = 1.35
MARGIN = 1.5  # size of the texture relative to the frame, which leaves room for a pan in either direction


def _night_sky(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    stars = np.zeros(np.broadcast(x, y).shape)
    for _ in range(60):
        cx, cy, r = rng.uniform(0, MARGIN), rng.uniform(0, MARGIN), rng.uniform(0.006, 0.014)
        stars = np.maximum(stars, np.clip(1.5 - np.hypot(x - cx, y - cy) / r, 0, 1))
    return np.array((24, 27, 62)) + stars[..., None] * np.array((170, 170, 150))


def _desert(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wave = np.sin(2 * np.pi * (5 * y + 0.7 * np.sin(2 * np.pi * (1.4 * x + rng.uniform()))))
    return np.array((206, 170, 112)) + wave[..., None] * np.array((20, 18, 14))


def _meadow(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    phase = rng.uniform(0, 2 * np.pi, 3)
    blades = sum(
        np.sin(2 * np.pi * f * x + 3 * np.sin(9 * y) + p) for f, p in zip((9, 15, 23), phase, strict=True)
    )
    return np.array((92, 128, 66)) + (blades / 3)[..., None] * np.array((24, 26, 20))


def _ocean(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    wave = np.sin(2 * np.pi * (9 * y + 0.35 * np.sin(2 * np.pi * (4 * x + rng.uniform()))))
    return np.array((40, 98, 128)) + wave[..., None] * np.array((16, 22, 24))


def _snow_field(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drifts = np.zeros(np.broadcast(x, y).shape)
    for _ in range(26):
        cx, cy, r = rng.uniform(0, MARGIN), rng.uniform(0, MARGIN), rng.uniform(0.04, 0.1)
        drifts = np.maximum(drifts, np.clip(1 - np.hypot(x - cx, y - cy) / r, 0, 1))
    return np.array((202, 210, 222)) - drifts[..., None] * np.array((52, 44, 30))


def _brick_wall(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    row = np.floor(y / 0.11)
    shifted = x + 0.11 * (row % 2) + rng.uniform(0, 0.1)
    mortar = (np.mod(y, 0.11) < 0.014) | (np.mod(shifted, 0.22) < 0.014)
    tint = np.mod(row * 7 + np.floor(shifted / 0.22) * 3, 5) * 4
    return np.where(mortar[..., None], (168, 156, 146), np.array((124, 72, 60)) + tint[..., None])


TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]] = {
    "night sky": _night_sky,
    "desert": _desert,
    "meadow": _meadow,
    "ocean": _ocean,
    "snow field": _snow_field,
    "brick wall": _brick_wall,
}


def _polygon_distance(x: np.ndarray, y: np.ndarray, corners: int, inner: float, outer: float) -> np.ndarray:
    """Return the signed distance to a star with `corners` points.

    inner, outer: radii of its inner and outer corners. With inner = outer * cos(pi / corners) it is
    a regular polygon.
    """
    sector = np.pi / corners
    angle = np.abs(np.mod(np.arctan2(x, -y) + sector, 2 * sector) - sector)
    radius = np.hypot(x, y)
    px, py = radius * np.sin(angle), radius * np.cos(angle)
    edge_x, edge_y = inner * math.sin(sector), inner * math.cos(sector) - outer
    length = math.hypot(edge_x, edge_y)
    return ((py - outer) * edge_x - px * edge_y) / length


def shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance (negative inside) from points (x, y), with y downward, to a shape
    of radius 1.

    Raises ValueError if the shape is unknown.
    """
    match shape:
        case "circle":
            return np.hypot(x, y) - 0.92
        case "ring":
            return np.abs(np.hypot(x, y) - 0.72) - 0.26
        case "bar":
            return np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.42)
        case "cross":
            a, b = np.abs(x), np.abs(y)
            return np.minimum(np.maximum(a - 1, b - 0.32), np.maximum(a - 0.32, b - 1))
        case "triangle":
            return _polygon_distance(x, y - 0.15, 3, 0.5 * 1.15, 1.15)
        case "star":
            return _polygon_distance(x, y, 5, 0.42, 1.1)
    raise ValueError(f"shape={shape!r}: unknown; use one of {', '.join(SHAPES)}")


@lru_cache(maxsize=32)
def _texture(background: str, seed: int, width: int, height: int) -> np.ndarray:
    """Return the texture of a background, uint8 [1.5 H, 1.5 W, 3]. It is cached and must not be
    modified.
    """
    rng = np.random.default_rng([seed, len(background), ord(background[0])])
    y, x = np.mgrid[0 : round(height * MARGIN), 0 : round(width * MARGIN)] / min(width, height)
    return np.clip(TEXTURES[background](x, y, rng), 0, 255).astype(np.uint8)


class _Painter:
    """Paints the frames of one chapter at one size."""

    def __init__(self, chapter: Chapter, seed: int, width: int, height: int) -> None:
        self.chapter, self.width, self.height = chapter, width, height
        self.texture = _texture(chapter.background, seed, width, height)

    def _camera(self, time: float) -> tuple[float, float]:
        """Return the shift of the background in frame widths, and the zoom factor, at `time`."""
        match self.chapter.camera:
            case "pan left":
                return -PAN * (time - 0.5), 1.0
            case "pan right":
                return PAN * (time - 0.5), 1.0
            case "zoom in":
                return 0.0, ZOOM**time
            case "zoom out":
                return 0.0, ZOOM ** (1 - time)
        return 0.0, 1.0

    def paint(self, time: float) -> np.ndarray:
        """Return the frame at `time` in [0, 1] of the chapter, uint8 [H, W, 3]."""
        shift, zoom = self._camera(time)
        rows = (np.arange(self.height) - self.height / 2) / zoom + self.texture.shape[0] / 2
        columns = (
            (np.arange(self.width) - self.width / 2) / zoom + self.texture.shape[1] / 2 + shift * self.width
        )
        image = self.texture[rows.astype(int)[:, None], columns.astype(int)[None, :]].astype(np.float32)
        for thing in self.chapter.things:
            state = thing.at(time)
            radius = thing.radius(time) * min(self.width, self.height) * zoom
            cx = ((state.x - 0.5) * zoom + 0.5) * self.width
            cy = ((state.y - 0.5) * zoom + 0.5) * self.height
            self._blend(image, thing.shape, RGB[thing.colour], cx, cy, radius, math.radians(state.angle))
        return image.astype(np.uint8)

    def _blend(
        self, image: np.ndarray, shape: str, colour: tuple[int, int, int],
        cx: float, cy: float, radius: float, angle: float,
    ) -> None:  # fmt: skip
        reach = 1.3 * radius + 2
        x0, x1 = max(0, int(cx - reach)), min(self.width, int(cx + reach) + 1)
        y0, y1 = max(0, int(cy - reach)), min(self.height, int(cy + reach) + 1)
        if x0 >= x1 or y0 >= y1:
            return
        x = (np.arange(x0, x1) + 0.5 - cx)[None, :] / radius
        y = (np.arange(y0, y1) + 0.5 - cy)[:, None] / radius
        cos, sin = math.cos(angle), math.sin(angle)
        distance = shape_distance(shape, x * cos + y * sin, y * cos - x * sin) * radius
        outline = np.clip(0.5 - distance + max(0.8, 0.07 * radius), 0, 1)[..., None]
        fill = np.clip(0.5 - distance, 0, 1)[..., None]
        box = image[y0:y1, x0:x1]
        box += outline * (np.asarray(OUTLINE, np.float32) - box)
        box += fill * (np.asarray(colour, np.float32) - box)


def frames(scene: Scene, times: Iterable[float], width: int, height: int) -> Iterator[np.ndarray]:
    """Yield a picture, uint8 [height, width, 3], for each of `times`, in [0, 1] of the scene."""
    painters: dict[int, _Painter] = {}
    for time in times:
        chapter, local = scene.locate(time)
        index = scene.chapters.index(chapter)
        if index not in painters:
            painters[index] = _Painter(chapter, scene.seed, width, height)
        yield painters[index].paint(local)


def encode_mp4(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    fps: float,
    width: int,
    height: int,
    crf: int = 20,
    subtitles: Sequence[Cue] = (),
) -> None:
    """Write pictures (uint8 [height, width, 3]) as an H.264 mp4 file. With an odd width or height,
    it has 4:4:4 chroma. subtitles: of a text track, which it has only if there are some.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if width % 2 == height % 2 == 0 else "yuv444p"
        # x264's macroblock tree reads uninitialised memory, so with it the same pictures give
        # different files.
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        if subtitles:
            add_track(container, subtitles)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_mp4(path: Path, scene: Scene, *, crf: int = 20, subtitles: Sequence[Cue] = ()) -> None:
    """Render a scene to an H.264 mp4 file. The same scene and encoder version give the same bytes."""
    last = scene.total_frames - 1
    times = (i / last for i in range(scene.total_frames))
    encode_mp4(
        path, frames(scene, times, scene.width, scene.height),
        fps=scene.fps, width=scene.width, height=scene.height, crf=crf, subtitles=subtitles,
    )  # fmt: skip
