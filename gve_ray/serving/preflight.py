"""What a service needs of a cluster."""

from pathlib import Path

from gve_ray.doctor import Needs, Read, Weights, Workers
from gve_ray.inputs.model import loads_of
from gve_ray.job import demands_of
from gve_ray.search import IndexFileError, read_library
from gve_ray.serving.config import ReplicasConfig, ServeConfig, ServedModel
from gve_ray.serving.run import check


def needs_of(config: ServeConfig) -> Needs:
    """A pool for each model and one for the gateway, all at the same time, and the indexes."""
    indexes = {one.name: str(Path(one.index).resolve()) for one in config.models if one.index is not None}
    return Needs(
        job=config.job,
        check=lambda: check(config),
        workers=[
            *(_pool(f"models.{one.name}.replicas", one.replicas, _loads(one)) for one in config.models),
            _pool("gateway.replicas", config.gateway.replicas, []),
        ],
        reads=[Read(option=f"models.{name}.index", uri=uri) for name, uri in indexes.items()],
        together=True,
    )


def _pool(option: str, wanted: ReplicasConfig, loads: list[Weights]) -> Workers:
    return Workers(
        option=option,
        count=wanted.replicas,
        demands=demands_of(
            num_cpus=wanted.num_cpus,
            num_gpus=wanted.num_gpus,
            memory=wanted.memory,
            accelerator_type=wanted.accelerator_type,
        ),
        loads=loads,
        count_option="replicas",
        wait_for_nodes=None,
    )


def _loads(served: ServedModel) -> list[Weights]:
    model = served.model
    if served.index is not None:
        try:
            model = read_library(Path(served.index)).model_config
        except IndexFileError:  # which `check` tells
            return []
    assert model is not None
    return loads_of(f"models.{served.name}", model)
