"""Start the service, print its URL, and stop it on SIGTERM or Ctrl-C; called by jobs/serve.py and
`gve serve`.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gve_ray.console import log_to, print_result
from gve_ray.job import JobError, PreflightError
from gve_ray.preflight import check_cluster, fit_to_cluster, live_nodes
from gve_ray.progress import Progress
from gve_ray.serving.config import ServeConfig
from gve_ray.serving.deploy import application, key_digest_of
from gve_ray.serving.front import install
from gve_ray.serving.needs import needs_of, resolve

log = logging.getLogger(__name__)

APPLICATION = "gve"
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"


def serve(config: ServeConfig, *, connect: Callable[[], object] = lambda: None) -> str:
    """Serve until SIGTERM or Ctrl-C and return the final message.

    Raises PreflightError before the service listens.

    connect: connects to Ray; called after the checks that need no cluster have passed.
    """
    config = resolve(config)
    log_to(None)  # a service writes no run folder
    install(config)  # before Ray starts, whose processes inherit the environment
    connect()
    # This must follow `connect`, because Ray installs a SIGTERM handler that ends the program at
    # once. While the service starts, SIGTERM raises KeyboardInterrupt as Ctrl-C does; after that,
    # both stop the service in order.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _serve(config)
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(config: ServeConfig) -> str:
    with running(config) as url, stopped_by_signal() as stop:
        access = "with the API key" if key_digest_of(config) else "from this machine"
        lines = [f"serving  {url}  ({access})", *config.described(), f"page     {url}/"]
        print_result("\n".join([*lines, "stop     Ctrl-C, or SIGTERM"]))
        stop.wait()
        log.info("serve: stopping")
    return "stopped"


@contextmanager
def running(config: ServeConfig) -> Iterator[str]:
    """Run the service on the connected cluster during the block, and yield its URL once every model
    is ready.

    config: the config that `resolve` returned. Raises PreflightError or JobError.
    """
    needs = needs_of(config)
    config = fit_to_cluster(config, needs.workers, together=needs.together)
    check_cluster(needs_of(config), live_nodes())
    _check_alone()
    from ray import serve as ray_serve

    try:
        ray_serve.start(
            # No time limit here: gve_ray.serving.front and guard limit all requests except those for videos.
            http_options={
                "host": config.host,
                "port": config.port,
                "keep_alive_timeout_s": config.connections.idle_seconds,
            },
        )
        names = ", ".join(model.name for model in config.models)
        log.info("serve: starting %s on port %d", names, config.port)
        progress = Progress("serve", 1)
        progress.wait_for(f"starting {names}")
        try:
            ray_serve.run(application(config, key_digest_of(config)), name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise JobError(f"the service did not start: {error}") from error
        finally:
            progress.close()
        host = f"[{config.host}]" if ":" in config.host else config.host
        yield f"http://{host}:{config.port}"
    finally:
        ray_serve.shutdown()


@contextmanager
def stopped_by_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set during the block."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_alone() -> None:
    """Raise PreflightError if Ray Serve is already running: it would keep its address and ignore
    this config.
    """
    import ray

    try:
        ray.get_actor(_CONTROLLER, namespace="serve")
    except ValueError:
        return
    raise PreflightError(
        "Ray Serve is already running on this cluster; change what it serves with `serve deploy` (cluster/serve.yaml), "
        "or stop it first with `serve shutdown`"
    )
