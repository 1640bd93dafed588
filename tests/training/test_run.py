"""The training job without real ranks. tests/integration/test_training_faults.py has the tests with real ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from gve_ray.config import GIB
from gve_ray.job import JobError, PreflightError
from gve_ray.preflight import fit
from gve_ray.training import run
from gve_ray.training.config import DataSetConfig, TrainingJobConfig, TrainingResources
from tests.embedder.conftest import save_tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")


def config_of(base: Path, folder: Path, **changes: Any) -> TrainingJobConfig:
    path = folder / "pairs.jsonl"
    path.write_text(json.dumps({"query": "a", "positive": "b"}))
    data = DataSetConfig(name="texts", uri=str(path), format="text_pairs")
    return TrainingJobConfig(**{"model": str(base), "data": (data,), "output": str(folder / "run")} | changes)


class Ranks:
    """A trainer whose calls of `fit` raise the given errors one after the other and then succeed."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.fits = list(errors), 0

    def fit(self) -> None:
        self.fits += 1
        if self.errors:
            raise self.errors.pop(0)


def failed(error: Exception, rank: int = 1) -> TrainingFailedError:
    return WorkerGroupError("ranks failed", {rank: error, rank + 1: ConnectionError("peer is gone")})


@pytest.mark.parametrize(
    "errors,max_failures,fits,message",
    [
        ([failed(OSError("node lost"))] * 2, 2, 3, None),
        ([failed(OSError("node lost"))] * 3, 2, 3, "rank 1: OSError: node lost"),
        ([failed(OSError("node lost"))] * 9, -1, 10, None),
        ([failed(ValueError("Generic S3 error: 503 Slow Down"))], 2, 2, None),
        ([failed(OSError("AWS Error ACCESS_DENIED"))], 2, 1, "rank 1: OSError: AWS Error ACCESS_DENIED"),
        ([failed(OSError(28, "No space left on device"))], 2, 1, "No space left"),
        ([failed(ValueError("no pairs"))], 2, 1, "rank 1: ValueError: no pairs"),
        ([failed(FloatingPointError("loss nan"))], 2, 1, "rank 1: FloatingPointError: loss nan"),
    ],
)
def test_ranks_are_restarted_unless_the_error_would_recur(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    errors: list[Exception], max_failures: int, fits: int, message: str | None,
) -> None:  # fmt: skip
    ranks = Ranks(*errors)
    monkeypatch.setattr(run, "_trainer", lambda config, board: ranks)
    config = config_of(base, tmp_path, resources=TrainingResources(max_failures=max_failures))
    if message is None:
        run._run_ranks(config)
    else:
        with pytest.raises(JobError, match=message):
            run._run_ranks(config)
    assert ranks.fits == fits


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"model": "/no/such"}, "model='/no/such': no such folder"),
        ({"trackers": ("mlflow",)}, "mlflow is not installed"),
        ({"data": (DataSetConfig(name="x", uri="/no/such.csv", format="webvid"),)}, r"data\.x\.uri.*no such"),
        ({"data": (DataSetConfig(name="x", uri="/no/such"),)}, r"data\.x\.uri.*no task="),
    ],
)
def test_missing_inputs_are_reported_before_anything_is_written(
    base: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    def connect() -> None:
        raise AssertionError("connected to Ray before the checks")

    with pytest.raises(PreflightError, match=message):
        run.train(config_of(base, tmp_path, **changes), connect=connect)
    assert not (tmp_path / "run").exists()


def test_each_rank_must_fit_on_a_node_together_with_its_feed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"CPU": 8.0, "GPU": 4.0, "memory": 64.0 * GIB}, {"CPU": 2.0, "memory": 64.0 * GIB}]
    monkeypatch.setattr(fit, "live_nodes", lambda: nodes)
    monkeypatch.setattr(fit, "spare_nodes", list)
    resources = TrainingResources(workers=4, num_cpus=4, num_gpus=1, feed_workers=3)
    with pytest.raises(
        PreflightError, match=r"needs 4 x \(4 CPU, 1 GPU, .*room for 2.*--resources\.workers 2"
    ):
        run.train(config_of(base, tmp_path, resources=resources))
    elastic = TrainingResources(workers=4, min_workers=3, num_cpus=4, num_gpus=1, feed_workers=3)
    with pytest.raises(PreflightError, match=r"needs 3 x .*--resources\.min_workers 2"):
        run.train(config_of(base, tmp_path, resources=elastic))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "min_workers": 3}, "min_workers=3"),
        ({"num_gpus": 2}, "num_gpus=2"),
        ({"num_cpus": 0}, "num_cpus=0"),
        ({"min_workers": 3}, "workers \\(auto\\), both numbers"),
        ({"num_cpus": 3, "feed_workers": 3}, "the cores include those of the feed"),
        ({"feed_workers": -1}, "feed_workers=-1"),
        ({"max_failures": -2}, "max_failures=-2"),
        ({"timeout_s": 0}, "timeout_s=0"),
    ],
)
def test_invalid_resources_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingResources(**change)


def test_a_run_needs_an_output_folder(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output='': name the run's folder"):
        config_of(base, tmp_path, output="")


def test_resources_and_trackers_do_not_change_the_identity_of_a_run(base: Path, tmp_path: Path) -> None:
    config = config_of(base, tmp_path)
    other = config_of(base, tmp_path, resources=TrainingResources(workers=4), trackers=())
    assert config.identity() == other.identity()
    assert config.identity() != config_of(base, tmp_path, frames=4).identity()
