"""Workers that stand in for decoder and captioner, so that a whole synthesis job runs in seconds; a driver to kill.

python stream_workers.py FOLDER OUTPUT PAUSE [--option VALUE ...]     runs the job on the cluster of RAY_ADDRESS

A video's id says what it is: `v017` a video of its own, `c017` an exact copy of `v017`, `x017` a broken
file, `q017` a video for which the captioner has no valid answer. With `--shots.longer_than`, the videos are
files, which the real decoder reads.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gve_ray.config import load_config
from gve_ray.media import encode_jpeg
from gve_ray.media.signature import FRAME_BYTES
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA, AssetRef
from gve_ray.stage import REJECT_SCHEMA, Reject
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis.config import MediaConfig, SynthesisConfig
from gve_ray.synthesis.job import synthesize
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.stages import Stage

SECONDS = 600.0  # for which a worker waits for what a test wants
Row = dict[str, Any]


def write_manifest(path: Path, n: int) -> pa.Table:
    """Write a manifest of n videos: of each ten, one is broken, one has no captions, and two are copies of others.

    Their files are there, for the checks before the job, but have no content.
    """
    folder = path.parent / "files"
    folder.mkdir(exist_ok=True)
    ids = []
    for i in range(n):
        kind = "vvvvvvcxqc"[i % 10]
        ids.append(f"{kind}{i // 10 * 10 + (i % 10) // 3 if kind == 'c' else i:03d}")
    files = [folder / f"{video_id}.mp4" for video_id in ids]
    for file in files:
        file.touch()
    table = pa.table({"video_id": ids, "uri": [str(file) for file in files], "caption": ["a video"] * n})
    pq.write_table(table, path)
    return table


class Ingest:
    """Makes a row of `INGEST_SCHEMA` for an id.

    hold: a file whose first line is a path; the videos that the other lines name wait until it exists.
    """

    def __init__(self, media: MediaConfig, seed: int, hold: str) -> None:
        self._until, *self._held = Path(hold).read_text().split() if hold else [""]

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row | Reject]:
        return [self._one(row["video_id"], row["uri"]) for row in rows]

    def _one(self, video_id: str, uri: str) -> Row | Reject:
        if video_id in self._held:
            wait_for(self._until)
        if video_id[0] == "x":
            return Reject("truncated", "the file ends early")
        shown = f"v{video_id[1:]}"
        digest = hashlib.sha256(shown.encode())
        rng = np.random.default_rng(int.from_bytes(digest.digest()[:8], "big"))
        frame = encode_jpeg(np.full((8, 8, 3), rng.integers(256), np.uint8))
        clip = {"start": 0.0, "end": 2.0, "frames": [frame], "timestamps": [0.0], "indices": [0]}
        return {
            "video_id": video_id, "uri": uri, "content_hash": digest.hexdigest(), "repaired": False,
            "container": "mp4", "codec": "h264", "width": 64, "height": 64, "fps": 8.0, "duration": 4.0,
            "total_frames": 32, "frames": [frame], "timestamps": [0.0], "indices": [0],
            "reference_frames": [frame], "reference_timestamps": [0.5], "clips": [clip],
            "signature": rng.integers(0, 256, 8 * FRAME_BYTES, dtype=np.uint8).tobytes(), "motion": 0.5,
        }  # fmt: skip


class Captions:
    """Writes a row of `ANNOTATION_SCHEMA` for each asset, after a pause in seconds for each batch."""

    def __init__(self, *, assets: AssetReader, pause: float, **_: Any) -> None:
        self._assets, self._pause = assets, pause

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[Row | Reject]:
        time.sleep(self._pause)
        stored = self._assets.store.take([row["video_id"] for row in rows], ["video_id", "duration"])
        return [self._one(row["video_id"], row["duration"]) for row in stored.to_pylist()]

    def _one(self, video_id: str, duration: float) -> Row | Reject:
        if video_id[0] == "q":
            return Reject("invalid_json", "no answer")
        video, frame, clip = (str(AssetRef(video_id, part)) for part in ("video", "frame", "clip"))

        def texts(ref: str, *styles: str) -> list[Row]:
            return [
                {"ref": ref, "style": style, "profile": "temporal", "text": f"{style} {video_id}"}
                for style in styles
            ]

        styles = ("short", "rich", "abstract", "keywords", "partial")
        return {
            "video_id": video_id, "duration": duration, "reference_timestamps": [0.5],
            "clip_spans": [{"start": 0.0, "end": 2.0}], "captions": texts(video, *styles),
            "frame_captions": texts(frame, *styles), "composed_image": texts(frame, "scene change"),
            "composed_clip": texts(clip, "temporal continuation"), "generations": [],
        }  # fmt: skip


def contents(output: Path) -> dict[str, Any]:
    """Return the output of a run: pair files as bytes, rows of the stores, and the counts of run.json."""
    rows = {
        name: Store(str(output / f"{name}.lance"), schema).table().sort_by("video_id").to_pylist()
        for name, schema in (("assets", ASSET_SCHEMA), ("annotations", ANNOTATION_SCHEMA))
    }
    rejects = Store(str(output / "rejects.lance"), REJECT_SCHEMA).table().to_pylist()
    facts = json.loads((output / "run.json").read_text())
    return {
        **rows,
        "rejects": sorted(json.dumps(row, sort_keys=True) for row in rejects),
        "pairs": {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*.parquet"))},
        "counts": [{k: v for k, v in stage.items() if k != "seconds"} for stage in facts["stages"]],
        "task counts": facts["pairs"],
    }


def wait_for(pattern: str) -> None:
    """Wait until a path exists. Raises TimeoutError."""
    deadline = time.monotonic() + SECONDS
    folder, _, name = pattern.rpartition("/")
    while not list(Path(folder).glob(name)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pattern} did not appear")
        time.sleep(0.05)


def stages(config: SynthesisConfig, *, hold: Path | None = None, pause: float = 0.0) -> list[Stage]:
    """Return the stages of a config with the stand-ins."""
    workers: dict[str, tuple[type, Row]] = {
        "integrity": (Ingest, {"hold": str(hold) if hold else ""}),
        "captions": (Captions, {"pause": pause}),
    }
    if config.shots.is_on:
        del workers["integrity"]
    return [
        replace(stage, worker=workers[stage.name][0], worker_args=workers[stage.name][1])
        if stage.name in workers
        else stage
        for stage in stages_of(config)
    ]


def config_of(folder: Path, output: str, *options: str) -> SynthesisConfig:
    """Return the config of a job on the manifest in a folder, with actors that fit beside each other on two CPUs."""
    small = '{"actors": 1, "num_cpus": 0.25, "num_gpus": 0, "memory": 0, "batch_size": 4}'
    pools = [part for name in ("media", "shots", "captioner") for part in (f"--resources.{name}", small)]
    paths = ("--input", str(folder / "manifest.parquet"), "--output", str(folder / output))
    settings = ("--quality.consistency.model", "null", "--commit_seconds", "0.2")
    return load_config(SynthesisConfig, ["--config", "demo.yaml", *paths, *settings, *pools, *options])


def main(folder: Path, output: str, pause: float, options: Sequence[str]) -> None:
    import ray

    # Ray's processes must import the stand-ins, and this copy of the package.
    path = {"PYTHONPATH": os.environ["PYTHONPATH"]}
    ray.init(logging_level="ERROR", runtime_env={"env_vars": path})
    config = config_of(folder, output, *options)
    synthesize(config, stages=stages(config, pause=pause))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:])
