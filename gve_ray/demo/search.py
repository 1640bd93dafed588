"""Search the held-out videos over HTTP and measure how often the right video is found.

queries = write_queries(Path("runs/demo/queries"), Path("runs/demo/heldout"), seed=42)
score_serving(url, queries, embedder)  # {"queries": 200, "top5": {...}, "parity": ...}
"""

import base64
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from gve_ray.demo.corpus import read_truth
from gve_ray.demo.files import make_files, partial_folder
from gve_ray.demo.language import Writer
from gve_ray.demo.plan import Entry
from gve_ray.demo.render import encode_mp4, frames
from gve_ray.demo.scenes import Scene
from gve_ray.embedder import Embedder
from gve_ray.schema import Item
from gve_ray.serving.client import Client
from gve_ray.synthesis import prompts

KINDS = ("text", "image", "video", "composed")
QUERIES = 50  # of each kind
DEPTH = 5
_CLIP_SECONDS = (2.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query with its files, as a client would send it. target: name of the video that it is
    about.
    """

    target: str
    text: str | None = None
    image: Path | None = None
    video: Path | None = None


def write_queries(
    folder: Path, heldout: Path, *, seed: int, n: int = QUERIES, workers: int = 1
) -> dict[str, list[Query]]:
    """Return n queries of each kind about the first n videos of `heldout`, and write their images
    and clips to `folder`.

    text: a complete description. image: a frame. video: a clip. composed: a frame, and a text about
    what happens in relation to it. Images and clips are rendered from the scenes, not cut from the
    indexed files. Finished clips are not rendered again. workers: number of processes; with 1, this
    process renders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = read_truth(heldout)[:n]
    todo = [entry for entry in entries if not _files(folder, entry)[1].exists()]
    with partial_folder(folder):
        make_files(
            f"render {folder.name}", partial(_write_media, folder=folder, seed=seed), todo, workers=workers
        )
    queries: dict[str, list[Query]] = {kind: [] for kind in KINDS}
    for entry in entries:
        scene, target = entry.scene, Path(entry.file).name
        image, clip = _files(folder, entry)
        drawn = _draw(scene, seed)
        change = Writer().image_query(scene, drawn.moment, drawn.strategy)
        queries["text"].append(Query(target=target, text=Writer().captions(scene)["2"]))
        queries["image"].append(Query(target=target, image=image))
        queries["video"].append(Query(target=target, video=clip))
        queries["composed"].append(Query(target=target, text=change, image=image))
    return queries


def _files(folder: Path, entry: Entry) -> tuple[Path, Path]:
    """Return the paths of the image and of the clip about a video."""
    stem = folder / Path(entry.file).stem
    return stem.with_suffix(".png"), stem.with_suffix(".mp4")


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """What is drawn for the queries about a video.

    moment: of the image, in [0, 1]. start, seconds: of the clip. strategy: of the composed query.
    """

    moment: float
    start: float
    seconds: float
    strategy: str


def _draw(scene: Scene, seed: int) -> _Draw:
    rng = random.Random(f"gve_ray serving/{seed}/{scene.seed}")
    moment = rng.random()
    seconds = min(scene.duration, rng.uniform(*_CLIP_SECONDS))
    start = rng.uniform(0, scene.duration - seconds)
    return _Draw(moment=moment, start=start, seconds=seconds, strategy=rng.choice(prompts.STRATEGIES))


def _write_media(entry: Entry, *, folder: Path, seed: int) -> None:
    """Write the image about a video and then the clip, each atomically."""
    scene, drawn = entry.scene, _draw(entry.scene, seed)
    width, height = scene.width, scene.height
    image, clip = _files(folder, entry)
    part = folder / "partial" / image.name
    Image.fromarray(next(iter(frames(scene, [drawn.moment], width, height)))).save(part)
    os.replace(part, image)
    part = folder / "partial" / clip.name
    count = max(2, round(drawn.seconds * scene.fps))
    times = ((drawn.start + drawn.seconds * i / count) / scene.duration for i in range(count))
    encode_mp4(part, frames(scene, times, width, height), fps=scene.fps, width=width, height=height)
    os.replace(part, clip)


def score_serving(url: str, queries: Mapping[str, Sequence[Query]], embedder: Embedder) -> dict[str, Any]:
    """Send the queries to the service at `url` and score its answers.

    Returns queries, their number; top5, the share of queries of each kind whose video is among the
    first five; and parity, the lowest cosine between the vector of a query from the service and
    from `embedder`. Raises ServiceError if the service refuses a query.
    """
    client = Client(url)
    top5 = {}
    for kind, of_kind in queries.items():
        results = [client.search(q.text, image=q.image, video=q.video, top_k=DEPTH) for q in of_kind]
        correct = [
            any(Path(hit["uri"]).name == query.target for hit in hits)
            for query, hits in zip(of_kind, results, strict=True)
        ]
        top5[kind] = sum(correct) / len(correct)
    all_queries = [query for of_kind in queries.values() for query in of_kind]
    items = [
        Item(
            text=query.text,
            image=str(query.image) if query.image else None,
            video=str(query.video) if query.video else None,
        )
        for query in all_queries
    ]
    served = np.stack([_vector(url, query) for query in all_queries])
    cosines = (served * embedder.embed(items)).sum(axis=1)
    return {"queries": len(all_queries), "top5": top5, "parity": float(cosines.min())}


def _vector(url: str, query: Query) -> np.ndarray:
    """Return the vector of a query, float32 [d], from /v1/embeddings in the chat format of vLLM."""
    content: list[dict[str, Any]] = []
    for name, path, kind in (
        ("image_url", query.image, "image/png"),
        ("video_url", query.video, "video/mp4"),
    ):
        if path is not None:
            data = base64.b64encode(path.read_bytes()).decode()
            content.append({"type": name, name: {"url": f"data:{kind};base64,{data}"}})
    if query.text is not None:
        content.append({"type": "text", "text": query.text})
    body = {"messages": [{"role": "user", "content": content}]}
    response = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60, trust_env=False).raise_for_status()
    return np.array(response.json()["data"][0]["embedding"], dtype=np.float32)


def format_serving(summary: Mapping[str, Any]) -> str:
    """Return the summary as a readable table."""
    top5 = summary["top5"]
    lines = [
        f"{summary['queries']} queries over HTTP; lowest cosine to the batch embedder: {summary['parity']:.6f}",
        f"{'right video in the first five':<32}" + "".join(f"{kind:>10}" for kind in top5),
        " " * 32 + "".join(f"{share:>10.2f}" for share in top5.values()),
    ]
    return "\n".join(lines)
