"""Data-Juicer's filters that do most of what `gve synthesize` does before captions; benchmarks/peers.py runs it.

    /path/to/its/python benchmarks/peers_data_juicer.py manifest.jsonl dropped.json CPUS [no-motion]

Needs py-data-juicer 1.6.1 with av==13.1.0, aiohttp, ray, torch and opencv-contrib-python. The operators have
their default thresholds. no-motion: without the filter of motion. This filter seeks ahead until reading fails,
but OpenCV gives a frame of a truncated file after each seek beyond its end, and all optical flows stay in
memory. Writes the ids of samples that are not in the result.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

OPERATORS: tuple[dict[str, dict[str, object]], ...] = (
    {"alphanumeric_filter": {}},
    {"special_characters_filter": {}},
    {"video_duration_filter": {"min_duration": 0.1, "video_backend": "av"}},
    {"video_resolution_filter": {"min_width": 1, "min_height": 1}},
    {"video_deduplicator": {}},
)
MOTION: dict[str, dict[str, object]] = {"video_motion_score_filter": {}}


def main(manifest: str, dropped: str, cpus: str, *options: str) -> None:
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A sample without a text is dropped by filters of text; here, a video without a caption is no damage.
        samples = [
            {
                "id": row["video_id"],
                "text": row["caption"] or "a video",
                "videos": [row["uri"]],
            }
            for row in rows
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        config = {
            "project_name": "peers",
            "dataset_path": str(folder / "samples.jsonl"),
            "export_path": str(folder / "kept.jsonl"),
            "np": int(cpus),
            "open_monitor": False,
            "process": list(OPERATORS) if "no-motion" in options else [*OPERATORS, MOTION],
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        program = Path(sys.executable).with_name("dj-process")
        caches = {"HF_DATASETS_CACHE": f"{name}/cache", "DATA_JUICER_CACHE_HOME": f"{name}/data_juicer"}
        subprocess.run(
            [program, "--config", folder / "config.yaml"],
            cwd=folder,
            env={**os.environ, **caches},
            check=True,
        )
        kept = {json.loads(line)["id"] for line in (folder / "kept.jsonl").read_text().splitlines()}
    Path(dropped).write_text(json.dumps([row["video_id"] for row in rows if row["video_id"] not in kept]))


if __name__ == "__main__":
    main(*sys.argv[1:])
