"""Cost of a training step: pairs and tokens per second, peak memory, and time waiting for data.

    make paper && python benchmarks/training.py [--run runs/paper/synthesis] [--steps 12]

Trains the demo's model on the text-video pairs that `make paper` synthesized, on one rank without
Ray, with each variant in a separate process. Prints one JSON object: the measurements, and the
speed and memory of each variant relative to the variant `plain`. The first two steps of each are
warm-up and not counted.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch

from gve_ray.config import load_config
from gve_ray.training.config import DataSetConfig, LoopConfig, TrainingConfig, TrainingJobConfig

WARM_UP = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "gradcache": {"loop": {"gradcache": True}, "token_budget": 2048},
}


def config_of(run: Path, variant: str, *, steps: int, batch: int) -> TrainingConfig:
    """Return the demo's recipe for one task, without prober and negatives."""
    settings = {"loop": {}, **VARIANTS[variant]}
    demo = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    data = DataSetConfig(name="uvrd", uri=str(run / "uvrd"), tasks=("T2V",), batch_size=batch, negatives=0)
    loop = LoopConfig(seed=0, steps=steps + WARM_UP, save_steps=10**6, **settings.pop("loop"))
    return TrainingConfig(
        model=demo.model,
        data=(data,),
        assets=str(run / "assets.lance"),
        frames=demo.frames,
        max_pixels=demo.max_pixels,
        min_pixels=demo.min_pixels,
        curriculum=type(demo.curriculum)(kind="uniform", epochs=1),
        loop=loop,
        trackers=(),
        **settings,
    )


def measure(run: Path, variant: str, steps: int, batch: int, answer: Any) -> None:
    """Measure one variant in this process."""
    from gve_ray.training.fit import fit
    from gve_ray.training.runlog import read_log

    with tempfile.TemporaryDirectory() as folder:
        fit(config_of(run, variant, steps=steps, batch=batch), Path(folder))
        counted = list(read_log(Path(folder) / "steps.jsonl"))[WARM_UP:]
    seconds = sum(step["seconds"] for step in counted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    answer.put(
        {
            "pairs_per_second": sum(step["pairs_per_second"] * step["seconds"] for step in counted) / seconds,
            "tokens_per_second": sum(step["tokens_per_second"] * step["seconds"] for step in counted)
            / seconds,
            "peak_bytes": peak,
            "data_wait": sum(step["data_wait"] for step in counted) / seconds,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", type=Path, default=Path("runs/paper/synthesis"), help="output folder of jobs/synthesize.py"
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    if not (args.run / "uvrd" / "task=T2V").is_dir():
        parser.error(f"--run {args.run}: has no text-video pairs; run `make paper` first")
    context = multiprocessing.get_context("spawn")
    results: dict[str, dict[str, float]] = {}
    for variant in VARIANTS:
        answer = context.Queue()
        process = context.Process(target=measure, args=(args.run, variant, args.steps, args.batch, answer))
        process.start()
        results[variant] = answer.get()
        process.join()
    for result in results.values():
        result["speed_of_plain"] = result["pairs_per_second"] / results["plain"]["pairs_per_second"]
        result["memory_of_plain"] = result["peak_bytes"] / results["plain"]["peak_bytes"]
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(
        json.dumps(
            {"device": device, "steps": args.steps, "batch": args.batch, "variants": results}, indent=1
        )
    )


if __name__ == "__main__":
    main()
