"""What can be known to go wrong before anything listens: its indexes, models, key, port and resources."""

import socket
from dataclasses import replace

from gve_ray.doctor import Needs, Read, Weights, Workers, absolute
from gve_ray.embedder import EmbedderSettings
from gve_ray.inputs.model import check_embedder, loads_of
from gve_ray.job import PreflightError, check_path, demands_of
from gve_ray.search import IndexFileError, read_library
from gve_ray.serving.config import ReplicasConfig, ServeConfig, ServedModel
from gve_ray.serving.deploy import key_digest_of
from gve_ray.serving.retriever import settings_of


def check(config: ServeConfig) -> ServeConfig:
    """The config with its port decided and its folders absolute. Raises PreflightError for what cannot work."""
    models = []
    for served in config.models:
        where = f"models.{served.name}"
        try:
            if served.index is not None:
                check_path(f"{where}.index", served.index)
                facts = read_library(served.index)
                check_embedder(where, facts.model_config, EmbedderSettings(**facts.settings))
                served = replace(served, index=absolute(served.index))
            else:
                assert served.model is not None
                check_embedder(where, served.model, settings_of(served))
        except (ValueError, IndexFileError) as error:
            raise PreflightError(f"{where}: {error}") from error
        models.append(served)
    try:
        key_digest_of(config)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    return replace(config, models=models, port=_port(config))


def _port(config: ServeConfig) -> int:
    """The port, or a free one for 0. Raises PreflightError if it cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            raise PreflightError(
                f"host={config.host}, port={config.port}: cannot listen there ({error}); use another, or 0 for a "
                "free port"
            ) from error
        return int(probe.getsockname()[1])


def needs_of(config: ServeConfig) -> Needs:
    """What a service needs of a cluster: a pool for each model and one for the gateway, at the same time."""
    indexes = {one.name: absolute(one.index) for one in config.models if one.index is not None}
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
            model = read_library(served.index).model_config
        except IndexFileError:  # which `check` tells
            return []
    assert model is not None
    return loads_of(f"models.{served.name}", model)
