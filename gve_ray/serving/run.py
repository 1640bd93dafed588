"""Start the service, say where it is, stop it when told to: what jobs/serve.py and `gve serve` call."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gve_ray.embedder import EmbedderSettings
from gve_ray.inputs.model import check_embedder
from gve_ray.job import JobError, PreflightError, check_path, live_nodes
from gve_ray.search import IndexFileError, read_library
from gve_ray.serving.config import ServeConfig
from gve_ray.serving.deploy import application, key_digest_of
from gve_ray.serving.retriever import settings_of

log = logging.getLogger(__name__)

APPLICATION = "gve"
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"


def serve(config: ServeConfig, *, connect: Callable[[], object] = lambda: None) -> str:
    """Serve until SIGTERM or Ctrl-C; returns a word of farewell. Raises PreflightError before anything listens.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected.
    """
    config = check(config)
    connect()
    # After connecting, for Ray puts a handler of its own in its place: that one ends the program at once. Until the
    # service runs, SIGTERM is what Ctrl-C is; then both are a word to stop.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(config)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(config: ServeConfig) -> str:
    with running(config) as url, stopped_by_signal() as stop:
        keyed = "with the API key" if key_digest_of(config) else "from this machine"
        print(f"serving  {url}  ({keyed})", *config.described(), sep="\n", flush=True)
        print(f"page     {url}/\nstop     Ctrl-C, or SIGTERM", flush=True)
        stop.wait()
    return "stopped"


@contextmanager
def running(config: ServeConfig) -> Iterator[str]:
    """The service on the connected cluster while the block lasts; gives its URL, once every model answers.

    config: as `check` returns it. Raises PreflightError or JobError.
    """
    _check_room(config)
    _check_alone()
    from ray import serve as ray_serve

    try:
        ray_serve.start(
            # Requests are timed by gve_ray.serving.guard, which lets films take their time.
            http_options={"host": config.host, "port": config.port},
        )
        try:
            ray_serve.run(application(config, key_digest_of(config)), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise JobError(f"the service did not start: {error}") from error
        host = f"[{config.host}]" if ":" in config.host else config.host
        yield f"http://{host}:{config.port}"
    finally:
        ray_serve.shutdown()


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, while the block lasts."""
    stop = threading.Event()
    before = {one: signal.signal(one, lambda *_: stop.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def check(config: ServeConfig) -> ServeConfig:
    """The config with its port decided and its folders absolute. Raises PreflightError for what cannot work."""
    models = []
    for served in config.models:
        where = f"models.{served.name}"
        try:
            if served.index is not None:
                check_path(f"{where}.index", served.index)
                facts = read_library(Path(served.index))
                check_embedder(where, facts.model_config, EmbedderSettings(**facts.settings))
                served = replace(served, index=str(Path(served.index).resolve()))
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


def _check_room(config: ServeConfig) -> None:
    """Every replica finds a node with room beside the others; Serve itself would wait for ever."""
    nodes = [dict(node) for node in live_nodes()]
    wanted = [(f"models.{one.name}.replicas", one.replicas) for one in config.models]
    wanted.append(("gateway.replicas", config.gateway.replicas))
    for where, one in sorted(wanted, key=lambda pair: -pair[1].num_gpus):
        demands = {"CPU": one.num_cpus, "GPU": one.num_gpus, "memory": one.memory}
        for _ in range(one.replicas):
            node = next(
                (
                    n
                    for n in nodes
                    if all(n.get(kind, 0) + 1e-9 >= amount for kind, amount in demands.items())
                ),
                None,
            )
            if node is None:
                left = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
                raise PreflightError(
                    f"{where}: {one.replicas} x ({one.num_cpus:g} CPU, {one.num_gpus:g} GPU, {one.memory} bytes) do "
                    f"not fit beside the others; the nodes have left: {left}. Add nodes, or lower replicas, num_cpus "
                    "or num_gpus"
                )
            for kind, amount in demands.items():
                node[kind] = node.get(kind, 0) - amount


def _check_alone() -> None:
    """Where Serve runs already it listens where it was told to, not where this config says."""
    import ray

    try:
        ray.get_actor(_CONTROLLER, namespace="serve")
    except ValueError:
        return
    raise PreflightError(
        "Ray Serve runs on this cluster already; change what it serves by `serve deploy` (cluster/serve.yaml), or "
        "end it first by `serve shutdown`"
    )
