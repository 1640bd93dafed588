"""What moves is dynamic, what only flickers or rustles is static: on drawn frames and through real H.264."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gve_ray.demo.render import encode_mp4
from gve_ray.media import read_frames
from gve_ray.synthesis.motion import THRESHOLD, motion_score

SIDE, COUNT = 112, 24
Draw = Callable[[float], np.ndarray]  # t in 0..1 -> float [SIDE, SIDE, 3], 0..255

Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(float)


def texture(shift: float = 0.0, zoom: float = 1.0) -> np.ndarray:
    x, y = (X - SIDE / 2) / zoom + SIDE / 2 + shift, (Y - SIDE / 2) / zoom + SIDE / 2
    waves = np.sin(x / 5) + np.sin(y / 7 + 1) + np.sin((x + y) / 11)
    return 120 + 25 * waves[..., None] * np.array([1.0, 0.8, 0.5])


def disc(cx: float, cy: float, radius: float, colour: tuple[int, int, int] = (220, 40, 40)) -> Draw:
    def put(_: float) -> np.ndarray:
        cover = np.clip(radius + 0.5 - np.hypot(X - cx, Y - cy), 0, 1)[..., None]
        return texture() * (1 - cover) + np.array(colour) * cover

    return put


def spinning_square(t: float) -> np.ndarray:
    angle = t * np.pi * 0.9
    u = (X - 56) * np.cos(angle) + (Y - 56) * np.sin(angle)
    v = (Y - 56) * np.cos(angle) - (X - 56) * np.sin(angle)
    cover = np.clip(9.5 - np.maximum(abs(u), abs(v)), 0, 1)[..., None]
    return texture() * (1 - cover) + np.array((40, 80, 230)) * cover


DYNAMIC: dict[str, Draw] = {
    "small object crosses a third": lambda t: disc(30 + 37 * t, 50, 9)(t),
    "it does so faintly": lambda t: disc(30 + 37 * t, 50, 9, (165, 150, 125))(t),
    "it moves only in the middle": lambda t: disc(30 + 37 * (0.4 < t < 0.7), 50, 9)(t),
    "small object shrinks": lambda t: disc(56, 56, 9 - 5 * t)(t),
    "small object spins": spinning_square,
    "slow pan": lambda t: texture(shift=11 * t),
    "slow zoom": lambda t: texture(zoom=1 + 0.12 * t),
    "object changes colour": lambda t: disc(56, 56, 9, (220, int(40 + 120 * t), 40))(t),
}
STATIC: dict[str, Draw] = {
    "texture": lambda t: texture(),
    "object that stays": lambda t: disc(30, 50, 9)(t),
    "flat grey": lambda t: np.full((SIDE, SIDE, 3), 128.0),
    "black and white": lambda t: np.where(texture()[..., :1] > 120, 255.0, 0.0).repeat(3, axis=2),
    "fade to black": lambda t: texture() * (1 - 0.97 * t),
    "black at first": lambda t: texture() * (t > 0.3),
    "grey that brightens": lambda t: np.full((SIDE, SIDE, 3), 236.0 * t),
    "strong flicker": lambda t: texture() * (1 + 0.25 * np.sin(40 * t)),
    "flicker that clips": lambda t: (texture() - 128) * 2.2 + 150 + 60 * np.sin(31 * t),
}


def frames(draw: Draw, *, sigma: float = 0.0, flicker: float = 0.0, seed: int = 0) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for i in range(COUNT):
        seen = draw(i / (COUNT - 1)) * (1 + flicker * rng.uniform(-1, 1)) + sigma * rng.standard_normal(
            (SIDE, SIDE, 3)
        )
        yield np.clip(seen, 0, 255).round().astype(np.uint8)


def sampled(draw: Draw, **noise: float) -> np.ndarray:
    return np.stack(list(frames(draw, **noise)))[np.linspace(0, COUNT - 1, 8).round().astype(int)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_moves_is_dynamic(name: str) -> None:
    assert motion_score(sampled(DYNAMIC[name])) >= THRESHOLD


@pytest.mark.parametrize("name", STATIC)
def test_what_does_not_move_is_static(name: str) -> None:
    assert motion_score(sampled(STATIC[name])) < THRESHOLD


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("name", ["texture", "object that stays", "flat grey"])
def test_grain_and_mild_flicker_are_not_motion(name: str, sigma: float) -> None:
    scores = [motion_score(sampled(STATIC[name], sigma=sigma, flicker=0.06, seed=seed)) for seed in range(4)]
    assert max(scores) < THRESHOLD, scores


@pytest.mark.parametrize("name", DYNAMIC)
def test_motion_is_seen_through_grain_and_flicker(name: str) -> None:
    assert motion_score(sampled(DYNAMIC[name], sigma=3.0, flicker=0.06)) >= THRESHOLD


@pytest.mark.parametrize("crf", [20, 34])
def test_through_a_real_codec(tmp_path: Path, crf: int) -> None:
    def score(draw: Draw) -> float:
        path = tmp_path / "v.mp4"
        pictures = frames(draw, sigma=2.0, flicker=0.02)
        encode_mp4(path, pictures, fps=12, width=SIDE, height=SIDE, crf=crf)
        return motion_score(read_frames(str(path), k=8, max_pixels=112 * 112, min_pixels=4 * 28 * 28).pixels)

    for name in ("texture", "object that stays"):
        assert score(STATIC[name]) < THRESHOLD, name
    for name in ("small object crosses a third", "small object spins", "slow pan", "slow zoom"):
        assert score(DYNAMIC[name]) >= THRESHOLD, name


def test_a_large_picture_is_judged_as_a_small_one() -> None:
    small = sampled(DYNAMIC["small object crosses a third"])
    large = small.repeat(4, axis=1).repeat(4, axis=2)
    assert motion_score(large) == pytest.approx(motion_score(small), rel=0.15)


def test_one_frame_does_not_move_and_wrong_pixels_are_refused() -> None:
    assert motion_score(np.zeros((1, 56, 56, 3), dtype=np.uint8)) == 0.0
    with pytest.raises(ValueError, match="float64"):
        motion_score(np.zeros((2, 56, 56, 3)))
