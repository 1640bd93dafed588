"""Videos that people have described, in WebVid's layout: what the paper's mixture holds beside UVRD.

results.csv    videoid, page_dir, name: two descriptions a video, one of them a full one
videos/        small mp4 files of split `corpus`

Unlike the raw corpus they are clean, and nothing is synthesized from them (METHOD.md section 5: 8.8 M
video-centric instances from public sets beside 1.55 M of UVRD).
"""

import csv
import io
import json
import logging
import os
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

from gve_ray.demo.files import make_files, partial_folder, write_text
from gve_ray.demo.language import Writer
from gve_ray.demo.render import write_mp4
from gve_ray.demo.scenes import SIZES_PX, Scene, draw_scene
from gve_ray.synthesis import prompts

log = logging.getLogger(__name__)

VIDEOS = 1200
FIRST_SEED = 10_000_000  # of the scenes: the raw corpus draws from below
LONGEST = 4.0  # seconds; with the smallest sizes and rate, some 10 files a second and core are rendered
FPS = 8.0
FULL, OTHERS = "2", ("1", "1", "4", "5")  # captions of prompt 1: the rich one; short, keywords, partial


def write_described(folder: Path, *, n: int = VIDEOS, seed: int, workers: int) -> Path:
    """Render `n` videos into `folder` and describe them; returns the csv. What is there is not made again.

    Raises ValueError when the folder was made with other arguments.
    """
    table, arguments = folder / "results.csv", {"n": n, "seed": seed}
    state = folder / "set.json"
    if state.exists() and (found := json.loads(state.read_text(encoding="utf-8"))) != arguments:
        raise ValueError(
            f"{folder} holds videos described with {found}, not {arguments}; delete it or use another"
        )
    if table.exists():
        return table
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    write_text(state, json.dumps(arguments))
    scenes = [_small(seed, number) for number in range(n)]
    todo = [scene for scene in scenes if not _path(folder, scene).exists()]
    log.info("described: %d of %d files to render in %s", len(todo), n, folder)
    with partial_folder(folder):
        make_files("described", partial(_render, folder=folder), todo, workers=workers)
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(("videoid", "page_dir", "name"))
    for scene in scenes:
        rows.writerows((_path(folder, scene).stem, "videos", text) for text in _descriptions(scene))
    write_text(table, lines.getvalue())
    return table


def _small(seed: int, number: int) -> Scene:
    scene = draw_scene(FIRST_SEED + seed * VIDEOS + number, "corpus", long=False)
    width, height = random.Random(scene.seed).choice(SIZES_PX[:4])
    return replace(scene, width=width, height=height, fps=FPS, duration=min(scene.duration, LONGEST))


def _path(folder: Path, scene: Scene) -> Path:
    return folder / "videos" / f"{scene.seed}.mp4"


def _render(scene: Scene, *, folder: Path) -> None:
    path = _path(folder, scene)
    part = folder / "partial" / path.name
    write_mp4(part, scene)
    os.replace(part, path)


def _descriptions(scene: Scene) -> list[str]:
    """A full one, and another, each by someone with words of their own."""
    rng = random.Random(f"gve_ray described/{scene.seed}")

    def told(style: str) -> str:
        writer = Writer(
            rng.choice(prompts.READABILITY), rng.choice(prompts.EDUCATION), rng.choice(list(prompts.PROFILES))
        )
        return writer.captions(scene)[style]

    return [told(FULL), told(rng.choice(OTHERS))]
