"""Compare the HTTP service with direct calls of the embedder: throughput and latency.

    python benchmarks/serving.py [--seconds 10] [--videos 24] [--batch 64] [--cases text repeated]

    direct      Embedder.encode in a loop, in a separate process with as many threads as a replica
    http        POST /v1/embeddings of `gve serve`, with one gateway replica and one model replica

`text` and `video` send one text or one clip (as a data: URL) per call, and `repeated` sends one of a few
texts. In the other cases no text occurs twice. `batch` sends --batch texts per call, which saturates the
service; `saturation` is its best rate relative to the direct one. Direct calls have no concurrency;
`p99_over_direct` compares with as many callers that take turns. Rounds of direct and http are
interleaved; while one is measured, the other is idle. Clips are held-out videos of the demo, decoded by
the same reader in both cases. `cpu_ms` is the processor time of each process per item, which depends
less on other work on the machine than rates do. Prints one JSON object.
"""

import argparse
import base64
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from gve_ray.config import ModelConfig, resolve_model
from gve_ray.demo.retrieval import write_heldout
from gve_ray.serving.config import GatewayConfig, ReplicasConfig, ServeConfig, ServedModel

MODEL, ADAPTER = "package://demo/tiny_vl/model", "package://demo/tiny_vl/adapter"
NAMES = ("retriever", "gateway", "ProxyActor", "ServeController")
CASES = ("text", "repeated", "batch", "video")
WARM_UP = 10  # calls
Round = tuple[float, list[float], dict[str, float]]  # seconds, seconds of each call, CPU seconds by process


def direct(pipe: Any, texts: list[str], videos: list[str]) -> None:
    """Embed for the `seconds` of each request from the pipe, and send back a `Round`."""
    import torch

    from gve_ray.embedder import Embedder
    from gve_ray.schema import Item

    torch.set_num_threads(1)
    embedder = Embedder.from_pretrained(resolve_model(MODEL), resolve_model(ADAPTER))
    pipe.send("ready")
    for kind, size, seconds in iter(pipe.recv, None):
        spent: list[float] = []
        begun, cpu, at = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - begun < seconds:
            chosen = range(at, at + size)
            items = [
                Item(video=videos[i % len(videos)]) if kind == "video" else Item(text=new_text(texts, i))
                for i in chosen
            ]
            start = time.perf_counter()
            embedder.encode(items)
            spent.append(time.perf_counter() - start)
            at += size
        pipe.send((time.perf_counter() - begun, spent, {"embedder": time.process_time() - cpu}))


def new_text(texts: list[str], at: int) -> str:
    """Return a text like those of the list that occurs once."""
    return f"{texts[at % len(texts)]} {at}"


def cpu_seconds(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """Return the processor time of processes so far, by process id."""
    seconds = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process.pid] = times.user + times.system
    return seconds


def names_of(processes: Sequence[psutil.Process]) -> dict[int, str]:
    """Return what processes do, by process id. This process runs the clients."""
    names = {}
    for process in processes:
        with contextlib.suppress(psutil.Error, IndexError):
            command = process.cmdline()[0]  # Ray adds the method that runs at the moment
            known = [name for name in NAMES if name in command]
            names[process.pid] = "clients" if process.pid == os.getpid() else (*known, "others")[0]
    return names


def over_http(
    url: str, body: Callable[[int], dict[str, Any]], concurrency: int, seconds: float, first: int
) -> Round:
    """Run concurrent clients that send requests back to back, from the body number `first` on."""
    spent: list[float] = []
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    before, names = cpu_seconds(processes), names_of(processes)
    begun = time.perf_counter()

    def ask(at: int) -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            while time.perf_counter() - begun < seconds:
                start = time.perf_counter()
                client.post("/v1/embeddings", json=body(at)).raise_for_status()
                spent.append(time.perf_counter() - start)
                at += concurrency

    threads = [threading.Thread(target=ask, args=(first + i,)) for i in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - begun
    used: defaultdict[str, float] = defaultdict(float)
    for process, seconds_so_far in cpu_seconds(processes).items():
        used[names.get(process, "others")] += seconds_so_far - before.get(process, 0.0)
    return total, spent, dict(used)


def in_turn(spent: list[float], callers: int) -> np.ndarray:
    """Return the seconds of each call if so many callers took turns, given those of calls in a row."""
    return np.convolve(spent, np.ones(min(callers, len(spent))), mode="valid")


def figures(size: int, rounds: list[Round]) -> dict[str, Any]:
    """Return items per second (median over rounds), and latencies and processor time in ms over all calls."""
    rates = [size * len(spent) / seconds for seconds, spent, _ in rounds]
    every = np.array([seconds for _, spent, _ in rounds for seconds in spent]) * 1e3
    low, high, top = np.percentile(every, [50, 95, 99])
    cpu: Counter[str] = Counter()
    for _, _, used in rounds:
        cpu.update(used)
    cpu_ms = {name: round(1e3 * used / (size * len(every)), 2) for name, used in cpu.most_common()}
    return {
        "items_per_second": round(statistics.median(rates), 1),
        "calls": len(every),
        "p50_ms": round(float(low), 1),
        "p95_ms": round(float(high), 1),
        "p99_ms": round(float(top), 1),
        "cpu_ms": {"all": round(sum(cpu_ms.values()), 2), **cpu_ms},
    }


@contextmanager
def service() -> Iterator[str]:
    """Context manager for the service with the model; yields its URL."""
    from gve_ray.cli import connect
    from gve_ray.serving.front import install
    from gve_ray.serving.needs import resolve
    from gve_ray.serving.run import running

    model = ServedModel(
        name="demo",
        model=ModelConfig(name="tiny", model=MODEL, adapter=ADAPTER),
        replicas=ReplicasConfig(num_cpus=1),
    )
    gateway = GatewayConfig(replicas=ReplicasConfig(num_cpus=0.5))
    config = resolve(ServeConfig(models=[model], gateway=gateway, port=0))
    install(config)
    connect()
    with running(config) as url:
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
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
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
        with service() as url:
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
        return {"input": new_text(texts, at), "encoding_format": "base64"}

    def repeated(at: int) -> dict[str, Any]:
        return {"input": texts[at % WARM_UP], "encoding_format": "base64"}

    def batch(at: int) -> dict[str, Any]:
        chosen = [new_text(texts, at * args.batch + i) for i in range(args.batch)]
        return {"input": chosen, "encoding_format": "base64"}

    cases = {
        "text": (text, "text", 1),
        "repeated": (repeated, "text", 1),
        "batch": (batch, "text", args.batch),
        "video": (clip, "video", 1),
    }
    results: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "batch_texts": args.batch}
    numbers = itertools.count(1_000_000, 1_000_000)  # of the first bodies, so that no text occurs twice
    for name in args.cases:
        body, kind, size = cases[name]
        seconds = args.seconds / args.rounds
        for at in range(WARM_UP):
            httpx.post(f"{url}/v1/embeddings", json=body(at), timeout=120, trust_env=False).raise_for_status()
        here.send((kind, size, seconds))
        here.recv()
        rounds: dict[Any, list[Round]] = {"direct": [], **{c: [] for c in args.clients}}
        for _ in range(args.rounds):
            here.send((kind, size, seconds))
            rounds["direct"].append(here.recv())
            for concurrency in args.clients:
                rounds[concurrency].append(over_http(url, body, concurrency, seconds, next(numbers)))
        measured = {str(key): figures(size, value) for key, value in rounds.items()}
        base = measured["direct"]["items_per_second"]
        for key in map(str, args.clients):
            measured[key]["over_direct"] = round(measured[key]["items_per_second"] / base, 3)
            turns = np.concatenate([in_turn(spent, int(key)) for _, spent, _ in rounds["direct"]]) * 1e3
            measured[key]["p99_over_direct"] = round(measured[key]["p99_ms"] / np.percentile(turns, 99), 3)
        results[name] = measured
    if "batch" in results:
        results["saturation"] = max(results["batch"][str(c)]["over_direct"] for c in args.clients)
    return results


if __name__ == "__main__":
    main()
