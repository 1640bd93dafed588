"""Write a miniature UVRB: its 16 data sets in the published layout.

    folders = write_benchmark(Path("runs/demo/uvrb"), seed=42, workers=2)

All videos show scenes of the split `heldout`; `benchmark_plan.py` decides the scenes and queries.
Data sets that share videos in UVRB share them here as well: a video is rendered once, into `pool/`,
and linked into each `<data set>/videos/`. `truth.jsonl` says what every video shows. At scale 1
there are about 580 videos and 800 queries. Rendering takes 45 CPU seconds and resumes after an
interruption.
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
    """Write all data sets, each into a subfolder of `folder`, and return these subfolders.

    Finished files are not rendered again. scale: size of the benchmark relative to the default, see
    `plan_benchmark`. workers: number of processes; with 1, this process renders. Raises ValueError
    if `scale` is out of range, or if `folder` holds a benchmark that was made with other arguments.
    """
    folder = folder.resolve()
    state_path = folder / "benchmark.json"
    arguments = {"format": FORMAT, "seed": seed, "scale": scale}
    state = {"arguments": arguments, "complete": False}
    if state_path.exists():
        state = json.loads(state_path.read_text())
    if state["arguments"] != arguments:
        raise ValueError(
            f"{folder}: holds a benchmark made with other arguments ({state['arguments']}, not {arguments}); "
            "use another folder or delete this one"
        )
    datasets = plan_benchmark(seed=seed, scale=scale)
    folders = [folder / dataset.name for dataset in datasets]
    if state["complete"]:
        return folders
    (folder / "pool").mkdir(parents=True, exist_ok=True)
    write_text(state_path, json.dumps(state, indent=1))
    files = list({file.file: file for dataset in datasets for file in dataset.files}.values())
    _render_all(folder, files, workers=workers)
    for dataset, path in zip(datasets, folders, strict=True):
        _write_dataset(path, dataset, pool=folder / "pool")
    rows = ({"file": v.file, "scene": v.shown.to_dict()} for v in files if isinstance(v, Video))
    write_text(folder / "truth.jsonl", json_lines(rows))
    counts = {d.name: {"queries": len(d.queries), "corpus": len(d.corpus)} for d in datasets}
    write_text(
        state_path, json.dumps({"arguments": arguments, "complete": True, "datasets": counts}, indent=1)
    )
    return folders


def _write_dataset(folder: Path, dataset: DataSet, *, pool: Path) -> None:
    """Write one data set in the published layout, with its media files linked from the pool."""
    for file in dataset.files:
        target = folder / ("images" if isinstance(file, Still) else "videos") / file.file
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(pool / file.file, target)
    ids = [f"{dataset.name}-{i:04d}" for i in range(len(dataset.queries))]
    (folder / "jsonl").mkdir(parents=True, exist_ok=True)
    queries, instances = [], []
    for qid, query in zip(ids, dataset.queries, strict=True):
        image, video = (part.file if part else None for part in (query.image, query.video))
        parts = {"text": query.text, "image": image, "video": video}
        queries.append({"id": qid, **{name: part for name, part in parts.items() if part}})
        candidates = {"candidates": query.candidates} if query.candidates else {}
        instances.append({"qid": qid, "pos": query.positives, **candidates})
    corpus = ({"id": video.name, "video": video.file} for video in dataset.corpus)
    write_text(folder / "jsonl/corpus.jsonl", json_lines(corpus))
    write_text(folder / "jsonl/queries.jsonl", json_lines(queries))
    write_text(folder / "jsonl/instances.jsonl", json_lines(instances))


def _link(source: Path, target: Path) -> None:
    """Create a hard link, or a copy if the file system has no hard links."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        part = target.with_name(target.name + ".part")
        shutil.copyfile(source, part)
        os.replace(part, target)


def _render_all(folder: Path, files: Sequence[Video | Still], *, workers: int) -> None:
    """Render the files that do not exist yet."""
    todo = [file for file in files if not (folder / "pool" / file.file).exists()]
    log.info("benchmark: %d of %d files to render in %s", len(todo), len(files), folder)
    with partial_folder(folder):
        make_files(f"render {folder.name}", partial(render_file, folder=folder), todo, workers=workers)


def render_file(file: Video | Still, *, folder: Path) -> None:
    """Write one file into the pool atomically."""
    part = folder / "partial" / file.file
    part.unlink(missing_ok=True)  # left by a killed run
    file.write(part)
    os.replace(part, folder / "pool" / file.file)
