"""Write a raw corpus that resembles a web crawl: mp4 files, noisy captions, defects, ground truth.

    manifest = write_corpus(Path("runs/demo/raw"), n=320, seed=42)

The folder holds `videos/<id>.mp4`, the ground truth of each file in `videos/<id>.json` and of all
files in `truth.jsonl`, and `manifest.jsonl` (video_id, uri, caption) for jobs/synthesize.py.
`plan.py` decides the content. Rendering is parallel and resumes after an interruption; 320 files
take 75 CPU seconds.
"""

import json
import logging
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from gve_ray.demo import damage
from gve_ray.demo.files import json_lines, make_files, partial_folder, write_text
from gve_ray.demo.plan import FORMAT, CorpusShares, Entry, plan_corpus
from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import Scene, Split

log = logging.getLogger(__name__)


def write_corpus(
    folder: Path,
    *,
    n: int = 320,
    seed: int,
    split: Split = "corpus",
    shares: CorpusShares | None = None,
    workers: int = 2,
) -> Path:
    """Render a corpus into `folder` and return the path of its manifest. Finished files are not
    rendered again.

    n: number of files. workers: number of processes; with 1, this process renders. Raises
    ValueError if `folder` holds a corpus that was made with other arguments.
    """
    shares = shares or CorpusShares()
    folder = folder.resolve()
    manifest, state_path = folder / "manifest.jsonl", folder / "corpus.json"
    arguments = {"format": FORMAT, "n": n, "seed": seed, "split": split, "shares": asdict(shares)}
    state = {"arguments": arguments, "complete": False}
    if state_path.exists():
        state = json.loads(state_path.read_text())
    if state["arguments"] != arguments:
        raise ValueError(
            f"{folder}: holds a corpus made with other arguments ({state['arguments']}, not {arguments}); "
            "use another folder or delete this one"
        )
    if state["complete"]:
        return manifest
    entries = plan_corpus(n, seed=seed, split=split, shares=shares)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    write_text(state_path, json.dumps(state, indent=1))
    _render_all(folder, entries, seed=seed, workers=workers)
    write_text(folder / "truth.jsonl", json_lines(entry.to_dict() for entry in entries))
    # URIs are relative to the manifest, so the folder can be moved and its bytes do not depend on
    # its path.
    rows = ({"video_id": e.video_id, "uri": e.file, "caption": e.caption} for e in entries)
    write_text(manifest, json_lines(rows))
    kinds = dict(Counter(entry.kind for entry in entries).most_common())
    write_text(state_path, json.dumps({"arguments": arguments, "complete": True, "kinds": kinds}, indent=1))
    return manifest


def read_truth(folder: Path) -> list[Entry]:
    """Return the ground truth of a finished corpus. Raises FileNotFoundError if the corpus is not
    finished.
    """
    path = folder / "truth.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"{path}: not found; write_corpus writes it when the corpus is finished")
    with path.open(encoding="utf-8") as lines:
        return [Entry.from_dict(json.loads(line)) for line in lines]


def _render_all(folder: Path, entries: Sequence[Entry], *, seed: int, workers: int) -> None:
    """Render the files that do not exist yet."""
    files = (folder / entry.file for entry in entries)
    rendered = [file.exists() and file.with_suffix(".json").exists() for file in files]
    todo = [entry for entry, done in zip(entries, rendered, strict=True) if not done]
    log.info("corpus: %d of %d files to render in %s", len(todo), len(entries), folder)
    with partial_folder(folder):
        make_files(
            f"render {folder.name}", partial(render_entry, folder=folder, seed=seed), todo, workers=workers
        )


def render_entry(entry: Entry, *, folder: Path, seed: int) -> None:
    """Write one file and then its ground truth, each atomically."""
    part = folder / "partial" / f"{entry.video_id}.mp4"
    part.unlink(missing_ok=True)  # left by a killed run
    made = _write_file(part, entry, seed)
    os.replace(part, folder / entry.file)
    truth = {**entry.to_dict(), "made": made}
    write_text((folder / entry.file).with_suffix(".json"), json.dumps(truth, ensure_ascii=False, indent=1))


def _write_file(path: Path, entry: Entry, seed: int) -> dict[str, Any]:
    """Write the entry's file. Returns the facts that are only known once it is written, for its
    ground truth.
    """
    scene, variant = entry.scene, entry.variant
    rng = random.Random(f"gve_ray file {FORMAT}/{seed}/{entry.video_id}")
    noise = np.random.default_rng(rng.getrandbits(64))
    size: dict[str, Any] = {"width": scene.width, "height": scene.height}
    match entry.kind:
        case "empty":
            path.touch()
        case "zero_frame":
            damage.write_no_frames(path, fps=scene.fps, **size)
        case "audio_only":
            damage.write_audio_only(path, **variant)
        case "not_a_video":
            damage.write_not_a_video(path, variant["what"], next(_pictures(scene)), rng)
        case "one_frame":
            encode_mp4(path, [next(_pictures(scene))], fps=scene.fps, **size)
        case "static":
            pictures = _noisy(_pictures(scene), variant["noise"], noise)
            encode_mp4(path, pictures, fps=scene.fps, crf=variant["crf"], **size)
        case "near_duplicate":
            _write_copy(path, scene, **variant)
        case "rotated":
            _write_rotated(path, scene, variant["degrees"])
        case _:
            encode_mp4(path, _pictures(scene), fps=scene.fps, **size)
    if entry.kind == "truncated":
        if variant["layout"] == "moov first":
            damage.move_index_first(path)
        return {"kept": damage.cut(path, variant["keep"], frames=scene.total_frames)}
    if entry.kind == "corrupt":
        return {"bytes_overwritten": damage.overwrite_middle(path, noise, frames=scene.total_frames)}
    return {}


def _pictures(scene: Scene) -> Iterator[np.ndarray]:
    """Yield the scene's frames, uint8 [H, W, 3], at the size and frame rate of the scene."""
    last = scene.total_frames - 1
    return frames(scene, (i / last for i in range(scene.total_frames)), scene.width, scene.height)


def _noisy(pictures: Iterator[np.ndarray], noise: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Add what a real camera on a tripod records of a static scene: sensor grain and a slight
    flicker of the light.
    """
    grain = rng.uniform(1.5, 3.0) if "sensor" in noise else 0.0  # standard deviation, grey levels
    flicker = 0.025 if "flicker" in noise else 0.0
    for picture in pictures:
        gain = 1 + flicker * rng.uniform(-1, 1)
        noisy = picture * np.float32(gain)
        if grain:
            noisy = noisy + grain * rng.standard_normal(picture.shape, dtype=np.float32)
        yield np.clip(noisy, 0, 255).round().astype(np.uint8)


def _write_copy(path: Path, scene: Scene, *, crf: int, scale: float, speed: float, gain: float) -> None:
    """Write a near-duplicate of the scene, with another size, frame rate, brightness and quality."""
    width, height = (2 * round(side * scale / 2) for side in (scene.width, scene.height))
    source = list(_pictures(scene))
    count = max(8, round(len(source) * speed))

    def pictures() -> Iterator[np.ndarray]:
        for i in range(count):
            picture = source[round(i * (len(source) - 1) / (count - 1))]
            scaled = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(width=width, height=height)
            yield np.clip(scaled.to_ndarray() * np.float32(gain), 0, 255).astype(np.uint8)

    encode_mp4(path, pictures(), fps=scene.fps * speed, width=width, height=height, crf=crf)


def _write_rotated(path: Path, scene: Scene, degrees: int) -> None:
    """Write the scene rotated, with a display matrix that makes players turn it back by `degrees`
    clockwise.
    """
    stored = (np.ascontiguousarray(np.rot90(p, degrees // 90)) for p in _pictures(scene))  # counterclockwise
    width, height = (scene.width, scene.height) if degrees == 180 else (scene.height, scene.width)
    encode_mp4(path, stored, fps=scene.fps, width=width, height=height)
    damage.set_display_rotation(path, degrees, stored_width=width, stored_height=height)
