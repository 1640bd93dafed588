"""Test-time scaling: evaluates at every pair of a frame count and a pixel budget.

    gve evaluate --config demo.yaml --sweep.frames '[4,8,16]' --sweep.max_pixels '[6272,12544]'

output/frames8-pixels12544/   a complete `evaluate` run for each pair, not repeated once it is finished
output/sweep.json             score and embedding seconds by pair, model, data set and ability

Models are deliberately run at settings other than those they were trained with
(`ModelConfig.rescale`). All pairs share one cache, whose vectors are keyed by their settings, so
extending a sweep embeds only what is new.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from gve_ray.evaluation.config import EvaluationJobConfig, SweepConfig
from gve_ray.evaluation.run import RESULTS_FILE, EvaluationResult, evaluate
from gve_ray.job import PreflightError
from gve_ray.media import FACTOR
from gve_ray.preflight import absolute, check_path
from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

SWEEP_FILE = "sweep.json"
_AVERAGES = ("average_datasets", "average_abilities")


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The outcome of a sweep. points: as in sweep.json, ordered by frames and then by pixels."""

    output: str
    points: list[dict[str, Any]]

    def __str__(self) -> str:
        """One table per model: scores and seconds by frames x visual tokens."""
        heads = [f"{point['frames']} x {point['tokens']:g}" for point in self.points]
        width = max(10, *(len(head) + 2 for head in heads))
        lines: list[str] = []
        for model in self.points[0]["models"]:
            results = [point["models"][model] for point in self.points]
            lines.append(f"{model:<24}" + "".join(f"{head:>{width}}" for head in heads))
            for part in ("datasets", "abilities"):
                lines += [
                    _row(name, [point[part].get(name) for point in results], width)
                    for name in results[0][part]
                ]
            lines += [_row(name, [point[name] for point in results], width) for name in _AVERAGES]
            seconds = (f"{point['seconds']:.1f} s" for point in results)
            lines.append(f"{'embedding':<24}" + "".join(f"{cell:>{width}}" for cell in seconds))
            new = (f"{point['new']}" for point in results)
            lines += [f"{'items embedded':<24}" + "".join(f"{cell:>{width}}" for cell in new), ""]
        return "\n".join(["frames x visual tokens per frame", *lines, f"{self.output}/{SWEEP_FILE}"])


def run(
    config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None
) -> EvaluationResult | SweepResult:
    """Run the job at the config's frames and pixels or its sweep's. Raises as `evaluate`."""
    if not config.sweep:
        return evaluate(config, connect=connect)
    return sweep(config, connect=connect)


def sweep(config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None) -> SweepResult:
    """Evaluate at every pair. Raises as `evaluate`; invalid pairs before the first run."""
    check_path("output", config.output)
    output = absolute(config.output)
    try:
        configs = [_at(config, output, *pair) for pair in pairs(config)]
    except ValueError as error:
        raise PreflightError(f"sweep: {error}") from error
    once = cache(connect)  # ray.init refuses to be called twice
    points = []
    for i, point_config in enumerate(configs, start=1):
        log.info(
            "sweep: %d of %d, %d frames, %d pixels",
            i,
            len(configs),
            point_config.frames,
            point_config.max_pixels,
        )
        points.append(_point(point_config, evaluate(point_config, connect=once)))
    axes = {"frames": _distinct(points, "frames"), "max_pixels": _distinct(points, "max_pixels")}
    files, path = filesystem(f"{output}/{SWEEP_FILE}")
    write_atomically(files, path, (json.dumps({**axes, "points": points}, indent=2) + "\n").encode())
    return SweepResult(output=output, points=points)


def pairs(config: EvaluationJobConfig) -> list[tuple[int, int]]:
    """(frames, max_pixels) of every point; an empty axis has the config's value."""
    return list(
        product(config.sweep.frames or (config.frames,), config.sweep.max_pixels or (config.max_pixels,))
    )


def _at(config: EvaluationJobConfig, output: str, frames: int, max_pixels: int) -> EvaluationJobConfig:
    return replace(
        config,
        sweep=SweepConfig(),
        frames=frames,
        max_pixels=max_pixels,
        models=tuple(replace(model, rescale=model.engine == "torch") for model in config.models),
        output=f"{output}/frames{frames}-pixels{max_pixels}",
        cache=config.cache or f"{output}/embeddings",
    )


def _point(config: EvaluationJobConfig, result: EvaluationResult) -> dict[str, Any]:
    return {
        "frames": config.frames,
        "max_pixels": config.max_pixels,
        "tokens": config.max_pixels / FACTOR**2,
        "results": f"{result.output}/{RESULTS_FILE}",
        "models": {name: _scores(model) for name, model in result.results["models"].items()},
    }


def _scores(model: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of one point. seconds, new: only of the items that this point embedded."""
    return {
        "datasets": {name: facts["score"] for name, facts in model["datasets"].items()},
        "abilities": model["abilities"],
        **{name: model[name] for name in _AVERAGES},
        "seconds": model["embedding"]["seconds"],
        "new": model["embedding"]["new"],
        "items": model["embedding"]["items"],
    }


def _distinct(points: list[dict[str, Any]], name: str) -> list[int]:
    return list(dict.fromkeys(point[name] for point in points))


def _row(name: str, values: list[float | None], width: int) -> str:
    cells = ("-" if value is None else f"{value:.3f}" for value in values)
    return f"{name:<24}" + "".join(f"{cell:>{width}}" for cell in cells)
