"""The Grafana dashboard uses metrics and labels that a real cluster publishes."""

import json
import re
import sys
import time
from collections.abc import Mapping

import httpx
import pytest

from gve_ray.logs import extra_log_context
from gve_ray.stage import StageResources, run_stage
from gve_ray.store import RunFolder
from gve_ray.training.metrics import StepMetrics
from gve_ray.training.runlog import StepLog
from tests.cluster.files import CLUSTER, ROOT

HERE = ROOT / "tests"
sys.path.insert(0, str(HERE))

import stage_workers as workers  # noqa: E402

pytestmark = pytest.mark.timeout(600)
DASHBOARD = json.loads((CLUSTER / "grafana" / "gve_ray.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\bray_\w+")
SERVED = re.compile(
    r"ray_(serve|gve_request|gve_model)"
)  # metrics of the service: see tests/serving/test_service.py
OF_GPUS = re.compile(r"ray_node_(gpus|gram)_")
STEP = StepLog(
    epoch=1, step=3, of=12, dataset="uvrd-T2V", loss=1.5, mean_score=0.1, mean_positive=0.5, hardest_gap=None,
    learning_rate=3e-5, gradient_norm=2.0, pairs_per_second=64.0, tokens_per_second=5000.0, data_wait=0.5,
    seconds=2.0,
)  # fmt: skip
Series = list[tuple[str, dict[str, str], float]]


def parsed(page: str) -> Series:
    """Return (name, labels, value) of each sample on a Prometheus page."""
    samples = []
    for line in page.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            samples.append((match[1], labels, float(match[3])))
    return samples


def names_of(expression: str) -> set[str]:
    return set(NAME.findall(expression))


def expressions() -> set[str]:
    """Return all Prometheus queries of the dashboard, those of panels and those of variables."""
    variables = [v["query"]["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    return {target["expr"] for _, target in TARGETS} | set(variables)


@pytest.fixture(scope="module")
def scraped(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Series]:
    """Return (run, series): what the agents of a cluster publish after a stage and a training step."""
    folder = tmp_path_factory.mktemp("metrics")
    out, rejects = workers.stores(folder)
    with RunFolder(str(folder / "run"), job="synthesize", config={}) as run:
        run_stage(
            "squares",
            pending=workers.pending(40),
            worker=workers.LoggingAndDying,
            worker_args={"folder": str(folder)},
            out=out,
            rejects=rejects,
            resources=StageResources(actors=1, num_cpus=0.5, batch_size=8, max_attempts=1),
        )
    with extra_log_context(job="train", run="another"):
        StepMetrics()(STEP)
    return run.facts["runs"][0]["id"], scrape()


def scrape() -> Series:
    """Return the published series, once they include all metrics of the dashboard or after two minutes."""
    from gve_ray.serving.metrics import agents

    expected = {name for expr in expressions() for name in names_of(expr) if not SERVED.match(name)}
    deadline = time.monotonic() + 120
    series: Series = []
    while time.monotonic() < deadline:
        series = [sample for url in agents() for sample in parsed(httpx.get(url, trust_env=False).text)]
        if {name for name in expected if not OF_GPUS.match(name)} <= {name for name, _, _ in series}:
            break
        time.sleep(0.5)
    return series


def total(series: Series, name: str, **labels: str) -> float:
    return sum(value for key, own, value in series if key == name and labels.items() <= own.items())


def test_metrics_of_a_stage_are_its_counts(scraped: tuple[str, Series]) -> None:
    """Of 40 rows, 4 multiples of ten and one that raises are rejected; a worker that dies causes
    one retry.
    """
    run, series = scraped
    tags = {"gve_job": "synthesize", "run": run, "stage": "squares"}
    rows = {
        state: total(series, "ray_gve_stage_rows", state=state, **tags)
        for state in ("out", "rejected", "waiting")
    }
    assert rows == {"out": 35, "rejected": 5, "waiting": 0}
    assert total(series, "ray_gve_stage_rejects_total", reason="ten", **tags) == 4
    assert total(series, "ray_gve_stage_rejects_total", reason="error", **tags) == 1
    assert total(series, "ray_gve_stage_errors_total", **tags) == 1
    assert total(series, "ray_gve_stage_retries_total", **tags) == 1
    assert total(series, "ray_gve_stage_rows_per_second", **tags) > 0
    assert total(series, "ray_gve_stage_commit_seconds_count", **tags) >= 1
    # There are 5 batches; samples that a killed worker had not sent yet are lost.
    assert 1 <= total(series, "ray_gve_stage_batch_seconds_count", **tags) <= 5
    output = total(series, "ray_gve_stage_tokens_total", kind="output", **tags)
    assert output >= 8
    assert total(series, "ray_gve_stage_tokens_total", kind="prompt", **tags) == 2 * output
    assert total(series, "ray_gve_stage_busy_seconds_total", **tags) > 0


def test_metrics_of_a_training_step(scraped: tuple[str, Series]) -> None:
    series, tags = scraped[1], {"gve_job": "train", "run": "another"}
    assert total(series, "ray_gve_training_loss", dataset="uvrd-T2V", **tags) == 1.5
    expected = {"step": 3, "steps": 12, "epoch": 1, "learning_rate": 3e-5, "gradient_norm": 2,
                "pairs_per_second": 64, "tokens_per_second": 5000, "data_wait_share": 0.25}  # fmt: skip
    published = {name: total(series, f"ray_gve_training_{name}", **tags) for name in expected}
    assert published == pytest.approx(expected)


@pytest.mark.parametrize("expression", sorted(expressions()))
def test_metrics_of_the_dashboard_are_published(expression: str, scraped: tuple[str, Series]) -> None:
    published = {name for name, _, _ in scraped[1]}
    expected = {name for name in names_of(expression) if not SERVED.match(name)}
    if missing := {name for name in expected - published if OF_GPUS.match(name)}:
        # Without a GPU, these are the metrics that Ray's agent would register for one.
        from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

        assert {name.removeprefix("ray_") for name in missing} <= set(METRICS_GAUGES)
        expected -= missing
    assert names_of(expression)
    assert expected <= published


@pytest.mark.parametrize(
    ("title", "target"), TARGETS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_labels_of_the_dashboard_are_published(
    title: str, target: Mapping[str, str], scraped: tuple[str, Series]
) -> None:
    """Check the labels in matchers, `by` and legends; none is a label that Prometheus overwrites."""
    expression = target["expr"]
    common = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        common |= set(re.findall(r"\w+", group))
    for name, matchers in re.findall(r"\b(ray_\w+)(\{[^}]*\})?", expression):
        used = common | set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers))
        assert not used & {"job", "instance"}
        if not SERVED.match(name) and not OF_GPUS.match(name):
            published = {label for key, labels, _ in scraped[1] if key == name for label in labels}
            assert used <= published, (title, name)


def test_legends_use_labels_that_remain_after_aggregation() -> None:
    for title, target in TARGETS:
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        groups = re.findall(r"by \(([^)]*)\)", target["expr"])
        for group in groups:
            assert legend <= set(re.findall(r"\w+", group)) - {"le"}, title


def test_expressions_use_variables_of_the_dashboard_only() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for expression in expressions():
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}


def test_all_metrics_of_a_run_are_on_the_dashboard(scraped: tuple[str, Series]) -> None:
    drawn = {name for expression in expressions() for name in names_of(expression)}
    published = {re.sub("_(bucket|sum|count)$", "", name) for name, _, _ in scraped[1]
                 if name.startswith(("ray_gve_stage_", "ray_gve_training_"))}  # fmt: skip
    assert published <= {re.sub("_(bucket|sum|count)$", "", name) for name in drawn}
