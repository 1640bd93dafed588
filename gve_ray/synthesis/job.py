"""Summarize a synthesis run, and detect whether the same run has already finished."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gve_ray.stage import StageCounts
from gve_ray.store import fingerprint
from gve_ray.store.runfolder import RUN_FILE, filesystem
from gve_ray.synthesis.config import SynthesisConfig

UNITS = {"rectify": "captions", "assemble": "pairs"}  # all other stages count videos


@dataclass(frozen=True, kw_only=True)
class SynthesisResult:
    """The result of a run. stages: run.json's entries, in order (name, unit, in, out, rejected, seconds)."""

    output: str
    stages: Sequence[Mapping[str, Any]]
    pairs: Mapping[str, int]
    report: str
    was_finished: bool = False  # by an earlier run: this one did nothing

    def __str__(self) -> str:
        """Return the summary table that is printed when the job ends."""
        head = f"{'stage':<16}{'of':<10}{'in':>10}{'out':>10}{'rejected':>10}{'seconds':>10}"
        rows = [
            f"{s['name']:<16}{s['unit']:<10}{s['in']:>10}{s['out']:>10}{s['rejected']:>10}{s['seconds']:>10.1f}"
            for s in self.stages
        ]
        pairs = ", ".join(f"{count} {task}" for task, count in self.pairs.items())
        table = [head, *rows, "", f"pairs   {pairs or 'none'}", f"report  {self.report}"]
        if self.was_finished:
            table.insert(0, f"{self.output}: this run was finished before; nothing was done")
        return "\n".join(table)


def stage_facts(stages: Sequence[StageCounts]) -> list[dict[str, Any]]:
    """Stages as in run.json; seconds are of the run that wrote them."""
    return [
        {
            "name": stage.name,
            "unit": UNITS.get(stage.name, "videos"),
            "in": stage.n_in,
            "out": stage.n_out,
            "rejected": stage.n_rejected,
            "seconds": round(stage.seconds, 3),
        }
        for stage in stages
    ]


def manifest_fingerprint(manifest: pa.Table) -> str:
    """Return the sha256 of the manifest's rows as a JSON list: any change of a row changes it.

    Equal to `store.fingerprint` of the list, which is never built: 1.55 M rows would take 2 GB.
    """
    digest = hashlib.sha256(b"[")
    between = b""
    for batch in manifest.to_batches(8192):
        for row in batch.to_pylist():
            text = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            digest.update(between + text.encode())
            between = b","
    digest.update(b"]")
    return digest.hexdigest()


def finished_before(config: SynthesisConfig, manifest: pa.Table) -> SynthesisResult | None:
    """The result of an earlier run of this config on this manifest, if it finished; otherwise None."""
    files, root = filesystem(config.output)
    path = f"{root}/{RUN_FILE}"
    try:
        with files.open_input_stream(path) as stream:
            facts = json.loads(stream.read())
    except (OSError, ValueError):  # no run yet, or an incomplete file, which RunFolder will report
        return None
    same = facts.get("config_hash") == fingerprint(config.identity())
    if not same or facts.get("finished") != manifest_fingerprint(manifest):
        return None
    return SynthesisResult(
        output=config.output,
        stages=facts["stages"],
        pairs=facts["pairs"],
        report=facts["report"],
        was_finished=True,
    )
