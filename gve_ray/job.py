"""Around every job: what can be known to go wrong before any work, what is told at its end, the exit status.

Each check raises `PreflightError` that names the thing, its value and the fix.
"""

import logging
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gve_ray.config import GIB, is_uri, resolve_model
from gve_ray.logs import is_json, set_up_logging
from gve_ray.stage import StageError
from gve_ray.store import RunFolderError, StoreError
from gve_ray.store.model_cache import folder_listing

log = logging.getLogger(__name__)

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
ACCELERATOR = "accelerator_type:"  # before a type of GPU, in Ray's name of the resource
UPLOADED_FOLDER = "working_dir_files"  # Ray unpacks a job's --working-dir below a folder of this name


class PreflightError(RuntimeError):
    """The job cannot run as configured; nothing has been written."""


class JobError(RuntimeError):
    """The job failed on the way; what it committed is kept."""


def run_job(work: Callable[[], object]) -> int:
    """Call `work`, print its result and tell its errors in one line; returns the exit status."""
    set_up_logging()
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which builds of itself it tries
    try:
        result = work()
    except (PreflightError, RunFolderError) as error:
        _tell(f"error: {error}")
        return WRONG
    except (JobError, StageError, StoreError) as error:
        _tell(f"error: {error}\nwhat was committed is kept: start again to go on")
        return FAILED
    except KeyboardInterrupt:
        _tell("interrupted; what was committed is kept: start again to go on")
        return INTERRUPTED
    print(result)
    return DONE


def _tell(words: str) -> None:
    """The last words of a job that failed, in the form of its log."""
    if is_json():
        log.error("%s", words)
    else:
        print(words, file=sys.stderr)


def check_path(option: str, value: str) -> None:
    """Refuse a relative path inside a Ray job's uploaded working directory: it is deleted with the job."""
    here = Path.cwd()
    if UPLOADED_FOLDER in here.parts and "://" not in value and not Path(value).is_absolute():
        raise PreflightError(
            f"{option}={value!r}: relative to the job's uploaded copy of the working directory ({here}), "
            f'which is deleted with the job; give an absolute path or a URI, e.g. --{option} "$PWD/{value}"'
        )


def check_model(option: str, name: str, revision: str | None, file: str = "config.json") -> None:
    """A model's name is a folder with `file` in it, here or behind a URI, or can be had from the hub."""
    if is_uri(name):
        _check_remote(option, name, file)
        return
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


def _check_remote(option: str, uri: str, file: str) -> None:
    """Look, and fetch nothing: weights are large."""
    try:
        held = folder_listing(uri)
    except (OSError, ValueError, ImportError) as error:
        raise PreflightError(
            f"{option}={uri!r}: cannot be read ({_first_line(error)}); name a model folder or a hub id"
        ) from error
    if file not in held:
        raise PreflightError(
            f"{option}={uri!r}: has no {file}; point it to a model in the Hugging Face layout"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def check_fit(
    option: str,
    count: int,
    demands: Mapping[str, float],
    nodes: Sequence[Mapping[str, Any]],
    *,
    count_option: str,
    may_wait: bool = True,
) -> None:
    """`count` workers fit on the cluster; Ray itself would wait for ever for what is not there.

    demands: what one worker holds, e.g. {"CPU": 1, "GPU": 1}; zeros are left out. nodes: one mapping of
    resources a live node. count_option: the config's name for `count`; `option` holds it, and wait_for_nodes if
    the config has one there (may_wait).
    """
    demands = {kind: amount for kind, amount in demands.items() if amount > 0}
    fit = room(demands, nodes, count)
    if fit >= count:
        return
    have = {kind: sum(node.get(kind, 0.0) for node in nodes) for kind in demands}
    fixes = ["add nodes", f"set --{option}.{count_option} {fit}" if fit else f"lower --{option}.num_*"]
    if may_wait:
        fixes.append(f"set --{option}.wait_for_nodes true on an autoscaling cluster")
    raise PreflightError(
        f"{option}: needs {count} x ({told_amounts(demands)}), cluster has {told_amounts(have)} in {len(nodes)} "
        f"nodes, which is room for {fit}; {', '.join(fixes[:-1])}, or {fixes[-1]}"
    )


def demands_of(
    *, num_cpus: float, num_gpus: float, memory: float = 0, accelerator_type: str | None = None
) -> dict[str, float]:
    """What one worker holds, as Ray names it."""
    demands = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory}
    if accelerator_type:
        demands[f"{ACCELERATOR}{accelerator_type}"] = (
            0.001  # a node has 1 of its own type, for all its workers
        )
    return {kind: amount for kind, amount in demands.items() if amount > 0}


def told_amounts(amounts: Mapping[str, float]) -> str:
    """`4 CPU, 1 GPU, 2.0 GiB memory, H100`: amounts of resources for people; all of them are told."""
    return ", ".join(_told(kind, amount) for kind, amount in amounts.items()) or "nothing"


def _told(kind: str, amount: float) -> str:
    if kind in ("memory", "object_store_memory"):
        return f"{amount / GIB:.1f} GiB {kind.removesuffix('_memory').replace('_', ' ')}"
    if kind.startswith(ACCELERATOR):
        return kind.removeprefix(ACCELERATOR) if amount else f"no {kind.removeprefix(ACCELERATOR)}"
    return f"{amount:g} {kind}"


def room(demands: Mapping[str, float], nodes: Sequence[Mapping[str, Any]], count: int) -> int:
    """How many workers of these demands, none of them zero, the nodes hold; `count` a node if they hold nothing."""
    return sum(_room_on(node, demands, count) for node in nodes)


def _room_on(node: Mapping[str, Any], demands: Mapping[str, float], count: int) -> int:
    """How many workers one node holds; a worker cannot be split over nodes."""
    if not demands:
        return count
    return min(math.floor(node.get(kind, 0.0) / amount + 1e-9) for kind, amount in demands.items())


def live_nodes() -> list[dict[str, Any]]:
    """Resources of each live node of the connected Ray cluster."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
