"""Test-time scaling: the same models and data sets at every pair of frame count and pixel budget.

    gve evaluate --config demo.yaml --sweep.frames '[4,8,16]' --sweep.max_pixels '[6272,12544]'

output/frames8-pixels12544/   a whole run of `evaluate` for each pair, left as it is when it is finished
output/sweep.json             score and embedding seconds by pair, model, data set and ability

Weights that were trained at other frames or pixels depart from them on purpose (`ModelConfig.rescale`). All
pairs share one cache, whose vectors are keyed by their settings, so a sweep that grows embeds only what is new.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from gve_ray.evaluation.config import EvaluationJobConfig, SweepConfig
from gve_ray.evaluation.needs import settings_of
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
    """What a sweep found. points: as in sweep.json, frames by frames and then by pixels."""

    output: str
    points: list[dict[str, Any]]

    def __str__(self) -> str:
        """One table a model: data sets, abilities and seconds down, frames x visual tokens a frame across."""
        heads = [f"{one['frames']} x {one['tokens']:g}" for one in self.points]
        width = max(10, *(len(head) + 2 for head in heads))
        lines: list[str] = []
        for model in self.points[0]["models"]:
            found = [one["models"][model] for one in self.points]
            lines.append(f"{model:<24}" + "".join(f"{head:>{width}}" for head in heads))
            for part in ("datasets", "abilities"):
                lines += [
                    _row(name, [one[part].get(name) for one in found], width) for name in found[0][part]
                ]
            lines += [_row(name, [one[name] for one in found], width) for name in _AVERAGES]
            seconds = (f"{one['seconds']:.1f} s" for one in found)
            lines.append(f"{'embedding':<24}" + "".join(f"{cell:>{width}}" for cell in seconds))
            new = (f"{one['new']}" for one in found)
            lines += [f"{'items embedded':<24}" + "".join(f"{cell:>{width}}" for cell in new), ""]
        return "\n".join(["frames x visual tokens a frame", *lines, f"{self.output}/{SWEEP_FILE}"])


def run(
    config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None
) -> EvaluationResult | SweepResult:
    """The job: at the config's frames and pixels, or at all those of its sweep. Raises as `evaluate`."""
    if not config.sweep:
        return evaluate(config, connect=connect)
    return sweep(config, connect=connect)


def sweep(config: EvaluationJobConfig, *, connect: Callable[[], object] = lambda: None) -> SweepResult:
    """Evaluate at every pair, one after the other. Raises as `evaluate`, for a bad pair before any of them."""
    check_path("output", config.output)
    output = absolute(config.output)
    configs = [_at(config, output, *pair) for pair in pairs(config)]
    for one in configs:
        try:
            settings_of(one)
        except ValueError as error:
            raise PreflightError(f"sweep: {error}") from error
    once = cache(connect)  # ray.init refuses to be called twice
    points = []
    for i, one in enumerate(configs, start=1):
        log.info("sweep: %d of %d, %d frames, %d pixels", i, len(configs), one.frames, one.max_pixels)
        points.append(_point(one, evaluate(one, connect=once)))
    found = {"frames": _distinct(points, "frames"), "max_pixels": _distinct(points, "max_pixels")}
    files, path = filesystem(f"{output}/{SWEEP_FILE}")
    write_atomically(files, path, (json.dumps({**found, "points": points}, indent=2) + "\n").encode())
    return SweepResult(output=output, points=points)


def pairs(config: EvaluationJobConfig) -> list[tuple[int, int]]:
    """(frames, max_pixels) of every point; what a sweep does not name is the config's own."""
    return list(
        product(config.sweep.frames or (config.frames,), config.sweep.max_pixels or (config.max_pixels,))
    )


def _at(config: EvaluationJobConfig, output: str, frames: int, max_pixels: int) -> EvaluationJobConfig:
    return replace(
        config,
        sweep=SweepConfig(),
        frames=frames,
        max_pixels=max_pixels,
        models=tuple(replace(one, rescale=one.engine == "torch") for one in config.models),
        output=f"{output}/frames{frames}-pixels{max_pixels}",
        cache=config.cache or f"{output}/embeddings",
    )


def _point(config: EvaluationJobConfig, result: EvaluationResult) -> dict[str, Any]:
    return {
        "frames": config.frames,
        "max_pixels": config.max_pixels,
        "tokens": config.max_pixels / FACTOR**2,
        "results": f"{result.output}/{RESULTS_FILE}",
        "models": {name: _scores(one) for name, one in result.results["models"].items()},
    }


def _scores(model: Mapping[str, Any]) -> dict[str, Any]:
    """seconds, new: of the embedding that this point did itself; what was in the cache took none."""
    return {
        "datasets": {name: one["score"] for name, one in model["datasets"].items()},
        "abilities": model["abilities"],
        **{name: model[name] for name in _AVERAGES},
        "seconds": model["embedding"]["seconds"],
        "new": model["embedding"]["new"],
        "items": model["embedding"]["items"],
    }


def _distinct(points: list[dict[str, Any]], name: str) -> list[int]:
    return list(dict.fromkeys(one[name] for one in points))


def _row(name: str, values: list[float | None], width: int) -> str:
    cells = ("-" if value is None else f"{value:.3f}" for value in values)
    return f"{name:<24}" + "".join(f"{cell:>{width}}" for cell in cells)
