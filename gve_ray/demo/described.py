"""Write videos with human-like descriptions, in the layout of WebVid.

    results.csv    videoid, page_dir, name: two descriptions of each video, the first of them complete
    videos/        small mp4 files of the split `corpus`

They take the place of the public data sets that the paper trains on together with the synthesized pairs
(arXiv:2510.27571: 8.8 M video-centric instances and the 1.55 M of UVRD). Unlike the raw corpus they
have no defects, and nothing is synthesized from them.
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
FIRST_SEED = 10_000_000  # of the scenes; the raw corpus uses smaller seeds
# At this length, frame rate and size, one core renders about 10 files per second.
LONGEST = 4.0  # seconds
FPS = 8.0
FULL, OTHERS = "2", ("1", "1", "4", "5")  # captions of prompt 1: rich; short, keywords and partial


def write_described(folder: Path, *, n: int = VIDEOS, seed: int, workers: int) -> Path:
    """Render `n` videos into `folder`, describe them, and return the path of results.csv.

    Finished files are not rendered again. workers: number of processes; with 1, this process
    renders. Raises ValueError if `folder` was made with other arguments.
    """
    table, arguments = folder / "results.csv", {"n": n, "seed": seed}
    state = folder / "set.json"
    if state.exists() and (previous := json.loads(state.read_text(encoding="utf-8"))) != arguments:
        raise ValueError(
            f"{folder}: holds videos made with other arguments ({previous}, not {arguments}); "
            "use another folder or delete this one"
        )
    if table.exists():
        return table
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    write_text(state, json.dumps(arguments))
    scenes = [_small(seed, number) for number in range(n)]
    todo = [scene for scene in scenes if not _path(folder, scene).exists()]
    log.info("described: %d of %d files to render in %s", len(todo), n, folder)
    with partial_folder(folder):
        make_files(f"render {folder.name}", partial(_render, folder=folder), todo, workers=workers)
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
    """Return a complete description and a shorter one, each in the words of a different writer."""
    rng = random.Random(f"gve_ray described/{scene.seed}")

    def description(style: str) -> str:
        writer = Writer(
            rng.choice(prompts.READABILITY), rng.choice(prompts.EDUCATION), rng.choice(list(prompts.PROFILES))
        )
        return writer.captions(scene)[style]

    return [description(FULL), description(rng.choice(OTHERS))]
