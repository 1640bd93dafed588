"""Build the Ray Serve application from the config: one gateway deployment and a retriever
deployment per model.

A Serve config file (cluster/serve.yaml) refers to `build`; `gve_ray.serving.run` calls
`application`.
"""

import os
from typing import TYPE_CHECKING, Any

from gve_ray.serving.config import ReplicasConfig, ServeConfig
from gve_ray.serving.gateway import RETRY_SECONDS
from gve_ray.serving.guard import digest
from gve_ray.serving.retriever import Retriever

if TYPE_CHECKING:
    from ray.serve import Application

MIN_KEY_LENGTH = 16  # characters


def application(config: ServeConfig, key_digest: str | None) -> "Application":
    """Return the application. key_digest: the digest of the API key; None if no key is needed."""
    from ray import serve

    from gve_ray.serving.app import HttpGateway

    retrievers = [
        serve.deployment(
            Retriever,
            name=f"retriever-{served.name}",
            **_options(served.replicas, served.max_ongoing, served.max_queued, config),
        ).bind(served)
        for served in config.models
    ]
    gateway = serve.deployment(
        serve.ingress()(HttpGateway),
        name="gateway",
        **_options(config.gateway.replicas, config.gateway.max_ongoing, config.gateway.max_queued, config),
    )
    return gateway.bind(config, key_digest, *retrievers)


def build(values: dict[str, Any]) -> "Application":
    """Return the application of a Serve config file.

    values: its `args`, the fields of a ServeConfig.

    The API key is read from the environment of the cluster. `host` must be the same as in the
    http_options of the file. Raises ValueError for an invalid config, or if there is no key
    although `host` is not the loopback.
    """
    from gve_ray.config import config_of
    from gve_ray.preflight import fit_to_cluster
    from gve_ray.serving.needs import needs_of  # it imports this module

    config = config_of(ServeConfig, values)
    needs = needs_of(config)
    config = fit_to_cluster(config, needs.workers, together=needs.together)
    return application(config, key_digest_of(config))


def key_digest_of(config: ServeConfig) -> str | None:
    """Return the digest of the API key in the environment, or None if there is none.

    Raises ValueError if a key is needed but missing, or if it is too short.
    """
    key = os.environ.get(config.key_variable, "")
    if not key and config.is_local:
        return None
    if len(key) < MIN_KEY_LENGTH:
        problem = f"{len(key)} characters" if key else "not set"
        raise ValueError(
            f"key_variable={config.key_variable}: {problem}, and host={config.host}; set the environment variable to "
            f"a key of at least {MIN_KEY_LENGTH} characters (openssl rand -hex 32), or listen on 127.0.0.1"
        )
    return digest(key)


def _options(
    replicas: ReplicasConfig, max_ongoing: int, max_queued: int, config: ServeConfig
) -> dict[str, Any]:
    demands = replicas.demands
    actor: dict[str, Any] = {"num_cpus": demands.get("CPU", 0), "num_gpus": demands.get("GPU", 0)}
    if "memory" in demands:
        actor["memory"] = demands["memory"]
    if replicas.accelerator_type:
        actor["accelerator_type"] = replicas.accelerator_type
    options: dict[str, Any] = {
        "max_ongoing_requests": max_ongoing,
        "max_queued_requests": max_queued,
        "backpressure_config": {"retry_after_s": RETRY_SECONDS},
        # A replica that is being stopped first finishes the requests it has started.
        "graceful_shutdown_timeout_s": config.limits.request_seconds,
        "ray_actor_options": actor,
    }
    count = replicas.count or 1
    if replicas.max_replicas > count:
        options["autoscaling_config"] = {
            "min_replicas": count,
            "max_replicas": replicas.max_replicas,
            "target_ongoing_requests": replicas.busy,
        }
    else:
        options["num_replicas"] = count
    return options
