"""A plain loop over videos with PyAV, which benchmarks/peers.py runs: decodes all frames, and checks nothing.

    python benchmarks/peers_pyav.py manifest.jsonl dropped.json CPUS

Writes the ids of files that PyAV refuses. Uses no other package.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import av


def is_refused(uri: str) -> bool:
    """Decode all frames of a file, and return whether PyAV raises an error."""
    try:
        with av.open(uri) as container:
            for _ in container.decode(video=0):
                pass
    except (av.error.FFmpegError, IndexError):  # IndexError: no video stream
        return True
    return False


def main(manifest: str, dropped: str, cpus: str) -> None:
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    with multiprocessing.get_context("spawn").Pool(int(cpus)) as pool:
        refused = pool.map(is_refused, [row["uri"] for row in rows], chunksize=4)
    names = [row["video_id"] for row, is_bad in zip(rows, refused, strict=True) if is_bad]
    Path(dropped).write_text(json.dumps(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
