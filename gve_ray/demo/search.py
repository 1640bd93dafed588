"""The held-out videos searched over HTTP: what the whole product is for, measured at its far end.

queries = write_queries(folder, benchmark, truth, n=50)         # real files, as a client sends them
score_serving(url, queries, embedder)                           # {"top5": {...}, "parity": ...}
"""

import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from gve_ray.demo.corpus import read_truth
from gve_ray.demo.language import Writer
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
    """What is asked, as a client has it, and the name of the video that it is of."""

    target: str
    text: str | None = None
    image: Path | None = None
    video: Path | None = None


def write_queries(folder: Path, heldout: Path, *, seed: int, n: int = QUERIES) -> dict[str, list[Query]]:
    """n queries of each kind about the first n videos of `heldout`, their pictures and clips written to `folder`.

    text: a full description. image: one moment. video: a part, cut anew. composed: a moment, and in words what
    happens in relation to it. Pictures and clips are drawn anew, for no indexed file holds them alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Query]] = {kind: [] for kind in KINDS}
    for entry in read_truth(heldout)[:n]:
        scene, target = entry.scene, Path(entry.file).name
        rng = random.Random(f"gve_ray serving/{seed}/{scene.seed}")
        moment = rng.random()
        image, clip = folder / f"{Path(target).stem}.png", folder / f"{Path(target).stem}.mp4"
        Image.fromarray(next(iter(frames(scene, [moment], scene.width, scene.height)))).save(image)
        _write_clip(clip, scene, rng)
        change = Writer().image_query(scene, moment, rng.choice(prompts.STRATEGIES))
        found["text"].append(Query(target=target, text=Writer().captions(scene)["2"]))
        found["image"].append(Query(target=target, image=image))
        found["video"].append(Query(target=target, video=clip))
        found["composed"].append(Query(target=target, text=change, image=image))
    return found


def _write_clip(path: Path, scene: Scene, rng: random.Random) -> None:
    seconds = min(scene.duration, rng.uniform(*_CLIP_SECONDS))
    start = rng.uniform(0, scene.duration - seconds)
    count = max(2, round(seconds * scene.fps))
    times = ((start + seconds * i / count) / scene.duration for i in range(count))
    pictures = frames(scene, times, scene.width, scene.height)
    encode_mp4(path, pictures, fps=scene.fps, width=scene.width, height=scene.height)


def score_serving(url: str, queries: Mapping[str, Sequence[Query]], embedder: Embedder) -> dict[str, Any]:
    """top5: by kind, the share of queries whose video is among the first five. parity: the lowest cosine between a
    query's vector over HTTP and the embedder's of the same file. Raises ServiceError."""
    client = Client(url)
    top5 = {}
    for kind, asked in queries.items():
        hits = [client.search(one.text, image=one.image, video=one.video, top_k=DEPTH) for one in asked]
        right = [
            any(Path(hit["uri"]).name == one.target for hit in found)
            for one, found in zip(asked, hits, strict=True)
        ]
        top5[kind] = sum(right) / len(right)
    every = [one for asked in queries.values() for one in asked]
    items = [
        Item(
            text=one.text,
            image=str(one.image) if one.image else None,
            video=str(one.video) if one.video else None,
        )
        for one in every
    ]
    served = np.stack([_vector(url, one) for one in every])
    cosines = (served * embedder.embed(items)).sum(axis=1)
    return {"queries": len(every), "top5": top5, "parity": float(cosines.min())}


def _vector(url: str, query: Query) -> np.ndarray:
    """By vLLM's chat form of /v1/embeddings, float32 [d]."""
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
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60, trust_env=False).raise_for_status()
    return np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)


def format_serving(summary: Mapping[str, Any]) -> str:
    """The summary as a table for people."""
    top5 = summary["top5"]
    lines = [
        f"served {summary['queries']} queries over HTTP, lowest cosine to the batch embedder {summary['parity']:.6f}",
        f"{'right video in the first five':<32}" + "".join(f"{kind:>10}" for kind in top5),
        " " * 32 + "".join(f"{share:>10.2f}" for share in top5.values()),
    ]
    return "\n".join(lines)
