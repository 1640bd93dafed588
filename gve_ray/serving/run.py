"""Start the service, say where it is, stop it when told to: what jobs/serve.py and `gve serve` call."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gve_ray.job import JobError, PreflightError
from gve_ray.preflight import check_cluster, live_nodes
from gve_ray.serving.config import ServeConfig
from gve_ray.serving.deploy import application, key_digest_of
from gve_ray.serving.needs import needs_of, resolve

log = logging.getLogger(__name__)

APPLICATION = "gve"
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"


def serve(config: ServeConfig, *, connect: Callable[[], object] = lambda: None) -> str:
    """Serve until SIGTERM or Ctrl-C; returns a word of farewell. Raises PreflightError before anything listens.

    connect: called once the checks that need no cluster have passed, to see that Ray is connected.
    """
    config = resolve(config)
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

    config: as `resolve` returns it. Raises PreflightError or JobError.
    """
    check_cluster(needs_of(config), live_nodes())
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
