"""Export the steps of a run to Prometheus through Ray's metrics. cluster/grafana has a dashboard for them."""

from gve_ray.logs import metric_tags
from gve_ray.training.loop import StepLog

_TAGS = ("gve_job", "run")
_DESCRIPTIONS = {
    "gve_training_step": "Steps done, over all epochs",
    "gve_training_steps": "Steps of the whole run",
    "gve_training_epoch": "Current epoch, from 1",
    "gve_training_learning_rate": "Learning rate of the last step",
    "gve_training_gradient_norm": "Gradient norm of the last step before clipping",
    "gve_training_pairs_per_second": "Pairs per second in the last step, of all ranks",
    "gve_training_tokens_per_second": "Tokens per second in the last step, of rank 0",
    "gve_training_data_wait_share": "Share of the last step in which rank 0 waited for data",
}


class StepMetrics:
    """An outlet for `gve_ray.training.fit.fit` under Ray. The loss has one series per task of the mixture."""

    def __init__(self) -> None:
        from ray.util.metrics import Gauge

        self._gauges = {
            name: Gauge(name, description, tag_keys=_TAGS).set_default_tags(metric_tags())
            for name, description in _DESCRIPTIONS.items()
        }
        self._loss = Gauge(
            "gve_training_loss", "Loss of the last step of a task", tag_keys=(*_TAGS, "task")
        ).set_default_tags(metric_tags())

    def __call__(self, step: StepLog) -> None:
        values = {
            "gve_training_step": step.step,
            "gve_training_steps": step.of,
            "gve_training_epoch": step.epoch,
            "gve_training_learning_rate": step.learning_rate,
            "gve_training_gradient_norm": step.gradient_norm,
            "gve_training_pairs_per_second": step.pairs_per_second,
            "gve_training_tokens_per_second": step.tokens_per_second,
            "gve_training_data_wait_share": step.data_wait / max(step.seconds, 1e-9),
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        self._loss.set(step.loss, tags={"task": step.task})
