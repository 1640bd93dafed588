"""Render videos that the content filters of synthesis should reject, and similar ones that should pass.

    for example in examples(seed=7):
        write_example(Path("videos") / f"{example.name}.mp4", example)

An `Example` says which defects it has. Each kind of defect has counterparts that only resemble it: dark
scenes beside black bars, a visible night beside a picture that is too dark, slow motion beside a slideshow.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import Scene, draw_scene
from gve_ray.synthesis.motion import THRESHOLD, motion_score

SIZES_PX = ((320, 240), (426, 240), (360, 360), (480, 360), (640, 360), (360, 640))
FPS = 6.0
DEFECTS = ("text_overlay", "borders", "blur", "darkness", "slideshow")
LOOKALIKES = (
    "plain",
    "textured",
    "night",
    "slow",
    "chapters",
    "dark edges",
    "white ground",
    "grain",
    "soft",
    "small text",
)
# Blur is in pixels of the frames that are stored, which have at most so many.
_STORED_PIXELS = 200 * 28 * 28
_SEEN_MOTION = 2 * THRESHOLD  # of the first and the last frame of a shot of slow motion

_LATIN = (
    "how to make this at home in five minutes", "Episode 12: the long way home", "Subscribe for more",
    "I told you not to open the door", "Breaking news from the capital", "Don't forget to like and share",
    "Wir sehen uns morgen wieder", "¿Dónde estabas anoche?", "Il était une fois à la campagne",
)  # fmt: skip
_CYRILLIC = ("Как приготовить дома за пять минут", "Новости этого часа", "Подпишитесь на наш канал")
_GREEK = ("Πώς να το φτιάξετε στο σπίτι", "Τα νέα της ημέρας", "Μην ξεχάσετε να έρθετε")
_ARABIC = ("كيف تصنعها في البيت", "أخبار اليوم من العاصمة", "لا تنس الاشتراك في القناة")
_SCRIPTS = {"latin": _LATIN, "cyrillic": _CYRILLIC, "greek": _GREEK, "arabic": _ARABIC, "han": ()}
_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono-Bold.ttf",
)

Pictures = list[np.ndarray]  # uint8 [H, W, 3] each, of one video


@dataclass(frozen=True, kw_only=True)
class Example:
    """One rendered video. defects: those it has, of `DEFECTS`; kind: the defect, or what it resembles."""

    name: str
    kind: str
    seed: int

    @property
    def defects(self) -> frozenset[str]:
        return frozenset({self.kind} & {*DEFECTS})


def examples(*, seed: int, of_each: int = 20) -> list[Example]:
    """Return examples of every defect and lookalike; the same seed gives the same videos."""
    return [
        Example(name=f"{kind.replace(' ', '-')}-{i:03d}", kind=kind, seed=seed)
        for i in range(of_each)
        for kind in (*DEFECTS, *LOOKALIKES)
    ]


def write_example(path: Path, example: Example) -> None:
    """Render an example to an mp4 file."""
    rng = random.Random(f"gve_ray content/{example.seed}/{example.name}")
    pictures = _RENDER[example.kind](rng)
    height, width = pictures[0].shape[:2]
    encode_mp4(path, pictures, fps=FPS, width=width, height=height, crf=rng.choice((18, 23, 28)))


# ---- Scenes


def _scene(rng: random.Random, *, background: str | None = None, long: bool = False) -> Scene:
    width, height = rng.choice(SIZES_PX)
    while True:
        scene = draw_scene(rng.randrange(10**9), "heldout", long=long)
        if background is None or scene.chapters[0].background == background:
            return replace(scene, width=width, height=height, fps=FPS)


def _pictures(
    scene: Scene, rng: random.Random, *, seconds: float | None = None, span: tuple[float, float] = (0.0, 1.0)
) -> Pictures:
    """Render some seconds of a scene. span: from and to, in [0, 1] of the scene."""
    count = round((seconds or rng.uniform(3.0, 5.0)) * FPS)
    times = np.linspace(*span, count).tolist()
    return list(frames(scene, times, scene.width, scene.height))


def _plain(rng: random.Random) -> Pictures:
    return _pictures(_scene(rng), rng)


def _night(rng: random.Random) -> Pictures:
    """Low light: most of the picture is dark, and lamps and objects are visible."""
    gamma, gain = rng.uniform(1.6, 2.4), rng.uniform(0.55, 0.85)
    table = (255 * gain * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return _grained([table[picture] for picture in _plain(rng)], rng, 2.0)


def _slow(rng: random.Random) -> Pictures:
    """Slow motion, in one shot or two: little changes from frame to frame, but it changes steadily."""
    shots = rng.choice((1, 2))
    size = None
    pictures: Pictures = []
    for _ in range(shots):
        shot: Pictures = []
        while not shot or motion_score(np.stack([shot[0], shot[-1]])) < _SEEN_MOTION:
            scene = _scene(rng)
            size = size or (scene.width, scene.height)
            begin = rng.uniform(0, 0.5)
            span = begin, begin + rng.uniform(0.35, 0.5)
            scene = replace(scene, width=size[0], height=size[1])
            shot = _pictures(scene, rng, seconds=rng.uniform(4, 6), span=span)
        pictures += shot
    return pictures


def _chapters(rng: random.Random) -> Pictures:
    """Several moving shots with cuts between them."""
    return _pictures(_scene(rng, long=True), rng, seconds=rng.uniform(6, 9))


def _dark_edges(rng: random.Random) -> Pictures:
    """A picture that is black at some edges without a straight border: a vignette, a night sky over hills."""
    pictures = _plain(rng)
    height, width = pictures[0].shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    if rng.random() < 0.5:
        away = np.hypot((x / width - 0.5) * 2, (y / height - 0.5) * 2)
        light = np.clip((1.35 - away) / 0.5, 0, 1)
    else:
        hills = 0.22 + 0.06 * np.sin(2 * math.pi * (x / width * rng.uniform(0.7, 2) + rng.random()))
        light = np.clip((y / height - hills) * height / rng.uniform(2, 10), 0, 1)
        if rng.random() < 0.3:
            light = light[::-1]
    return [(picture * light[..., None]).astype(np.uint8) for picture in pictures]


def _textured(rng: random.Random) -> Pictures:
    """A ground of hard lines and grains that stays or pans: a fence, tiles, shelves, leaves, dots."""
    pictures = _plain(rng)
    height, width = pictures[0].shape[:2]
    noise = np.random.default_rng(rng.getrandbits(64))
    y, x = np.mgrid[0:height, 0 : 2 * width]
    pitch = rng.randint(5, 26)
    low, high = rng.randint(10, 90), rng.randint(150, 250)
    kind = rng.choice(("fence", "tiles", "shelves", "leaves", "dots"))
    if kind == "fence":
        ground = (x + y * rng.choice((0, 0.2))) % pitch < pitch * 0.4
    elif kind == "tiles":
        ground = (x // pitch + y // pitch) % 2 == 0
    elif kind == "shelves":  # goods of different widths on boards
        edges = np.cumsum(noise.integers(4, 30, 2 * width))
        goods = np.searchsorted(edges, np.arange(2 * width)) * 7 % 5 / 4
        ground = np.where(y % (4 * pitch) < 4, 1.0, goods[None, :] * 0.9)
    else:
        size = 3 if kind == "leaves" else 6
        shape = height // size + 1, 2 * width // size + 1
        small = Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8))
        smooth = np.asarray(small.resize((2 * width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        ground = smooth / 255 if kind == "leaves" else smooth > 170
    ground = (low + (high - low) * ground.astype(np.float32))[..., None] * noise.uniform(0.7, 1, 3)
    step = rng.choice((0, 1, 2, 3))
    below = round(height * rng.uniform(0, 0.5))
    out = []
    for i, picture in enumerate(pictures):
        shown, start = picture.copy(), (i * step) % width
        shown[below:] = ground[below:, start : start + width]
        out.append(shown)
    return out


def _white_ground(rng: random.Random) -> Pictures:
    """Objects before a ground of one colour, as in pictures of products."""
    scene = _scene(rng)
    ground = np.array(rng.choice(((255, 255, 255), (240, 240, 240), (12, 12, 12), (90, 140, 210))), np.uint8)
    still = replace(scene.chapters[0], camera="still")
    scene = replace(scene, chapters=(still,))
    empty = replace(scene, chapters=(replace(still, things=()),))
    count = round(rng.uniform(3, 5) * FPS)
    backdrop = next(frames(empty, [0.0], scene.width, scene.height)).astype(np.int16)
    out = []
    for picture in frames(scene, np.linspace(0, 1, count).tolist(), scene.width, scene.height):
        same = np.abs(picture.astype(np.int16) - backdrop).max(axis=-1, keepdims=True) < 4
        out.append(np.where(same, ground, picture))
    return out


def _grain(rng: random.Random) -> Pictures:
    return _grained(_plain(rng), rng, rng.uniform(3, 7))


def _soft(rng: random.Random) -> Pictures:
    """As sharp as cheap lenses and strong compression leave it."""
    return _blurred(_plain(rng), rng.uniform(0.4, 0.9))


def _small_text(rng: random.Random) -> Pictures:
    """A name or a date in a corner, which covers next to nothing."""
    pictures = _plain(rng)
    height, width = pictures[0].shape[:2]
    text = rng.choice(("LIVE", "12:47", "ch. 5", "2021"))
    side = max(9, round(0.035 * min(height, width)))
    layer = _text_layer([text], "latin", side, width, rng, is_bright=pictures[0].mean() > 128)
    return [_pasted(picture, layer, (width - layer.width - side // 2, side // 2)) for picture in pictures]


def _grained(pictures: Pictures, rng: random.Random, sigma: float) -> Pictures:
    noise = np.random.default_rng(rng.getrandbits(64))
    return [
        np.clip(picture + sigma * noise.standard_normal(picture.shape, dtype=np.float32), 0, 255).astype(
            np.uint8
        )
        for picture in pictures
    ]


# ---- Defects


def _blurred(pictures: Pictures, sigma: float) -> Pictures:
    """Blur by a Gaussian. sigma: in pixels of the frames as they are stored."""
    height, width = pictures[0].shape[:2]
    sigma *= max(1.0, math.sqrt(height * width / _STORED_PIXELS))
    return [
        np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma))) for picture in pictures
    ]


def _blur(rng: random.Random) -> Pictures:
    """Out of focus: from a loss of detail that everyone sees to shapes that are hardly recognised."""
    return _blurred(_plain(rng), math.exp(rng.uniform(math.log(2.2), math.log(9))))


def _darkness(rng: random.Random) -> Pictures:
    """Under-exposed, so that next to nothing is visible."""
    gain = math.exp(rng.uniform(math.log(0.02), math.log(0.13)))
    return _grained([(picture * gain).astype(np.uint8) for picture in _plain(rng)], rng, rng.uniform(0, 1.5))


def _borders(rng: random.Random) -> Pictures:
    """Bars of one colour at two or four sides, or at one; some beside dark scenes."""
    kind = rng.choice(("plain", "plain", "night", "chapters"))
    pictures = _RENDER[kind](rng)
    height, width = pictures[0].shape[:2]
    colour = np.array(
        rng.choice(((0, 0, 0), (0, 0, 0), (16, 16, 16), (255, 255, 255), (128, 128, 128), (20, 40, 110))),
        np.uint8,
    )
    share = rng.uniform(0.03, 0.28)
    dy, dx = max(4, round(share * height)), max(4, round(share * width))
    top, bottom, left, right = {
        "letterbox": (dy, dy, 0, 0),
        "pillarbox": (0, 0, dx, dx),
        "windowbox": (dy, dy, dx, dx),
        "bottom": (0, dy, 0, 0),
        "uneven": (dy, max(3, dy // 2), 0, 0),
    }[rng.choice(("letterbox", "letterbox", "pillarbox", "pillarbox", "windowbox", "bottom", "uneven"))]
    inner = (max(16, width - left - right), max(16, height - top - bottom))
    out = []
    for picture in pictures:
        framed = np.broadcast_to(colour, picture.shape).copy()
        framed[top : top + inner[1], left : left + inner[0]] = np.asarray(
            Image.fromarray(picture).resize(inner)
        )
        out.append(framed)
    return out


def _slideshow(rng: random.Random) -> Pictures:
    """Three to six stills that are held for a while, with hard cuts or short fades, and codec noise only."""
    count = rng.randint(3, 6)
    hold, fade = rng.uniform(1.0, 3.0), rng.choice((0, 0, 3))
    size = rng.choice(SIZES_PX)
    stills = []
    for _ in range(count):
        scene = replace(_scene(rng), width=size[0], height=size[1])
        stills.append(next(frames(scene, [rng.random()], *size)))
    pictures: Pictures = []
    for still, following in zip(stills, [*stills[1:], stills[0]], strict=True):
        pictures += [still] * max(1, round(hold * FPS))
        pictures += [
            (still * (1 - i / (fade + 1)) + following * (i / (fade + 1))).astype(np.uint8)
            for i in range(1, fade + 1)
        ]
    return _grained(pictures, rng, rng.choice((0.0, 0.0, 1.5)))


def _text_overlay(rng: random.Random) -> Pictures:
    """Subtitles that change, titles, lists or a ticker, in several scripts, sizes, styles and places."""
    pictures = _RENDER[rng.choice(("plain", "plain", "night", "chapters"))](rng)
    height, width = pictures[0].shape[:2]
    script = rng.choice(tuple(_SCRIPTS))
    style = rng.choice(("subtitles", "subtitles", "title", "list", "ticker"))
    share = {
        "subtitles": (0.045, 0.08),
        "title": (0.09, 0.16),
        "list": (0.045, 0.07),
        "ticker": (0.05, 0.08),
    }[style]
    side = max(12, round(rng.uniform(*share) * height))
    lines = {"subtitles": (1, 2), "title": (1, 2), "list": (3, 6), "ticker": (1, 1)}[style]
    hold = len(pictures) if style in ("title", "list") else rng.randint(6, 15)
    # A new seed for each layer would change the style of the text within a video.
    look, layers = rng.getrandbits(32), []
    is_bright = float(np.median([picture.mean() for picture in pictures])) > 128
    for _ in range(0, len(pictures), hold):
        texts = [_phrase(rng, script) for _ in range(rng.randint(*lines))]
        if style == "ticker":
            texts = ["   ".join(_phrase(rng, script) for _ in range(4))]
        room = 10**6 if style == "ticker" else round(width * 0.94)
        layers.append(_text_layer(texts, script, side, room, random.Random(look), is_bright=is_bright))
    place, across = rng.choice(("top", "middle", "bottom", "bottom")), rng.uniform(0, 1)
    out = []
    for i, picture in enumerate(pictures):
        layer = layers[i // hold]
        x = round((width - layer.width) * (0.5 if style in ("subtitles", "title") else across))
        if style == "ticker":
            x = -i * side // 2
        y = {"top": 0.05, "middle": 0.45, "bottom": 0.93}[place] * height
        y = y - layer.height if place == "bottom" else y
        out.append(_pasted(picture, layer, (x, max(0, min(round(y), height - layer.height)))))
    return out


def _phrase(rng: random.Random, script: str) -> str:
    if (
        script == "han"
    ):  # no font with Chinese, Japanese or Korean ships; `_han` draws strokes for each character
        return "".join(chr(0x4E00 + rng.randrange(2000)) for _ in range(rng.randint(6, 16)))
    return rng.choice(_SCRIPTS[script])


def _text_layer(
    texts: Sequence[str], script: str, side: int, room: int, rng: random.Random, *, is_bright: bool
) -> Image.Image:
    """Return lines of text as RGBA, which can be read before the picture.

    side: height of a line in pixels. room: largest width; text is cut there. is_bright: whether the picture is.
    """
    backing = rng.choice(("outline", "outline", "box", "solid box", "shadow", "none"))
    bright = rng.choice(((255, 255, 255), (255, 255, 255), (255, 235, 60), (80, 220, 255)))
    is_dark = is_bright if backing in ("shadow", "none") else rng.random() < 0.2
    colour = (10, 10, 10) if is_dark else bright
    other = (245, 245, 245) if is_dark else (0, 0, 0)
    font = _font(rng.choice(_FONTS), round(side * 0.8))
    pad = max(2, side // 4)
    masks = [
        _han_mask(text, round(side * 0.85)) if script == "han" else _font_mask(text, font) for text in texts
    ]
    width = min(room, max(mask.width for mask in masks) + 2 * pad)
    layer = Image.new("RGBA", (width, side * len(masks) + 2 * pad), (0, 0, 0, 0))
    if backing in ("box", "solid box"):
        layer.paste((*other, 255 if backing == "solid box" else 150), (0, 0, *layer.size))
    for row, mask in enumerate(masks):
        at = (pad if len(masks) > 2 else max(pad, (width - mask.width) // 2), pad + row * side)
        line = Image.new("L", layer.size, 0)
        line.paste(mask, at)
        if backing == "outline":
            reach = 2 * max(1, side // 16) + 1
            layer.paste((*other, 255), (0, 0), line.filter(ImageFilter.MaxFilter(reach)))
        elif backing == "shadow":
            shadow = Image.new("L", layer.size, 0)
            shadow.paste(mask, (at[0] + max(1, side // 14), at[1] + max(1, side // 14)))
            layer.paste((*other, 255), (0, 0), shadow)
        layer.paste((*colour, 255), (0, 0), line)
    return layer


def _pasted(picture: np.ndarray, layer: Image.Image, at: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(picture)
    image.paste(layer, at, layer)
    return np.asarray(image)


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _font_mask(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    left, _, right, bottom = (int(v) for v in font.getbbox(text))
    mask = Image.new("L", (max(1, right - left), max(1, bottom)), 0)
    ImageDraw.Draw(mask).text((-left, 0), text, font=font, fill=255)
    return mask


def _han_mask(text: str, side: int) -> Image.Image:
    """Draw characters that have the density and the strokes of Chinese ones, and mean nothing."""
    mask = Image.new("L", (side * len(text), side), 0)
    draw = ImageDraw.Draw(mask)
    thick = max(1, round(side * 0.07))
    for i, character in enumerate(text):
        rng = random.Random(character)
        x0, inner = i * side + side * 0.08, side * 0.84
        for _ in range(rng.randint(8, 13)):
            a, b = sorted(rng.choice((0.0, 0.25, 0.5, 0.75, 1.0)) for _ in range(2))
            at = rng.choice((0.05, 0.3, 0.5, 0.7, 0.95))
            kind = rng.choice(("across", "across", "down", "down", "slant"))
            if a == b:
                a, b = 0.0, 1.0
            ends = {
                "across": (a, at, b, at),
                "down": (at, a, at, b),
                "slant": (0.5, a, rng.choice((0.1, 0.9)), b),
            }[kind]
            points = [x0 + ends[0] * inner, 2 + ends[1] * inner, x0 + ends[2] * inner, 2 + ends[3] * inner]
            draw.line(points, fill=255, width=thick)
    return mask


_RENDER: dict[str, Callable[[random.Random], Pictures]] = {
    "plain": _plain,
    "textured": _textured,
    "night": _night,
    "slow": _slow,
    "chapters": _chapters,
    "dark edges": _dark_edges,
    "white ground": _white_ground,
    "grain": _grain,
    "soft": _soft,
    "small text": _small_text,
    "text_overlay": _text_overlay,
    "borders": _borders,
    "blur": _blur,
    "darkness": _darkness,
    "slideshow": _slideshow,
}
