"""A miniature UVRB: its 16 data sets in the published layout, each testing its ability for real.

    folders = write_benchmark(Path("runs/demo-uvrb"), seed=42, workers=2)

Only scenes of split `heldout` are shown; what is asked of them is decided in `benchmark_plan.py`. Data sets
that share videos in UVRB share them here: a video is rendered once, in `pool/`, and linked into each
`<data set>/videos/`. `truth.jsonl` says what every video shows. At scale 1 there are about 580 videos, 800
queries and 45 CPU seconds of rendering, which goes on where it stopped.
"""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gve_ray.demo.benchmark_plan import FORMAT, DataSet, Still, Video, plan_benchmark
from gve_ray.demo.files import json_lines, make_files, partial_folder, write_text

log = logging.getLogger(__name__)


def write_benchmark(folder: Path, *, seed: int, scale: float = 1.0, workers: int) -> list[Path]:
    """Write all data sets below `folder`, one folder each, and return these; what is there is not made again.

    workers: processes (1: this one). Raises ValueError on a bad `scale`, and if the folder holds a benchmark
    of other arguments.
    """
    folder = folder.resolve()
    state = folder / "benchmark.json"
    arguments = {"format": FORMAT, "seed": seed, "scale": scale}
    found = json.loads(state.read_text()) if state.exists() else {"arguments": arguments, "complete": False}
    if found["arguments"] != arguments:
        raise ValueError(
            f"{folder}: holds a benchmark of other arguments ({found['arguments']}, not {arguments}); "
            "give another folder or delete this one"
        )
    sets = plan_benchmark(seed=seed, scale=scale)
    folders = [folder / one.name for one in sets]
    if found["complete"]:
        return folders
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    write_text(state, json.dumps(found, indent=1))
    files = list({file.file: file for one in sets for file in one.files}.values())
    _render_all(folder, files, workers=workers)
    for one, path in zip(sets, folders, strict=True):
        _write_set(path, one, pool=folder / "pool")
    rows = ({"file": v.file, "scene": v.shown.to_dict()} for v in files if isinstance(v, Video))
    write_text(folder / "truth.jsonl", json_lines(rows))
    counts = {one.name: {"queries": len(one.queries), "corpus": len(one.corpus)} for one in sets}
    write_text(state, json.dumps({"arguments": arguments, "complete": True, "datasets": counts}, indent=1))
    return folders


def _write_set(folder: Path, one: DataSet, *, pool: Path) -> None:
    """One data set in the published layout, its files linked from the pool."""
    for file in one.files:
        place = folder / ("images" if isinstance(file, Still) else "videos") / file.file
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(pool / file.file, place)
    ids = [f"{one.name}-{i:04d}" for i in range(len(one.queries))]
    (folder / "jsonl").mkdir(parents=True, exist_ok=True)
    queries, instances = [], []
    for qid, query in zip(ids, one.queries, strict=True):
        image, video = (part.file if part else None for part in (query.image, query.video))
        parts = {"text": query.text, "image": image, "video": video}
        queries.append({"id": qid, **{name: part for name, part in parts.items() if part}})
        candidates = {"candidates": query.candidates} if query.candidates else {}
        instances.append({"qid": qid, "pos": query.positives, **candidates})
    write_text(folder / "jsonl/corpus.jsonl", json_lines({"id": v.name, "video": v.file} for v in one.corpus))
    write_text(folder / "jsonl/queries.jsonl", json_lines(queries))
    write_text(folder / "jsonl/instances.jsonl", json_lines(instances))


def _link(source: Path, place: Path) -> None:
    """Give a file one more name, or a copy where the file system knows no links."""
    if place.exists():
        return
    try:
        os.link(source, place)
    except OSError:
        part = place.with_name(place.name + ".part")
        shutil.copyfile(source, part)
        os.replace(part, place)


def _render_all(folder: Path, files: Sequence[Video | Still], *, workers: int) -> None:
    """Render what is not there yet."""
    todo = [file for file in files if not (folder / "pool" / file.file).exists()]
    log.info("benchmark: %d of %d files to render in %s", len(todo), len(files), folder)
    with partial_folder(folder):
        make_files("benchmark", partial(render_file, folder=folder), todo, workers=workers)


def render_file(file: Video | Still, *, folder: Path) -> None:
    """Write one file into the pool; it appears whole or not at all."""
    part = folder / "partial" / file.file
    part.unlink(missing_ok=True)  # of a killed run
    file.write(part)
    os.replace(part, folder / "pool" / file.file)
