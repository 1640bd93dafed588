"""Compare the HTTP service with direct calls of the embedder: throughput and latency.

    python benchmarks/serving.py [--seconds 10] [--videos 24] [--batch 64]

    direct      Embedder.encode in a loop, in a separate process with as many threads as a replica
    http        POST /v1/embeddings of `gve serve`, with one gateway replica and one model replica

`text` and `video` send one text or one clip (as a data: URL) per call. `batch` sends --batch texts
per call, which saturates the service; `saturation` is its best rate relative to the direct one.
Direct calls have no concurrency. Rounds of direct and http are interleaved; while one is measured,
the other is idle. Clips are held-out videos of the demo, decoded by the same reader in both cases.
Prints one JSON object.
"""

import argparse
import base64
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from gve_ray.config import ModelConfig, StageResources, resolve_model
from gve_ray.demo.retrieval import write_heldout
from gve_ray.indexing.config import IndexConfig, IndexResources, SegmentsConfig
from gve_ray.serving.config import GatewayConfig, ReplicasConfig, ServeConfig, ServedModel

MODEL, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"
CONCURRENCY = (1, 8, 32)
ROUNDS = 3
WARM_UP = 10  # calls


def direct(pipe: Any, texts: list[str], videos: list[str]) -> None:
    """Embed for the `seconds` of each request from the pipe, and send back the seconds of each
    call.
    """
    import torch

    from gve_ray.embedder import Embedder
    from gve_ray.schema import Item

    torch.set_num_threads(1)
    embedder = Embedder.from_pretrained(resolve_model(MODEL), resolve_model(ADAPTER))
    pipe.send("ready")
    for kind, size, seconds in iter(pipe.recv, None):
        items = (
            [Item(video=path) for path in videos] if kind == "video" else [Item(text=text) for text in texts]
        )
        spent: list[float] = []
        begun, at = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            embedder.encode([items[(at + i) % len(items)] for i in range(size)])
            spent.append(time.perf_counter() - start)
            at += size
        pipe.send((time.perf_counter() - begun, spent))


def over_http(
    url: str, body: Callable[[int], dict[str, Any]], concurrency: int, seconds: float
) -> tuple[float, list[float]]:
    """Run concurrent clients that send requests back to back; return the seconds in total and of
    each call.
    """
    spent: list[float] = []
    begun = time.perf_counter()

    def ask(first: int) -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            at = first
            while time.perf_counter() - begun < seconds:
                start = time.perf_counter()
                client.post("/v1/embeddings", json=body(at)).raise_for_status()
                spent.append(time.perf_counter() - start)
                at += concurrency

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, spent


def figures(size: int, rounds: list[tuple[float, list[float]]]) -> dict[str, float]:
    """Return items per second (median over rounds) and latencies in ms over all calls."""
    rates = [size * len(spent) / seconds for seconds, spent in rounds]
    every = np.array([seconds for _, spent in rounds for seconds in spent]) * 1e3
    low, high, top = np.percentile(every, [50, 95, 99])
    return {
        "items_per_second": round(statistics.median(rates), 1),
        "calls": len(every),
        "p50_ms": round(float(low), 1),
        "p95_ms": round(float(high), 1),
        "p99_ms": round(float(top), 1),
    }


@contextmanager
def service(folder: Path, manifest: Path) -> Iterator[str]:
    """Context manager for the service with an index of the videos; yields its URL."""
    from gve_ray.cli import connect
    from gve_ray.indexing.run import index
    from gve_ray.serving.needs import resolve
    from gve_ray.serving.run import running

    small = StageResources(num_cpus=0.5)
    index(
        IndexConfig(
            input=str(manifest), output=str(folder / "index"), max_pixels=12544, min_pixels=3136,
            model=ModelConfig(name="tiny", model=MODEL, adapter=ADAPTER), segments=SegmentsConfig(mode="whole"),
            resources=IndexResources(probe=small, embed=small),
        ),
        connect=connect,
    )  # fmt: skip
    model = ServedModel(name="demo", index=str(folder / "index"), replicas=ReplicasConfig(num_cpus=1))
    gateway = GatewayConfig(replicas=ReplicasConfig(num_cpus=0.5))
    with running(resolve(ServeConfig(models=[model], gateway=gateway, port=0))) as url:
        yield url


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds of each measurement, over all its rounds"
    )
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--batch", type=int, default=64, help="texts per call in the batch measurement")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        heldout = write_heldout(folder / "videos", n=args.videos, seed=5, workers=1)
        texts = [str(item.text) for item in heldout.queries["fine"]]
        here, there = multiprocessing.get_context("spawn").Pipe()
        other = multiprocessing.get_context("spawn").Process(
            target=direct, args=(there, texts, heldout.videos), daemon=True
        )
        other.start()
        here.recv()
        with service(folder, folder / "videos" / "manifest.jsonl") as url:
            print(json.dumps(measure(url, here, args, texts, heldout.videos), indent=2))
        here.send(None)
        other.join()


def measure(
    url: str, here: Any, args: argparse.Namespace, texts: list[str], videos: list[str]
) -> dict[str, Any]:
    """Return the measurements that are printed."""
    clips = [f"data:video/mp4;base64,{base64.b64encode(Path(path).read_bytes()).decode()}" for path in videos]

    def clip(at: int) -> dict[str, Any]:
        part = {"type": "video_url", "video_url": {"url": clips[at % len(clips)]}}
        return {"messages": [{"role": "user", "content": [part]}], "encoding_format": "base64"}

    def text(at: int) -> dict[str, Any]:
        return {"input": texts[at % len(texts)], "encoding_format": "base64"}

    def batch(at: int) -> dict[str, Any]:
        chosen = [texts[(at * args.batch + i) % len(texts)] for i in range(args.batch)]
        return {"input": chosen, "encoding_format": "base64"}

    cases = {"text": (text, "text", 1), "batch": (batch, "text", args.batch), "video": (clip, "video", 1)}
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "batch": args.batch}
    for name, (body, kind, size) in cases.items():
        seconds = args.seconds / ROUNDS
        for at in range(WARM_UP):
            httpx.post(f"{url}/v1/embeddings", json=body(at), timeout=120, trust_env=False).raise_for_status()
        here.send((kind, size, seconds))
        here.recv()
        rounds: dict[Any, list[tuple[float, list[float]]]] = {"direct": [], **{c: [] for c in CONCURRENCY}}
        for _ in range(ROUNDS):
            here.send((kind, size, seconds))
            rounds["direct"].append(here.recv())
            for concurrency in CONCURRENCY:
                rounds[concurrency].append(over_http(url, body, concurrency, seconds))
        measured = {str(key): figures(size, value) for key, value in rounds.items()}
        base = measured["direct"]["items_per_second"]
        for key in map(str, CONCURRENCY):
            measured[key]["over_direct"] = round(measured[key]["items_per_second"] / base, 3)
        results[name] = measured
    results["saturation"] = max(results["batch"][str(c)]["over_direct"] for c in CONCURRENCY)
    return results


if __name__ == "__main__":
    main()
