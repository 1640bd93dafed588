"""Renders films: scenes of the demo one after the other, with hard cuts at known times."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np

from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import draw_scene


def seeds_with_cuts(count: int, first: int) -> list[int]:
    """Return seeds of scenes of which each has another background than the one before, so that a cut is seen."""
    seeds: list[int] = []
    background = ""
    for seed in range(first, first + 10 * count):
        own = draw_scene(seed, "corpus", long=False).chapters[0].background
        if own != background and len(seeds) < count:
            seeds, background = [*seeds, seed], own
    return seeds


def write_film(
    path: Path,
    seeds: Sequence[int],
    *,
    seconds: tuple[float, float] = (1.0, 4.0),
    fps: float = 10.0,
    width: int = 112,
    height: int = 84,
    crf: int = 20,
) -> list[float]:
    """Write a film of one scene per seed, as an mp4 file; return the time of each cut in seconds.

    seconds: shortest and longest scene. The same seeds give the same scenes of the same lengths.
    """
    lengths = [round(fps * random.Random(f"length {seed}").uniform(*seconds)) for seed in seeds]
    encode_mp4(path, _pictures(seeds, lengths, width, height), fps=fps, width=width, height=height, crf=crf)
    return [sum(lengths[:i]) / fps for i in range(1, len(lengths))]


def encode_again(film: Path, path: Path, *, width: int, height: int, crf: int) -> None:
    """Write the pictures of a film at another size and quality."""
    with av.open(str(film)) as source:
        fps = float(source.streams.video[0].average_rate)
        pictures = (
            frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
            for frame in source.decode(video=0)
        )
        encode_mp4(path, pictures, fps=fps, width=width, height=height, crf=crf)


def _pictures(seeds: Sequence[int], lengths: Sequence[int], width: int, height: int) -> Iterator[np.ndarray]:
    for seed, length in zip(seeds, lengths, strict=True):
        scene = draw_scene(seed, "corpus", long=False)
        yield from frames(scene, (i / (length - 1) for i in range(length)), width, height)
