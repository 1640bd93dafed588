"""Config -> Ray Serve application: what runs as which deployment, with how many replicas.

`build` is what a Serve config file names (cluster/serve.yaml); `gve_ray.serving.run` calls `application`.
"""

import os
from typing import TYPE_CHECKING, Any

from gve_ray.serving.config import ReplicasConfig, ServeConfig
from gve_ray.serving.gateway import RETRY_SECONDS
from gve_ray.serving.guard import digest
from gve_ray.serving.retriever import Retriever

if TYPE_CHECKING:
    from ray.serve import Application

LEAST_KEY = 16  # characters


def application(config: ServeConfig, key_digest: str | None) -> "Application":
    """The gateway, and a retriever behind it for each model."""
    from ray import serve

    from gve_ray.serving.app import HttpGateway

    retrievers = [
        serve.deployment(
            Retriever,
            name=f"retriever-{one.name}",
            **_options(one.replicas, one.max_ongoing, one.max_queued, config),
        ).bind(one)
        for one in config.models
    ]
    gateway = serve.deployment(
        serve.ingress()(HttpGateway),
        name="gateway",
        **_options(config.gateway.replicas, config.gateway.max_ongoing, config.gateway.max_queued, config),
    )
    return gateway.bind(config, key_digest, *retrievers)


def build(values: dict[str, Any]) -> "Application":
    """The application of a Serve config file; values: its `args`, a ServeConfig as plain values.

    The key is read from the environment of the cluster. Raises ValueError for a bad config, and without a key
    unless `host` is the loopback: the file's http_options have to say the same.
    """
    from gve_ray.config import config_of

    config = config_of(ServeConfig, values)
    return application(config, key_digest_of(config))


def key_digest_of(config: ServeConfig) -> str | None:
    """Of the key in the environment; None without one. Raises ValueError where one is needed, or it is short."""
    key = os.environ.get(config.key_variable, "")
    if not key and config.is_local:
        return None
    if len(key) < LEAST_KEY:
        said = f"{len(key)} characters" if key else "not set"
        raise ValueError(
            f"key_variable={config.key_variable}: {said}, and host={config.host}; set the environment variable to "
            f"a key of at least {LEAST_KEY} characters (openssl rand -hex 32), or listen on 127.0.0.1"
        )
    return digest(key)


def _options(
    wanted: ReplicasConfig, max_ongoing: int, max_queued: int, config: ServeConfig
) -> dict[str, Any]:
    actor: dict[str, Any] = {"num_cpus": wanted.num_cpus, "num_gpus": wanted.num_gpus}
    if wanted.memory:
        actor["memory"] = wanted.memory
    if wanted.accelerator_type:
        actor["accelerator_type"] = wanted.accelerator_type
    options: dict[str, Any] = {
        "max_ongoing_requests": max_ongoing,
        "max_queued_requests": max_queued,
        "backpressure_config": {"retry_after_s": RETRY_SECONDS},
        # A replica that is to go first ends what it has begun.
        "graceful_shutdown_timeout_s": config.limits.request_seconds,
        "ray_actor_options": actor,
    }
    if wanted.max_replicas > wanted.replicas:
        options["autoscaling_config"] = {
            "min_replicas": wanted.replicas,
            "max_replicas": wanted.max_replicas,
            "target_ongoing_requests": wanted.busy,
        }
    else:
        options["num_replicas"] = wanted.replicas
    return options
