"""Load a service with mixed requests while its index changes, and watch the memory of its processes.

    python -m tests.chaos.soak [--minutes 30] [--kills gateway,retriever,proxy,controller] [--folder DIR]

`gve serve` runs on an index of rendered videos. Four clients send texts, images, clips, lists of texts to embed,
requests that must be refused, and requests that they break off. Every minute `gve index` adds a video or
removes it again. Whenever a search answers, the hits among the first videos must be those of the first answer to
the same query, with the same scores, until the end. The memory of each process is its private memory (USS), without
Ray's object store, which all share.

kills: one of these processes, in turns, is killed every 30 seconds. A request may then fail, but not be answered
wrongly, and within 30 seconds one must succeed.

Prints a JSON object: the answers by kind and status; wrong answers; for each process the MB of memory after a fifth of
the time and at the end, and the growth in percent; for each kill the seconds until the service answered again.
FOLDER/memory.png shows the memory over time. The exit status is 1 if an answer was wrong, if the service was away for
longer, or if the memory of a process has grown by more than 5 percent without a kill.
"""

import argparse
import base64
import io
import itertools
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import psutil
from PIL import Image

from gve_ray.demo.retrieval import Benchmark
from gve_ray.report import new_figure, png
from tests.chaos.service import REPOSITORY, VIDEOS, Service, running_service

CLIENTS = 4
SAMPLE_SECONDS, UPDATE_SECONDS, KILL_SECONDS = 5.0, 60.0, 30.0
BACK_SECONDS = 30.0
WARM_UP = 0.2  # of the time
MOST_GROWTH = 5.0  # percent
PROCESSES = {
    "gateway": ":gateway",
    "retriever": ":retriever",
    "proxy": "ProxyActor",
    "controller": "ServeController",
    "decoders": "gve_ray.media.child",
    "gcs_server": "/gcs_server",
    "raylet": "/raylet/raylet",
}
Hits = list[tuple[str, float, float]]  # video, start in seconds, score


@dataclass
class Record:
    """What has happened so far. Thread-safe, because lists and counters are only added to."""

    answers: Counter[str] = field(default_factory=Counter)  # by kind and status
    wrong: list[str] = field(default_factory=list)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)  # seconds, MB
    kills: list[dict[str, Any]] = field(default_factory=list)
    updates: int = 0
    last_success: float = 0.0  # by the monotonic clock


class Load:
    """Requests to a service, and the answers that its searches must give."""

    def __init__(self, url: str, heldout: Benchmark, record: Record) -> None:
        self._url, self._record = url, record
        self._clip = Path(heldout.videos[0]).read_bytes()
        self._own = {Path(video).name for video in heldout.videos}
        texts = [query.text for query in heldout.queries["coarse"]][:6]
        self._searches: dict[str, Mapping[str, Any]] = {
            **{f"text {i}": {"json": {"content": text, "top_k": 20}} for i, text in enumerate(texts)},
            "clip": {"files": {"video": ("clip.mp4", self._clip)}, "data": {"top_k": "20"}},
            "image": {"files": {"image": ("a.jpg", _picture())}, "data": {"top_k": "20"}},
        }
        with httpx.Client(timeout=90, trust_env=False) as client:
            self._expected = {
                name: self._hits(self._post(client, request)) for name, request in self._searches.items()
            }

    def run(self, seed: int, stop: threading.Event) -> None:
        """Send requests until `stop`."""
        rng = random.Random(seed)
        kinds: list[tuple[Callable[[httpx.Client, random.Random], None], int]] = [
            (self._search, 12),
            (self._embed, 2),
            (self._refused, 2),
            (self._broken_off, 1),
        ]
        with httpx.Client(timeout=90, trust_env=False) as client:
            while not stop.is_set():
                send = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
                try:
                    send(client, rng)
                except httpx.HTTPError as error:
                    self._record.answers[f"{send.__name__[1:]} {type(error).__name__}"] += 1
                    time.sleep(0.2)

    def _search(self, client: httpx.Client, rng: random.Random) -> None:
        name = rng.choice(sorted(self._searches))
        answer = self._post(client, self._searches[name])
        self._record.answers[f"{name.split()[0]} {answer.status_code}"] += 1
        if answer.is_success:
            self._record.last_success = time.monotonic()
            self._compare(name, answer)

    def _compare(self, name: str, answer: httpx.Response) -> None:
        found = [hit for hit in self._hits(answer) if hit[0] in self._own]
        expected = self._expected[name][: len(found)]
        same = len(found) >= VIDEOS // 2 and all(
            a[:2] == b[:2] and abs(a[2] - b[2]) < 1e-4 for a, b in zip(found, expected, strict=True)
        )
        if not same:
            self._record.wrong.append(f"{name}: {found[:3]}, not {expected[:3]}")

    def _embed(self, client: httpx.Client, rng: random.Random) -> None:
        body = {"input": [f"a ball number {rng.randrange(10_000)}" for _ in range(rng.randrange(1, 9))]}
        answer = client.post(f"{self._url}/v1/embeddings", json=body)
        self._record.answers[f"embed {answer.status_code}"] += 1
        if answer.is_success and len(answer.json()["data"]) != len(body["input"]):
            self._record.wrong.append("embed: another number of vectors")

    def _refused(self, client: httpx.Client, rng: random.Random) -> None:
        name, request = rng.choice(
            [
                ("no JSON", {"content": b"{", "headers": {"Content-Type": "application/json"}}),
                ("wrong type", {"json": {"content": 7}}),
                ("other model", {"json": {"content": "a ball", "model": "none"}}),
                ("half a clip", {"files": {"video": ("a.mp4", self._clip[: len(self._clip) // 2])}}),
                ("no clip", {"files": {"video": ("a.mp4", b"hello " * 50)}}),
            ]
        )
        answer = self._post(client, request)
        self._record.answers[f"refused {answer.status_code}"] += 1
        if answer.is_success:
            self._record.wrong.append(f"{name}: accepted")

    def _broken_off(self, client: httpx.Client, rng: random.Random) -> None:
        """Send a whole request, or half of one, and leave without waiting for the answer."""
        address = urlsplit(self._url)
        clip = base64.b64encode(self._clip).decode()
        part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{clip}"}}
        body = json.dumps({"content": [part]}).encode()
        head = f"POST /v1/search HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            with socket.create_connection(
                (address.hostname or "", address.port or 80), timeout=30
            ) as connection:
                connection.sendall(request[: rng.choice((len(request), len(request) // 2))])
                time.sleep(rng.random())
        except OSError:
            time.sleep(0.2)
        self._record.answers["broken off"] += 1

    def check(self) -> None:
        """Compare the answers once more, with no other load."""
        with httpx.Client(timeout=90, trust_env=False) as client:
            for name, request in self._searches.items():
                self._compare(name, self._post(client, request))

    def _post(self, client: httpx.Client, request: Mapping[str, Any]) -> httpx.Response:
        return client.post(f"{self._url}/v1/search", **request)

    @staticmethod
    def _hits(answer: httpx.Response) -> Hits:
        return [(Path(hit["uri"]).name, hit["start"], hit["score"]) for hit in answer.json()["data"]]


def _picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def service_processes(driver: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the processes of the service and of Ray's head by name. driver: of `gve serve`."""
    matches = {"gve serve": [driver]}
    for process in driver.children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        for name, mark in PROCESSES.items():
            if mark in command:
                matches.setdefault(name, []).append(process)
                break
    return matches


def watch(driver: psutil.Process, record: Record, begun: float, stop: threading.Event) -> None:
    """Take samples of the memory until `stop`."""
    while not stop.wait(SAMPLE_SECONDS):
        for name, processes in service_processes(driver).items():
            try:
                used = sum(process.memory_full_info().uss for process in processes) / 1e6
            except psutil.Error:  # one of them has ended
                continue
            record.memory.setdefault(name, []).append((time.monotonic() - begun, used))


def update(service: Service, record: Record, stop: threading.Event) -> None:
    """Add a video to the index and remove it again, in turns; the last update removes it."""
    while not stop.wait(UPDATE_SECONDS) or record.updates % 2:
        problem = service.toggle_video()
        record.updates += 1
        if problem is not None:
            record.wrong.append(f"gve index: {problem}")


def kill(driver: psutil.Process, names: Sequence[str], record: Record, stop: threading.Event) -> None:
    """Kill one process after the other, and measure how long no request succeeds."""
    for name in itertools.cycle(names):
        if stop.wait(KILL_SECONDS):
            return
        if not (processes := service_processes(driver).get(name)):
            record.wrong.append(f"no {name} to kill")
            continue
        processes[0].kill()
        killed = time.monotonic()
        # A reply within half a second may still be that of a request from before the kill.
        while record.last_success < killed + 0.5 and time.monotonic() < killed + 3 * BACK_SECONDS:
            time.sleep(0.1)
        record.kills.append({"process": name, "back_s": round(time.monotonic() - killed, 1)})


def growth(samples: Sequence[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Compare the memory in the first and the last tenth of the time after the warm-up (medians), in MB and percent."""
    times, used = np.array(samples).T
    tenth = (1 - WARM_UP) * seconds / 10
    first = used[(times >= WARM_UP * seconds) & (times < WARM_UP * seconds + tenth)]
    last = used[times >= seconds - tenth]
    if not (len(first) and len(last)):
        return {}
    before, after = float(np.median(first)), float(np.median(last))
    return {
        "mb": round(before, 1),
        "mb_at_end": round(after, 1),
        "percent": round(100 * (after / before - 1), 1),
    }


def plot(memory: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    for name, samples in memory.items():
        axes.plot([seconds / 60 for seconds, _ in samples], [used for _, used in samples], label=name)
    axes.set_xlabel("minutes")
    axes.set_ylabel("PSS, MB")
    axes.set_ylim(bottom=0)
    axes.legend()
    return png(figure)


def soak(folder: Path, seconds: float, kills: Sequence[str]) -> dict[str, Any]:
    record, stop = Record(), threading.Event()
    with running_service(folder) as service:
        load, begun = Load(service.url, service.videos, record), time.monotonic()
        threads = [threading.Thread(target=load.run, args=(seed, stop)) for seed in range(CLIENTS)]
        threads += [
            threading.Thread(target=watch, args=(service.driver, record, begun, stop)),
            threading.Thread(target=update, args=(service, record, stop)),
            threading.Thread(target=kill, args=(service.driver, kills, record, stop)),
        ]
        for thread in threads:
            thread.start()
        stop.wait(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        load.check()
        tracebacks = service.tracebacks()
    (folder / "memory.json").write_text(json.dumps(record.memory))
    (folder / "memory.png").write_bytes(plot(record.memory))
    return {
        "minutes": seconds / 60,
        "answers": dict(sorted(record.answers.items())),
        "updates": record.updates,
        "wrong": len(record.wrong),
        "wrong_first": record.wrong[:5],
        "memory": {name: growth(samples, seconds) for name, samples in record.memory.items()},
        "kills": record.kills,
        "tracebacks": tracebacks,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kills", default="", help=f"of {', '.join(PROCESSES)}, with commas between them")
    parser.add_argument("--folder", type=Path, help="folder to keep; by default a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gve-soak-") as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        result = soak(folder, args.minutes * 60, [name for name in args.kills.split(",") if name])
    print(json.dumps(result, indent=1))
    has_grown = not args.kills and any(
        row.get("percent", 0) > MOST_GROWTH for row in result["memory"].values()
    )
    was_away = any(row["back_s"] > BACK_SECONDS for row in result["kills"])
    return 1 if result["wrong"] or has_grown or was_away else 0


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    sys.exit(main())
