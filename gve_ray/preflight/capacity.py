"""What a machine or a cluster can run: which recipes fit, and how many videos an hour it would index.

for finding in capacity_findings(recipes, nodes): print(finding.value)

Nothing is downloaded: the sizes of the recipes' published models are known here. The rates are
measured on this machine, for about three seconds.
"""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from gve_ray.config import resolve_model
from gve_ray.preflight.fit import Workers, format_count, format_resources, misfit, size_pools
from gve_ray.preflight.models import Weights
from gve_ray.preflight.needs import Needs
from gve_ray.preflight.report import Finding

SECTION = "capacity"
# Number of values of the models that the recipes name.
_VALUES = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Alibaba-NLP/GVE-3B": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Alibaba-NLP/gme-Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Kwai-Keye/Keye-VL-8B-Preview": 8_700_000_000,
}
_SHAPE_3B = {
    "text_config": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "depth": 32,
        "out_hidden_size": 2048,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
}
_GPU_SHARE = 0.5  # of the rate of large matrix products that a model reaches on a GPU
_SIDE = (640, 360)  # pixels of the clip
_FPS, _CLIP_SECONDS, _PROBE_SECONDS = 25, 10, 0.7
_DECODES = 2  # of each file by the index job: to check it, and to embed it


def capacity_findings(
    recipes: Mapping[str, Mapping[str, Needs]],
    nodes: Sequence[Mapping[str, float]],
    spare: Sequence[Mapping[str, float]] = (),
) -> Iterator[Finding]:
    """Return what fits on these nodes, a finding for each recipe, then the number of videos an hour.

    recipes: needs by job and name of the recipe.
    """
    total = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU", "memory")}
    yield _finding("machine", f"{format_count(len(nodes), 'node')} with {format_resources(total)} for jobs")
    embedders: dict[str, Workers] = {}
    for recipe in sorted({name for by_name in recipes.values() for name in by_name}):
        fits: list[str] = []
        reasons: dict[str, list[str]] = {}
        for job, by_name in recipes.items():
            if (needs := by_name.get(recipe)) is None:
                continue
            indexed = [
                weights for pool in recipes["index"].get(recipe, needs).workers for weights in pool.loads
            ]
            pools = [_with_known_sizes(pool, indexed) for pool in needs.workers]
            sized = size_pools(pools, nodes, spare, together=needs.together)
            if reason := _reason(sized, nodes, together=needs.together):
                reasons.setdefault(reason, []).append(job)
                continue
            fits.append(job)
            if job == "index":
                embedders[recipe] = next(pool for pool in sized if pool.loads)
        parts = [f"can run {', '.join(fits)}"] if fits else []
        if reasons:
            large = [f"{', '.join(jobs)} (needs {reason})" for reason, jobs in reasons.items()]
            parts.append(f"too large: {'; '.join(large)}")
        yield _finding(recipe, "; ".join(parts))
    yield from _throughput(embedders)


def _reason(pools: Sequence[Workers], nodes: Sequence[Mapping[str, float]], *, together: bool) -> str:
    """Return in a few words what the workers need and the nodes lack; empty if everything fits."""
    for pool in pools:
        if misfit([pool], nodes) and not pool.wait_for_nodes:
            lacking = {
                kind: amount
                for kind, amount in pool.demands.items()
                if all(node.get(kind, 0.0) < amount for node in nodes)
            }
            return f"{format_resources(lacking)} a worker" if lacking else str(pool)
    if together and misfit(pools, nodes):
        return "room for all workers at the same time"
    return ""


def _throughput(embedders: Mapping[str, Workers]) -> Iterator[Finding]:
    import torch

    from gve_ray.embedder.operations import embed_operations

    tiny = json.loads((Path(resolve_model("package://demo/tiny_vl/model")) / "config.json").read_text())
    shapes = {"demo.yaml": (tiny, 112 * 112), "gve-3b.yaml": (_SHAPE_3B, 200 * 28 * 28)}
    frames = measure_decoding()
    measured = [f"{frames:.0f} frames/s of {_SIDE[0]}x{_SIDE[1]} decoded on one CPU"]
    for name, (shape, pixels) in shapes.items():
        if (pool := embedders.get(name)) is None:
            continue
        if "GPU" in pool.demands and not torch.cuda.is_available():
            yield _finding(f"index {name}", "not measured: run gve doctor on a machine with a GPU")
            continue
        rate = measure_operations(threads=int(pool.demands.get("CPU", 1)), on_gpu="GPU" in pool.demands)
        operations = embed_operations(shape, frames=8, max_pixels=pixels)
        hourly = videos_per_hour(pool, operations, frames_rate=frames, operations_rate=rate)
        measured.append(f"{rate / 1e9:,.0f} GFLOP/s in a worker of {name}")
        yield _finding(
            f"index {name}",
            f"about {float(f'{hourly:.2g}'):,.0f} videos of {_CLIP_SECONDS} s an hour, with {pool}",
        )
    yield _finding("measured", f"{', '.join(measured)}; the numbers of videos are estimates from these")


def videos_per_hour(pool: Workers, operations: float, *, frames_rate: float, operations_rate: float) -> float:
    """Return how many clips of ten seconds all workers of a pool index in an hour.

    operations: for a clip. frames_rate, operations_rate: per second, on one CPU and of one worker.
    """
    decoding = _DECODES * _CLIP_SECONDS * _FPS / frames_rate / pool.demands.get("CPU", 1)
    if "GPU" in pool.demands:  # which works while the CPUs decode
        seconds = max(decoding, operations / operations_rate / _GPU_SHARE)
    else:
        seconds = decoding + operations / operations_rate
    return 3600 / seconds * (pool.count or 1)


def measure_decoding() -> float:
    """Return how many frames one CPU of this machine decodes in a second."""
    from gve_ray.media import FrameRequest, decode

    clip = _clip()
    decode(clip, [FrameRequest(k=8)])  # the first one loads libraries
    return _per_second(lambda: decode(clip, [FrameRequest(k=8)])) * 2 * _FPS


def measure_operations(*, threads: int, on_gpu: bool) -> float:
    """Return the operations per second of matrix products, with this number of threads or on a GPU."""
    import torch

    from gve_ray.embedder.dtypes import default_dtype

    torch.set_num_threads(threads)
    dtype = getattr(torch, default_dtype(on_gpu=on_gpu))
    m, k, n = (8192, 8192, 8192) if on_gpu else (512, 2048, 2048)
    device = "cuda" if on_gpu else "cpu"
    left, right = (torch.rand(shape, device=device).to(dtype) for shape in ((m, k), (k, n)))

    def product() -> None:
        left @ right
        if on_gpu:
            torch.cuda.synchronize()

    product()
    return _per_second(product) * 2 * m * k * n


def _per_second(work: Callable[[], object]) -> float:
    """Return how often a function runs in a second, from the fastest of its calls in `_PROBE_SECONDS`.

    The fastest, because other programs slow down the rest.
    """
    fastest, end = float("inf"), time.perf_counter() + _PROBE_SECONDS
    while True:
        started = time.perf_counter()
        work()
        now = time.perf_counter()
        fastest = min(fastest, now - started)
        if now > end:
            return 1 / fastest


def _clip() -> bytes:
    """Return a video of two seconds in which everything moves."""
    width, height = _SIDE
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (height // 8, width // 8 + 2 * _FPS, 3), dtype=np.uint8)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(_FPS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "threads": "1"}
        for i in range(2 * _FPS):
            picture = texture[:, i : i + width // 8].repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _with_known_sizes(pool: Workers, indexed: Sequence[Weights]) -> Workers:
    """Return the pool with the sizes of published models.

    indexed: the weights of the index that a service loads, which does not exist yet.
    """
    loads = indexed if pool.option.startswith("models.") and not pool.loads else pool.loads
    return replace(pool, loads=[replace(weights, values=_VALUES.get(weights.name)) for weights in loads])


def _finding(name: str, value: str) -> Finding:
    return Finding(section=SECTION, name=name, state="ok", value=value)


def local_nodes() -> list[dict[str, float]]:
    """Return this machine as Ray would describe it, without starting Ray."""
    from ray._private.accelerators import get_accelerator_manager_for_resource
    from ray._private.utils import estimate_available_memory, get_num_cpus

    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    return [{"CPU": float(get_num_cpus()), "GPU": float(gpus), "memory": 0.9 * estimate_available_memory()}]
