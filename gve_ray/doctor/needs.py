"""What a job needs of the cluster, as each job's preflight says it of its config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow import fs

from gve_ray.config import StageResources
from gve_ray.job import PreflightError, check_fit, check_model, demands_of, room, told_amounts
from gve_ray.store.runfolder import filesystem

SAMPLES = 3  # files of an input that every node is to read


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A model or an adapter: a folder with `file` in it, or a hub's id."""

    option: str
    name: str
    revision: str | None = None
    file: str = "config.json"

    def check(self) -> None:
        """It is here, or can be had. Raises PreflightError."""
        check_model(self.option, self.name, self.revision, self.file)


def weights_of(
    where: str, model: str, adapter: str | None, *, revision: str | None = None, file: str = "config.json"
) -> list[Weights]:
    """A model and its adapter, if there is one; `where` is the config's section that has both."""
    found = [Weights(option=f"{where}.model", name=model, revision=revision, file=file)]
    if adapter is not None:
        found.append(Weights(option=f"{where}.adapter", name=adapter, file="adapter_config.json"))
    return found


@dataclass(frozen=True, kw_only=True)
class Workers:
    """One pool: `count` processes, each of which holds `demands` on one node, as Ray names them, and loads `loads`.

    option: the config's section of the pool; count_option: its name for `count` in there. wait_for_nodes: an
    autoscaler is to bring what is not there yet; None where the config has no such option.
    """

    option: str
    count: int
    demands: Mapping[str, float]
    loads: Sequence[Weights] = ()
    count_option: str = "actors"
    wait_for_nodes: bool | None = False


def pool_of(option: str, resources: StageResources, loads: Sequence[Weights] = ()) -> Workers:
    """The actors of a stage."""
    return Workers(
        option=option,
        count=resources.actors,
        demands=demands_of(
            num_cpus=resources.num_cpus,
            num_gpus=resources.num_gpus,
            memory=resources.memory,
            accelerator_type=resources.accelerator_type,
        ),
        loads=loads,
        wait_for_nodes=resources.wait_for_nodes,
    )


@dataclass(frozen=True, kw_only=True)
class Read:
    """What workers read. uri: as they are given it. files: URIs of some of its files, as the driver finds them;
    None: the first ones in it and in the folders below. Raises PreflightError, OSError or ValueError."""

    option: str
    uri: str
    files: Callable[[], Sequence[str]] | None = None

    def some_files(self) -> list[str]:
        """At most SAMPLES files, from all over the list."""
        files = first_files(self.uri) if self.files is None else list(self.files())
        return files if len(files) <= SAMPLES else [files[0], files[len(files) // 2], files[-1]]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one job needs. check: what it looks at before it asks for a cluster; raises PreflightError.

    writes: folders that the driver and the workers write, by option. together: all pools are there at the same
    time, not one after the other.
    """

    job: str
    check: Callable[[], object]
    workers: Sequence[Workers]
    reads: Sequence[Read] = ()
    writes: Mapping[str, str] = field(default_factory=dict)
    together: bool = False


def check_workers(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every pool fits on the cluster. nodes: one mapping of resources a live node. Raises PreflightError."""
    for pool in needs.workers:
        if not pool.wait_for_nodes:
            check_pool(pool, nodes)
    if needs.together:
        check_together(needs, nodes)


def check_pool(pool: Workers, nodes: Sequence[Mapping[str, Any]]) -> None:
    """One pool fits. Raises PreflightError."""
    check_fit(
        pool.option,
        pool.count,
        pool.demands,
        nodes,
        count_option=pool.count_option,
        may_wait=pool.wait_for_nodes is not None,
    )


def check_together(needs: Needs, nodes: Sequence[Mapping[str, Any]]) -> None:
    """All pools fit beside each other, the largest workers placed first. Raises PreflightError."""
    left = [dict(node) for node in nodes]
    for pool in sorted(
        needs.workers, key=lambda pool: (-pool.demands.get("GPU", 0), -pool.demands.get("CPU", 0))
    ):
        for _ in range(pool.count):
            node = next((node for node in left if room(pool.demands, [node], 1)), None)
            if node is None:
                free = "; ".join(
                    told_amounts({kind: node.get(kind, 0.0) for kind in pool.demands}) for node in left
                )
                raise PreflightError(
                    f"{pool.option}: {pool.count} x ({told_amounts(pool.demands)}) do not fit beside the others, "
                    f"which leave on each node {free}; add nodes, or lower the {pool.count_option} or what each "
                    "of them holds"
                )
            for kind, amount in pool.demands.items():
                node[kind] -= amount


def demands_together(needs: Needs) -> dict[str, float]:
    """What all workers of all pools hold, by kind."""
    kinds = dict.fromkeys(kind for pool in needs.workers for kind in pool.demands)
    found = {kind: sum(pool.count * pool.demands.get(kind, 0.0) for pool in needs.workers) for kind in kinds}
    return {kind: amount for kind, amount in found.items() if amount > 0}


def absolute(place: str) -> str:
    """A path as a driver that resolves it gives it to its workers; a URI without slashes at its end."""
    return place.rstrip("/") if "://" in place else str(Path(place).resolve())


def first_files(uri: str) -> list[str]:
    """URIs: of a file, itself; of a folder, the first visible file by name, and so on in its first folder.

    At most SAMPLES of them. Raises FileNotFoundError where there is none.
    """
    files, path = filesystem(uri)
    uri = uri.rstrip("/")
    kind = files.get_file_info(path).type
    if kind == fs.FileType.NotFound:
        raise FileNotFoundError("no such file or folder")
    found = [uri] if kind == fs.FileType.File else []
    inner = "" if kind == fs.FileType.Directory else None
    while inner is not None and len(found) < SAMPLES:
        listed = files.get_file_info(fs.FileSelector(f"{path}{inner}"))
        seen = sorted(
            (one for one in listed if not one.base_name.startswith(".")), key=lambda one: one.base_name
        )
        names = [one.base_name for one in seen if one.type == fs.FileType.File]
        found += [f"{uri}{inner}/{name}" for name in names[:1]]
        folders = [one.base_name for one in seen if one.type == fs.FileType.Directory]
        inner = f"{inner}/{folders[0]}" if folders else None
    if not found:
        raise FileNotFoundError("a folder without files")
    return found
