"""Run the whole matrix through the strict and the sparse path: `python -m tests.media.matrix`.

Prints one line for each case that fails, then a summary as JSON: files, how many each path got
right, wrong frames, and the refusals by reason. Ends with status 1 if a case failed.
"""

import argparse
import json
import multiprocessing
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from gve_ray.media import decode
from tests.media.matrix.cases import all_cases
from tests.media.matrix.judge import Case, Verdict, examine

PATHS = ("strict", "sparse")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.media.matrix", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary and all faults here")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write the files of failed cases here")
    settings = parser.parse_args()

    started = time.monotonic()
    results: dict[str, tuple[int, dict[str, Verdict]]] = {}
    shares = [(settings, share) for share in range(settings.processes)]
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        for part in pool.imap_unordered(_run_share, shares):
            results |= part
    summary: dict[str, Any] = {
        "files": len(results),
        "mean_bytes": sum(size for size, _ in results.values()) // max(1, len(results)),
    }
    failed: dict[str, dict[str, list[str]]] = {}
    for path in PATHS:
        verdicts = {name: verdict[path] for name, (_, verdict) in results.items()}
        failed[path] = {name: verdict.faults for name, verdict in verdicts.items() if verdict.faults}
        reasons = Counter(verdict.refusal for verdict in verdicts.values() if verdict.refusal)
        summary[path] = {
            "right": len(results) - len(failed[path]),
            "failed": len(failed[path]),
            "frames": sum(verdict.frames for verdict in verdicts.values()),
            "wrong_frames": sum(verdict.wrong_frames for verdict in verdicts.values()),
            "refused": dict(reasons.most_common()),
        }
    summary["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(summary, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps({**summary, "faults": failed}, indent=2))
    return 1 if any(failed.values()) else 0


def _run_share(work: tuple[argparse.Namespace, int]) -> dict[str, tuple[int, dict[str, Verdict]]]:
    """Name of a case -> (bytes of its file, verdicts by path), for one process's share of the cases."""
    settings, share = work
    av.logging.set_level(av.logging.PANIC)
    results = {}
    for case in _share(settings, share):
        data = case.make()
        verdicts = {path: examine(case, data, decode, strict=path == "strict") for path in PATHS}
        results[case.name] = (len(data), verdicts)
        for path, verdict in verdicts.items():
            if verdict.faults:
                print(f"{case.name} ({path}): {'; '.join(verdict.faults[:2])}", flush=True)
        if settings.save and any(verdict.faults for verdict in verdicts.values()):
            settings.save.mkdir(parents=True, exist_ok=True)
            (settings.save / case.name.replace("/", "_").replace(" ", "_")).write_bytes(data)
    return results


def _share(settings: argparse.Namespace, share: int) -> Iterator[Case]:
    """Cases of one container and codec stay together, for they are made of the same films."""
    for case in all_cases():
        base = "/".join(case.name.split("/")[:2])
        if settings.only in case.name and zlib.crc32(base.encode()) % settings.processes == share:
            yield case
