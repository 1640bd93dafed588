"""Synthesis before captions, compared with Data-Juicer, NeMo Curator and a plain loop of PyAV.

    python benchmarks/peers.py [FOLDER ...] [--files 320] [--data-juicer-python PATH] [--nemo-curator-python PATH]

Renders a corpus of the demo, whose damage is known, and gives it to each program as a new process: start of
the interpreter, imports and start of Ray are part of the time. The programs are the files peers_*.py; the
two peers run in separate environments, whose Python the options name, and are left out without these.
Data-Juicer runs with and without its filter of motion, which does not end on a truncated file. A program that
takes longer than --limit, or more memory than --memory, is ended. FOLDER: also the videos of a folder.
Prints one JSON object with an entry for each input:

files: number of files. programs: for each program the seconds, the files a second, the peak of the private
memory of all its processes (MB), the ratio of its time to that of gve_ray, and the number of files that it
dropped; or the reason why it was not run. found: for each kind of damage the number of files, and how many
of them each program dropped; `intact` are those without damage. Of two copies, either may be dropped. A file
counts as dropped by gve_ray if the video or its caption is rejected.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gve_ray.demo.corpus import read_truth, write_corpus
from gve_ray.demo.plan import COPIES, Entry
from gve_ray.inputs.listing import find_videos

PROGRAMS: dict[str, tuple[str, ...]] = {  # file and arguments
    "gve_ray": ("peers_gve.py",),
    "pyav": ("peers_pyav.py",),
    "data_juicer": ("peers_data_juicer.py",),
    "data_juicer, no motion": ("peers_data_juicer.py", "no-motion"),
    "nemo_curator": ("peers_nemo_curator.py",),
}
_POLL_SECONDS = 0.25


def measure(
    python: str,
    program: Sequence[str],
    manifest: Path,
    folder: Path,
    *,
    cpus: int,
    limit: float,
    memory: float,
) -> tuple[dict[str, Any], list[str]]:
    """Run a program on a manifest. Returns its figures, and the ids that it dropped; none if it failed.

    limit, memory: seconds and GB above which it is ended.
    """
    dropped, log = folder / "dropped.json", folder / "log.txt"
    dropped.unlink(missing_ok=True)
    file, *options = program
    command = [python, str(Path(__file__).with_name(file)), str(manifest), str(dropped), str(cpus), *options]
    started, peak = time.monotonic(), 0
    with log.open("w") as out:
        try:
            process = psutil.Popen(command, stdout=out, stderr=out, start_new_session=True)
        except OSError as error:  # no such file
            return {"failed": str(error)}, []
        while process.poll() is None:
            peak = max(peak, private_bytes(process))
            if peak > memory * 1e9 or time.monotonic() - started > limit:
                end(process)
                reason = (
                    f"more than {memory:g} GB" if peak > memory * 1e9 else f"not finished after {limit:g} s"
                )
                return {"failed": reason}, []
            time.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode or not dropped.exists():
        last = (log.read_text(errors="replace").strip() or "no output").splitlines()[-1]
        return {"failed": f"exit status {process.returncode}: {last[-300:]}"}, []
    return {"seconds": round(seconds, 1), "peak_mb": round(peak / 1e6)}, json.loads(dropped.read_text())


def end(process: psutil.Process) -> None:
    """Kill a process and all its descendants."""
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            member.kill()


def private_bytes(process: psutil.Process) -> int:
    """Return the memory of a process and its descendants without pages that are shared."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            memory = member.memory_info()
        except psutil.Error:  # it has ended
            continue
        total += memory.rss - memory.shared
    return total


def found(entries: Sequence[Entry], dropped: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return by kind of damage the number of files, and how many each program dropped. dropped: ids by program."""
    originals = {entry.duplicate_of for entry in entries if entry.kind in COPIES}
    kinds: defaultdict[str, dict[str, int]] = defaultdict(lambda: {"files": 0} | dict.fromkeys(dropped, 0))
    for entry in entries:
        kind = kind_of(entry)
        if kind == "intact" and entry.video_id in originals:
            continue
        either = {entry.video_id, entry.duplicate_of}
        kinds[kind]["files"] += 1
        for program, ids in dropped.items():
            kinds[kind][program] += not either.isdisjoint(ids)
    return dict(sorted(kinds.items()))


def kind_of(entry: Entry) -> str:
    """Return the damage of a file: that of the video, else "junk_caption" for its caption, else "intact"."""
    if entry.broken or entry.kind == "static" or entry.kind in COPIES:
        return entry.kind
    return "junk_caption" if entry.caption_kind == "junk" else "intact"


def compare(
    manifest: Path, files: int, pythons: Mapping[str, str | None], *, cpus: int, limit: float, memory: float
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Run all programs on a manifest. Returns their figures, and what each dropped."""
    figures: dict[str, Any] = {}
    dropped: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, program in PROGRAMS.items():
            package = name.partition(",")[0]
            python = pythons[package]
            if python is None:
                figures[name] = {"not_run": f"no Python given: --{package.replace('_', '-')}-python"}
                continue
            figures[name], ids = measure(
                python, program, manifest, Path(folder), cpus=cpus, limit=limit, memory=memory
            )
            if "failed" not in figures[name]:
                dropped[name] = ids
    ours = figures["gve_ray"].get("seconds")
    for name in dropped:
        seconds = figures[name]["seconds"]
        figures[name] |= {"files_per_s": round(files / seconds, 1), "dropped": len(dropped[name])}
        if ours:
            figures[name]["times_gve_ray"] = round(seconds / ours, 2)
    return figures, dropped


def manifest_of(folder: Path, path: Path) -> int:
    """Write a manifest with the videos of a folder and absolute paths. Returns their number."""
    uris = find_videos(str(folder))
    rows = [{"video_id": f"{i:05d}", "uri": uri, "caption": None} for i, uri in enumerate(uris)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="folders of other videos")
    parser.add_argument("--files", type=int, default=320, help="size of the corpus (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the corpus (default: %(default)s)")
    parser.add_argument("--cpus", type=int, default=len(os.sched_getaffinity(0)), help="for each program")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each program")
    parser.add_argument("--memory", type=float, default=8, help="GB for each program (default: %(default)s)")
    parser.add_argument("--data-juicer-python", metavar="PATH")
    parser.add_argument("--nemo-curator-python", metavar="PATH")
    args = parser.parse_args()
    pythons = {
        "gve_ray": sys.executable,
        "pyav": sys.executable,
        "data_juicer": args.data_juicer_python,
        "nemo_curator": args.nemo_curator_python,
    }
    report: dict[str, Any] = {"cpus": args.cpus}
    with tempfile.TemporaryDirectory() as name:
        raw, manifest = Path(name, "corpus"), Path(name, "manifest.jsonl")
        write_corpus(raw, n=args.files, seed=args.seed, workers=args.cpus)
        entries = read_truth(raw)
        rows = [{"video_id": e.video_id, "uri": str(raw / e.file), "caption": e.caption} for e in entries]
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        figures, dropped = compare(
            manifest, len(rows), pythons, cpus=args.cpus, limit=args.limit, memory=args.memory
        )
        report["corpus"] = {"files": len(rows), "programs": figures, "found": found(entries, dropped)}
        for folder in args.folders:
            files = manifest_of(folder, manifest)
            figures, _ = compare(
                manifest, files, pythons, cpus=args.cpus, limit=args.limit, memory=args.memory
            )
            report[folder.name] = {"files": files, "programs": figures}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
