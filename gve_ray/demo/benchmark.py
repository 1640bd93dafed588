"""A miniature UVRB: its 16 data sets in the published layout, each testing its ability for real.

    folders = write_benchmark(Path("runs/demo-uvrb"), seed=42, workers=2)

Only scenes of split `heldout` are shown; what is asked of them is decided in `benchmark_plan.py`. Data sets
that share videos in UVRB share them here: a video is rendered once, in `pool/`, and linked into each
`<data set>/videos/`. `truth.jsonl` says what every video shows. At scale 1 there are about 580 videos, 800
queries and 45 CPU seconds of rendering, which goes on where it stopped.
"""

import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gve_ray.demo.benchmark_plan import FORMAT, DataSet, Still, Video, plan_benchmark
from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

_PROGRESS_SECONDS = 5.0


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
    _write(state, json.dumps(found, indent=1))
    files = list({file.file: file for one in sets for file in one.files}.values())
    _render_all(folder, files, workers=workers)
    for one, path in zip(sets, folders, strict=True):
        _write_set(path, one, pool=folder / "pool")
    rows = ({"file": v.file, "scene": v.shown.to_dict()} for v in files if isinstance(v, Video))
    _write(folder / "truth.jsonl", _lines(rows))
    counts = {one.name: {"queries": len(one.queries), "corpus": len(one.corpus)} for one in sets}
    _write(state, json.dumps({"arguments": arguments, "complete": True, "datasets": counts}, indent=1))
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
    _write(folder / "jsonl/corpus.jsonl", _lines({"id": v.name, "video": v.file} for v in one.corpus))
    _write(folder / "jsonl/queries.jsonl", _lines(queries))
    _write(folder / "jsonl/instances.jsonl", _lines(instances))


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


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(path: Path, text: str) -> None:
    write_atomically(*filesystem(str(path)), text.encode())


def _render_all(folder: Path, files: Sequence[Video | Still], *, workers: int) -> None:
    """Render what is not there yet, with a line of progress every few seconds."""
    todo = [file for file in files if not (folder / "pool" / file.file).exists()]
    (folder / "partial").mkdir(exist_ok=True)
    render = partial(render_file, folder=folder)
    start = last = time.monotonic()
    log.info("benchmark: %d of %d files to render in %s", len(todo), len(files), folder)

    def progress(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PROGRESS_SECONDS or done == len(todo):
            rate = done / (now - start)
            left = (len(todo) - done) / rate
            log.info("benchmark: %d/%d files, %.1f files/s, %.0f s left", done, len(todo), rate, left)
            last = now

    if workers == 1:
        for done, file in enumerate(todo, 1):
            render(file)
            progress(done)
    else:
        # Spawned: the caller may have threads (Ray, torch) that a fork would freeze.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, _ in enumerate(pool.map(render, todo, chunksize=2), 1):
                progress(done)
    shutil.rmtree(folder / "partial")


def render_file(file: Video | Still, *, folder: Path) -> None:
    """Write one file into the pool; it appears whole or not at all."""
    part = folder / "partial" / file.file
    part.unlink(missing_ok=True)  # of a killed run
    file.write(part)
    os.replace(part, folder / "pool" / file.file)
