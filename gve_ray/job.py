"""Around every job: what can be known to go wrong before any work, what is told at its end, the exit status.

Each check raises `PreflightError` that names the thing, its value and the fix.
"""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gve_ray.config import resolve_model
from gve_ray.stage import StageError
from gve_ray.store import RunFolderError, StoreError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
UPLOADED_FOLDER = "working_dir_files"  # Ray unpacks a job's --working-dir below a folder of this name


class PreflightError(RuntimeError):
    """The job cannot run as configured; nothing has been written."""


class JobError(RuntimeError):
    """The job failed on the way; what it committed is kept."""


def run_job(work: Callable[[], object]) -> int:
    """Call `work`, print its result and tell its errors in one line; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which builds of itself it tries
    try:
        result = work()
    except (PreflightError, RunFolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG
    except (JobError, StageError, StoreError) as error:
        print(f"error: {error}\nwhat was committed is kept: start again to go on", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; what was committed is kept: start again to go on", file=sys.stderr)
        return INTERRUPTED
    print(result)
    return DONE


def check_path(option: str, value: str) -> None:
    """Refuse a relative path inside a Ray job's uploaded working directory: it is deleted with the job."""
    here = Path.cwd()
    if UPLOADED_FOLDER in here.parts and "://" not in value and not Path(value).is_absolute():
        raise PreflightError(
            f"{option}={value!r}: relative to the job's uploaded copy of the working directory ({here}), "
            f'which is deleted with the job; give an absolute path or a URI, e.g. --{option} "$PWD/{value}"'
        )


def check_model(option: str, name: str, revision: str | None, file: str = "config.json") -> None:
    """A model's name is a folder with `file` in it, or can be had from the hub."""
    try:
        folder = Path(resolve_model(name)).expanduser()
    except FileNotFoundError as error:
        raise PreflightError(f"{option}: {error}") from error
    if folder.is_dir():
        if not (folder / file).is_file():
            raise PreflightError(
                f"{option}={name!r}: the folder {folder} has no {file}; point it to a model in the "
                "Hugging Face layout"
            )
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PreflightError(f"{option}={name!r}: no such folder; name a model folder or a hub id")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(name, file, revision=revision)
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise PreflightError(
            f"{option}={name!r} (revision {revision or 'main'}): not a folder here, not in the Hugging Face "
            f"cache, and the hub did not give it ({type(error).__name__}: {_first_line(error)}); "
            "check the name, log in if it is gated, or name a local folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def check_fit(
    option: str,
    count: int,
    demands: Mapping[str, float],
    nodes: Sequence[Mapping[str, Any]],
    *,
    count_option: str,
) -> None:
    """`count` workers fit on the cluster; Ray itself would wait for ever for what is not there.

    demands: what one worker holds, e.g. {"CPU": 1, "GPU": 1}; zeros are left out. nodes: one mapping of
    resources a live node. count_option: the config's name for `count`; `option` holds it and wait_for_nodes.
    """
    demands = {kind: amount for kind, amount in demands.items() if amount > 0}
    fit = sum(_room_on(node, demands, count) for node in nodes)
    if fit >= count:
        return
    have = ", ".join(f"{sum(node.get(kind, 0) for node in nodes):g} {kind}" for kind in demands)
    each = ", ".join(f"{amount:g} {kind}" for kind, amount in demands.items())
    fix = f"set --{option}.{count_option} {fit}" if fit else f"lower --{option}.num_*"
    raise PreflightError(
        f"{option}: needs {count} x ({each}), cluster has {have} in {len(nodes)} nodes, which is room for "
        f"{fit}: add nodes, {fix}, or set --{option}.wait_for_nodes true on an autoscaling cluster"
    )


def _room_on(node: Mapping[str, Any], demands: Mapping[str, float], count: int) -> int:
    """How many workers one node holds; a worker cannot be split over nodes."""
    if not demands:
        return count
    return min(math.floor(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in demands.items())


def live_nodes() -> list[dict[str, Any]]:
    """Resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
