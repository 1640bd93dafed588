"""Measure what one hostile client costs the others: their time, and the memory of the service.

    python -m tests.chaos.service python -m tests.chaos.hostile {url} {pid}

1. Short searches, one after the other, first alone, then while another client always has a request with 32 texts of
   25,000 characters in flight.
2. 16 uploads of 60 MB at once, then 16 JSON bodies of 60 MB: the private memory of gateway and proxy before, at most
   meanwhile, and 30 s afterwards.

Prints a JSON object.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import psutil

from tests.chaos.soak import service_processes

SHORT_SECONDS, REST_SECONDS = 45.0, 30.0
LARGE_BODIES, LARGE_BYTES = 16, 60_000_000
TEXTS = [f"{i} " + "many words about a red ball " * 900 for i in range(32)]  # of 25,000 characters
WORDS = ("red", "blue", "green", "small", "large", "round", "moving", "still", "bright", "dark")


def short_searches(url: str, seconds: float, seed: int) -> dict[str, Any]:
    """Search for two words again and again; no query occurs twice, so that no vector is kept."""
    took, statuses, rng = [], Counter[int](), random.Random(seed)
    end = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        while time.monotonic() < end:
            begun = time.monotonic()
            answer = client.post(
                "/v1/search", json={"content": f"{rng.choice(WORDS)} {rng.randrange(10**6)}"}
            )
            took.append(time.monotonic() - begun)
            statuses[answer.status_code] += 1
    shown = {f"p{p}_s": round(float(np.percentile(took, p)), 3) for p in (50, 99)}
    return {"searches": len(took), "statuses": dict(statuses), **shown, "max_s": round(max(took), 3)}


def beside_a_large_client(url: str) -> dict[str, Any]:
    stop, large = threading.Event(), Counter[str]()

    def send() -> None:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            while not stop.is_set():
                large[
                    str(
                        client.post(
                            "/v1/embeddings", json={"input": TEXTS, "truncate_prompt_tokens": -1}
                        ).status_code
                    )
                ] += 1

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(2)
    result = short_searches(url, SHORT_SECONDS, seed=2)
    stop.set()
    thread.join()
    return {**result, "large_requests": dict(large)}


def memory(driver: psutil.Process) -> dict[str, float]:
    """Return the private memory of gateway and proxy in MB. It does not count Ray's object store."""
    processes = service_processes(driver)
    return {
        name: round(sum(process.memory_full_info().uss for process in processes[name]) / 1e6)
        for name in ("gateway", "proxy")
    }


def large_bodies(
    url: str, driver: psutil.Process, send: Callable[[httpx.Client], httpx.Response]
) -> dict[str, Any]:
    """Send bodies at once, and return the memory before, at most, and afterwards."""

    def request(_: int) -> str:
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            try:
                return str(send(client).status_code)
            except httpx.HTTPError as error:
                return type(error).__name__

    before, most, done = memory(driver), Counter[str](), threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            with suppress(psutil.Error):
                for name, used in memory(driver).items():
                    most[name] = max(most[name], int(used))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(LARGE_BODIES) as pool:
        statuses = Counter(pool.map(request, range(LARGE_BODIES)))
    time.sleep(REST_SECONDS)
    done.set()
    watcher.join()
    return {
        "statuses": dict(statuses),
        "mb_before": before,
        "mb_most": dict(most),
        "mb_after": memory(driver),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("pid", type=int, help="of gve serve")
    args = parser.parse_args()
    driver = psutil.Process(args.pid)
    upload = bytes(LARGE_BYTES)
    body = json.dumps({"content": "a" * LARGE_BYTES}).encode()
    json_type = {"Content-Type": "application/json"}
    short_searches(args.url, 5, seed=0)
    result = {
        "short_searches_alone": short_searches(args.url, SHORT_SECONDS / 3, seed=1),
        "short_searches_beside_a_large_client": beside_a_large_client(args.url),
        "large_uploads": large_bodies(
            args.url, driver, lambda client: client.post("/v1/search", files={"video": ("a.mp4", upload)})
        ),
        "large_json": large_bodies(
            args.url, driver, lambda client: client.post("/v1/search", content=body, headers=json_type)
        ),
    }
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
