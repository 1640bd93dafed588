"""Tests what `gve doctor` says about a machine. The measured rates are replaced where a number is expected."""

import json

import pytest

from gve_ray import cli
from gve_ray.config import GIB
from gve_ray.preflight import Workers, capacity_findings
from gve_ray.preflight.capacity import measure_decoding, measure_operations, videos_per_hour
from gve_ray.registry import JOBS

BOX = [{"CPU": 96.0, "GPU": 8.0, "memory": 700.0 * GIB}]


@pytest.fixture
def fixed_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gve_ray.preflight.models.default_dtype", lambda *, on_gpu: "bfloat16" if on_gpu else "float32"
    )
    monkeypatch.setattr("gve_ray.preflight.capacity.measure_decoding", lambda: 1000.0)
    monkeypatch.setattr("gve_ray.preflight.capacity.measure_operations", lambda **_: 100e9)


def test_videos_per_hour() -> None:
    pool = Workers(option="x", count=3, demands={"CPU": 2.0})
    # Two decodes of 250 frames by two CPUs take 0.25 s; 75 GFLOP take 0.75 s.
    assert videos_per_hour(pool, 75e9, frames_rate=1000, operations_rate=100e9) == pytest.approx(3 * 3600)
    on_gpus = Workers(option="x", count=3, demands={"CPU": 2.0, "GPU": 1.0})
    # Half of the rate takes 1.5 s, longer than the decoding, which runs at the same time.
    assert videos_per_hour(on_gpus, 75e9, frames_rate=1000, operations_rate=100e9) == pytest.approx(3 * 2400)


@pytest.mark.usefixtures("fixed_rates")
def test_a_laptop_and_a_gpu_box(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = cli.all_needs()
    lines = {row.name: row.value for row in capacity_findings(needs, [{"CPU": 2.0, "memory": 18.9 * GIB}])}
    assert lines["machine"] == "1 node with 2 CPU, 0 GPU, 18.9 GiB memory for jobs"
    assert lines["demo.yaml"] == "can run synthesize, train, evaluate, index, serve"
    assert lines["gve-3b.yaml"] == (
        "can run evaluate, index, serve; too large: synthesize (needs 19.4 GiB memory a worker); "
        "train (needs 46.9 GiB memory a worker)"
    )
    # 8.9 TFLOP at 0.1 a second take 89 s, so 40 clips an hour.
    assert lines["index gve-3b.yaml"] == "about 40 videos of 10 s an hour, with 1 x (2 CPU, 16.0 GiB memory)"
    assert len(lines) <= 10
    lines = {row.name: row.value for row in capacity_findings(needs, BOX)}
    assert lines["demo.yaml"] == lines["gve-3b.yaml"] == "can run synthesize, train, evaluate, index, serve"
    assert lines["gve-7b.yaml"] == "can run synthesize, train"
    assert lines["gve-3b-full.yaml"] == "can run train"


def test_too_few_workers_fit() -> None:
    train = JOBS["train"]
    needs = train.needs_of(train.read_config(["--config", "demo.yaml"], prog="gve"))  # two ranks of one CPU
    recipes = {"train": {"demo.yaml": needs}, "index": {}}
    findings = {
        row.name: row.value for row in capacity_findings(recipes, [{"CPU": 1.0, "memory": 9.0 * GIB}])
    }
    assert findings["demo.yaml"] == "too large: train (needs 2 x (1 CPU, 2.0 GiB memory))"


@pytest.mark.usefixtures("fixed_rates")
def test_doctor_without_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "has_cluster", lambda: False)
    assert cli.main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"machine", "demo.yaml", "gve-3b.yaml", "measured"} <= {finding["name"] for finding in findings}
    assert {finding["state"] for finding in findings} == {"ok"}


def test_rates_are_measured() -> None:
    assert measure_decoding() > 1
    assert measure_operations(threads=1, on_gpu=False) > 1e6
