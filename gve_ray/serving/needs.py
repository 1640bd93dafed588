"""Check before the start that the service has what it needs: indexes, models, a key, a port and
replicas.
"""

import socket
from dataclasses import replace

from gve_ray.embedder import EmbedderSettings
from gve_ray.job import PreflightError
from gve_ray.preflight import (
    Embedder,
    Input,
    Needs,
    absolute,
    check_request,
    model_workers,
    workers_of,
)
from gve_ray.search import IndexFileError, read_library
from gve_ray.serving.config import ServeConfig, ServedModel
from gve_ray.serving.deploy import key_digest_of
from gve_ray.serving.retriever import settings_of


def needs_of(config: ServeConfig) -> Needs:
    """Return what the config needs: replicas of each model and of the gateway, at the same time."""
    indexes = {
        f"models.{served.name}.index": served.index for served in config.models if served.index is not None
    }
    workers = [
        model_workers(
            f"models.{served.name}.replicas", served.replicas, _embedders(served), large=True, grows="load"
        )
        for served in config.models
    ]
    return Needs(
        job=config.job,
        workers=[
            *workers,
            workers_of(
                "gateway.replicas",
                config.gateway.replicas,
                most_cpus=config.gateway.readers,
                large=True,
                grows="load",
            ),
        ],
        paths=indexes,
        inputs=[Input(option=option, uri=absolute(index)) for option, index in indexes.items()],
        together=True,
        rules=lambda: _check(config),
    )


def resolve(config: ServeConfig) -> ServeConfig:
    """Return the checked config with its port chosen and its folders absolute.

    Raises PreflightError.
    """
    check_request(needs_of(config))
    models = [
        replace(served, index=absolute(served.index)) if served.index is not None else served
        for served in config.models
    ]
    return replace(config, models=models, port=_port(config))


def _check(config: ServeConfig) -> None:
    """Check models and their settings, the key and the port. Raises PreflightError or ValueError."""
    for served in config.models:
        try:
            _embedder(served).check()
        except (ValueError, IndexFileError) as error:
            raise PreflightError(f"models.{served.name}: {error}") from error
    key_digest_of(config)
    _port(config)


def _embedder(served: ServedModel) -> Embedder:
    """Return the served model, which is that of the index if there is an index.

    Raises ValueError or IndexFileError.
    """
    option = f"models.{served.name}"
    if served.index is not None:
        library = read_library(served.index)
        return Embedder(
            option=option, model=library.model_config, settings=EmbedderSettings(**library.settings)
        )
    assert served.model is not None
    return Embedder(option=option, model=served.model, settings=settings_of(served))


def _embedders(served: ServedModel) -> list[Embedder]:
    """Return the model that each replica loads; none if the index is unreadable, which `_check`
    reports.
    """
    try:
        return [_embedder(served)]
    except (ValueError, IndexFileError):
        return []


def _port(config: ServeConfig) -> int:
    """Return the port, or a free one for 0. Raises PreflightError if nothing can listen there."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise PreflightError(
                f"host={config.host}, port={config.port}: cannot listen there ({error}); "
                "name another with --port, or 0 for a free one"
            ) from error
        return int(listener.getsockname()[1])
