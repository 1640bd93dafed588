"""Run a training job on Ray Train: check the config, run `fit` on every rank and summarise the result."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from gve_ray.console import is_quiet
from gve_ray.job import JobError
from gve_ray.logs import extend_log_context, is_json, last_lines, log_context, set_up_rank, worker_log
from gve_ray.preflight import absolute, check_cluster, check_request, fit_to_cluster, live_nodes
from gve_ray.progress import shown_by
from gve_ray.store import RunFolder, SharedFolder
from gve_ray.store.faults import is_lasting, is_storage_fault
from gve_ray.store.runfolder import RUN_FILE, seconds_of
from gve_ray.training.board import Board
from gve_ray.training.config import TrainingJobConfig
from gve_ray.training.curriculum import HISTORY_FILE, History
from gve_ray.training.needs import needs_of
from gve_ray.training.runlog import SCORES_FILE, STEPS_FILE, read_log

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The result of a run.

    seconds: duration over all its attempts. data_wait: share of the time of all steps but the first that rank
    0 waited for data.
    """

    output: str
    adapter: str
    steps: int
    seconds: float
    loss: float
    data_wait: float
    history: History
    best_step: int | None = None  # whose weights `adapter` has; None: the last one's, without evaluations
    was_finished: bool = False  # an earlier run finished it, and this one did nothing

    def __str__(self) -> str:
        """The summary that is printed when the job ends: the curriculum as a table, and the run's figures."""
        lines = [f"{'epoch':<7}{'sigma':>6}  {'task':<24}{'R_k':>7}{'P(k)':>7}"]
        for record in self.history.epochs:
            for task, share in sorted(record.probabilities.items()):
                score = f"{record.scores[task]:7.3f}" if task in record.scores else f"{'-':>7}"
                lines.append(f"{record.epoch:<7}{record.sigma:>6.2f}  {task:<24}{score}{share:>7.3f}")
        lines += [
            "",
            f"steps    {self.steps} in {self.seconds:.0f} s, last loss {self.loss:.4f}, "
            f"{100 * self.data_wait:.1f} % of the time waiting for data",
            f"adapter  {self.adapter}",
            f"curves   {self.output}/training.png, {self.output}/curriculum.png",
        ]
        if self.best_step is not None:
            lines.insert(
                -2, f"best     step {self.best_step} (evaluations.jsonl); the last step's adapter is in last/"
            )
        if self.was_finished:
            lines.insert(0, f"{self.output}: this run is already finished; nothing was done")
        return "\n".join(lines)


def train(config: TrainingJobConfig, *, connect: Callable[[], object] = lambda: None) -> TrainingResult:
    """Run the job, or resume it. If the run is already finished, return its result.

    connect: connects to Ray; called after the checks that need no cluster.
    Raises PreflightError or RunFolderError before any work, and JobError when the ranks failed for good; the
    same call then resumes from the newest checkpoint.
    """
    check_request(needs_of(config))
    config = dataclasses.replace(config, output=absolute(config.output))
    run = RunFolder(config.output, job=config.job, config=config.identity())
    if run.finished():
        return dataclasses.replace(read_result(config.output), was_finished=True)
    connect()
    config = fit_to_cluster(config, needs_of(config).workers)
    check_cluster(needs_of(config), live_nodes())
    with run:
        log.info("train: %s on %d ranks, to %s", config.model, config.resources.workers, config.output)
        _run_ranks(config)
        run.record(finished=True)
    return read_result(config.output)


def _run_ranks(config: TrainingJobConfig) -> None:
    """Start the ranks. When one dies, restart all of them from the newest checkpoint.

    Ray Train's own retries are off, because they would also repeat errors that recur every time.
    """
    from ray.train import TrainingFailedError

    left = config.resources.max_failures
    board = Board.start() if is_quiet() else None
    while True:
        try:
            with board.followed(f"starting {config.resources.workers} ranks") if board else nullcontext():
                _trainer(config, board).fit()
            return
        except TrainingFailedError as error:
            rank, cause = _first_failure(error)
            message = f"training, rank {rank}: {type(cause).__name__}: {cause}"
            if left == 0 or _would_recur(cause):
                raise JobError(message, board.failure() if board else ()) from error
            left -= 1
            log.warning("%s; starting the ranks again", message)


def _would_recur(error: BaseException) -> bool:
    if is_storage_fault(error):  # Lance raises a ValueError if an object store fails
        return is_lasting(error)
    return isinstance(error, (ValueError, ArithmeticError))


def _trainer(config: TrainingJobConfig, board: Board | None) -> "TorchTrainer":
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from gve_ray.embedder.dtypes import default_dtype

    needs = config.resources
    # Chosen here, so that ranks on different processors train in the same dtype.
    config = dataclasses.replace(config, dtype=config.dtype or default_dtype(on_gpu="GPU" in needs.demands))
    return TorchTrainer(
        _rank,
        train_loop_config={
            "config": config,
            "log_context": log_context(),
            "as_json": is_json(),
            "board": board,
        },
        torch_config=TorchConfig(timeout_s=needs.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=needs.workers if needs.min_workers is None else (needs.min_workers, needs.workers),
            use_gpu="GPU" in needs.demands,
            resources_per_worker=needs.demands,
            accelerator_type=needs.accelerator_type,
            elastic_resize_monitor_interval_s=needs.resize_seconds,
        ),
        run_config=RunConfig(
            name="ray", storage_path=config.output, failure_config=FailureConfig(max_failures=0)
        ),
    )


def _rank(loop: dict[str, Any]) -> None:
    """Run `fit` on one rank, in the process group that Ray Train has created."""
    from ray.train import get_context
    from ray.train.torch import get_device

    from gve_ray.training.feed import ahead
    from gve_ray.training.fit import fit
    from gve_ray.training.metrics import StepMetrics
    from gve_ray.training.ray_feed import RayFeed

    set_up_rank(loop["as_json"])
    rank = get_context().get_world_rank()
    extend_log_context({**loop["log_context"], "rank": rank})
    config: TrainingJobConfig = loop["config"]
    board: Board | None = loop["board"]
    workers = config.resources.feeds
    try:
        with shown_by(board) if board is not None and rank == 0 else nullcontext():
            fit(
                config,
                config.output,
                device=str(get_device()),
                feed=RayFeed(workers=workers) if workers else ahead,
                outlets=[StepMetrics()],
                on_epoch=lambda plan: board.say(str(plan)) if board is not None else log.info("%s", plan),
            )
    except Exception as error:
        log.critical("rank %d failed", rank, exc_info=error)  # the driver shows it, so no warning
        if board is not None:
            board.fail(last_lines(worker_log()))
        raise


def _first_failure(error: Exception) -> tuple[int, BaseException]:
    """Return the lowest failed rank and its error."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {0: error})
    return min(failures.items(), key=lambda failure: failure[0])


def read_result(output: str | os.PathLike[str]) -> TrainingResult:
    """Read the result of the finished run in folder `output`."""
    folder = SharedFolder(output)
    facts = json.loads(folder.fetch(RUN_FILE).read_text(encoding="utf-8"))
    steps = list(read_log(folder.fetch(STEPS_FILE)))
    later = steps[1:] or steps
    scores = list(read_log(folder.fetch(SCORES_FILE))) if folder.exists(SCORES_FILE) else []
    return TrainingResult(
        output=folder.uri,
        adapter=f"{folder.uri}/adapter",
        steps=len(steps),
        seconds=seconds_of(facts),
        loss=steps[-1]["loss"],
        data_wait=sum(step["data_wait"] for step in later) / sum(step["seconds"] for step in later),
        best_step=max((line["step"] for line in scores if line["is_best"]), default=None),
        history=History.load(folder.fetch(f"adapter/{HISTORY_FILE}")),
    )
