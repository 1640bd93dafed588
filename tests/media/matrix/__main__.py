"""Run the whole matrix through the strict and the sparse path: `python -m tests.media.matrix`.

Prints one line for each fault, then a summary: files, how many each path read rightly, wrong frames, and the
refusals by reason. Ends with status 1 if there was a fault.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import av

from gve_ray.media import decode
from tests.media.matrix.cases import all_cases
from tests.media.matrix.judge import examine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.media.matrix", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary and all faults here")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write each file whose case fails here")
    arguments = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)

    started = time.monotonic()
    files = size = frames = 0
    passed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    refusals: dict[str, Counter[str]] = {"strict": Counter(), "sparse": Counter()}
    faults: dict[str, dict[str, list[str]]] = {}
    for case in all_cases():
        if arguments.only not in case.name:
            continue
        data = case.make()
        files, size = files + 1, size + len(data)
        for path in ("strict", "sparse"):
            verdict = examine(case, data, decode, strict=path == "strict")
            frames += verdict.frames
            wrong[path] += verdict.wrong_frames
            if verdict.refusal:
                refusals[path][verdict.refusal] += 1
            if not verdict.faults:
                passed[path] += 1
                continue
            faults.setdefault(case.name, {})[path] = verdict.faults
            print(f"{case.name} ({path}): {'; '.join(verdict.faults[:3])}", flush=True)
            if arguments.save:
                arguments.save.mkdir(parents=True, exist_ok=True)
                (arguments.save / case.name.replace("/", "_").replace(" ", "_")).write_bytes(data)
    summary = {
        "files": files,
        "mean_bytes": size // max(1, files),
        "strict_ok": passed["strict"],
        "sparse_ok": passed["sparse"],
        "frames_checked": frames,
        "wrong_frames": {path: wrong[path] for path in refusals},
        "refusals": {path: dict(counts.most_common()) for path, counts in refusals.items()},
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(summary, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps({**summary, "faults": faults}, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
