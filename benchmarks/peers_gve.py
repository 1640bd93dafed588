"""The stages of `gve synthesize` from "rectify" to "dynamics", a program that benchmarks/peers.py runs.

    python benchmarks/peers_gve.py manifest.jsonl dropped.json CPUS

Captions are cleaned, and videos are checked, compared with each other, and their motion is scored, with the
settings of the demo. Writes the ids of videos that are rejected, or whose caption is.
"""

import json
import sys
import tempfile
from pathlib import Path

from gve_ray.cli import connect
from gve_ray.config import load_config
from gve_ray.inputs.manifest import read_manifest
from gve_ray.synthesis.config import SynthesisConfig
from gve_ray.synthesis.job import fit_stages
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.pipeline import STAGES
from gve_ray.synthesis.stages import SharedState, Stage, SynthesisRun
from gve_ray.synthesis.stream import Stream

LAST = "dynamics"


def main(manifest: str, dropped: str, cpus: str) -> None:
    def note(run: SynthesisRun, _: Stage) -> None:
        ids = {row["video_id"] for rows in run.rejected.values() for row in rows}
        Path(dropped).write_text(json.dumps(sorted(ids)))

    noting = Stage(name="noted", unit=None, reads=("videos",), writes=(), run=note)
    stages = [*STAGES[: 1 + [stage.name for stage in STAGES].index(LAST)], noting]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--input", manifest, "--output", folder]
        config = load_config(SynthesisConfig, ["--config", "demo.yaml", *options])
        videos = read_manifest(config.input)
        connect(int(cpus))
        config, _ = fit_stages(config, needs_of(config), parts=1)
        Stream(SharedState(config, videos), stages, [videos], record=lambda entries: None).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
