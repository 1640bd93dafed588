"""Export the steps of a run to Prometheus through Ray's metrics. cluster/grafana has a dashboard for them."""

from collections.abc import Callable

from gve_ray.logs import metric_tags
from gve_ray.training.runlog import StepLog

# Each metric with its description and its value after a step.
_METRICS: dict[str, tuple[str, Callable[[StepLog], float]]] = {
    "step": ("Steps done, over all epochs", lambda step: step.step),
    "steps": ("Steps of the whole run", lambda step: step.of),
    "epoch": ("Current epoch, from 1", lambda step: step.epoch),
    "learning_rate": ("Learning rate of the last step", lambda step: step.learning_rate),
    "gradient_norm": ("Gradient norm of the last step before clipping", lambda step: step.gradient_norm),
    "pairs_per_second": (
        "Pairs per second in the last step, of all ranks",
        lambda step: step.pairs_per_second,
    ),
    "tokens_per_second": (
        "Tokens per second in the last step, of rank 0",
        lambda step: step.tokens_per_second,
    ),
    "data_wait_share": (
        "Share of the last step in which rank 0 waited for data",
        lambda step: step.data_wait / max(step.seconds, 1e-9),
    ),
    "loss": ("Loss of the last step of a data set", lambda step: step.loss),
}


class StepMetrics:
    """An outlet for `gve_ray.training.fit.fit` under Ray. The loss has one series per data set of the mixture."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        tags = metric_tags()
        self._gauges = {
            name: Gauge(
                f"gve_training_{name}",
                description,
                tag_keys=(*tags, *(("dataset",) if name == "loss" else ())),
            ).set_default_tags(tags)
            for name, (description, _) in _METRICS.items()
        }

    def __call__(self, step: StepLog) -> None:
        for name, (_, value_of) in _METRICS.items():
            self._gauges[name].set(value_of(step), tags={"dataset": step.dataset} if name == "loss" else None)
