"""cluster/grafana: a dashboard that Grafana can read, of figures that a real cluster publishes."""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping

import httpx
import pytest

from gve_ray.logs import extra_log_context
from gve_ray.stage import StageResources, run_stage
from gve_ray.store import RunFolder
from gve_ray.training.loop import StepLog
from gve_ray.training.metrics import StepMetrics
from tests.cluster.files import CLUSTER, ROOT

HERE = ROOT / "tests"
sys.path.insert(0, str(HERE))

import stage_workers as workers  # noqa: E402

pytestmark = pytest.mark.timeout(600)
DASHBOARD = json.loads((CLUSTER / "grafana" / "gve_ray.json").read_text())
PANELS = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\bray_\w+")
SERVED = re.compile(r"ray_(serve|gve_request|gve_model)")  # of the service: tests/serving/test_service.py
OF_GPUS = re.compile(r"ray_node_(gpus|gram)_")
STEP = StepLog(
    epoch=1, step=3, of=12, task="uvrd-T2V", loss=1.5, mean_score=0.1, mean_positive=0.5, hardest_gap=None,
    learning_rate=3e-5, gradient_norm=2.0, pairs_per_second=64.0, tokens_per_second=5000.0, data_wait=0.5,
    seconds=2.0,
)  # fmt: skip
Series = list[tuple[str, dict[str, str], float]]


def parsed(page: str) -> Series:
    """(name, labels, value) of each sample on a Prometheus page."""
    found = []
    for line in page.splitlines():
        if match := re.match(r"(\w+)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            found.append((match[1], labels, float(match[3])))
    return found


def names_of(expression: str) -> set[str]:
    return set(NAME.findall(expression))


def expressions() -> set[str]:
    """All that is asked of Prometheus: by panels, and by variables."""
    variables = [one["query"]["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    return {target["expr"] for _, target in TARGETS} | set(variables)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Series]]:
    """(run, series): what the cluster's agents publish after a stage and a step of training."""
    import ray

    env = {"PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)])}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": env},
        _system_config={"metrics_report_interval_ms": 1000},
    )
    try:
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
        yield run.facts["runs"][0]["id"], scrape()
    finally:
        ray.shutdown()


def scrape() -> Series:
    """Once all that the dashboard asks for is there, or after a while."""
    from gve_ray.serving.metrics import agents

    wanted = {name for one in expressions() for name in names_of(one) if not SERVED.match(name)}
    deadline = time.monotonic() + 30
    found: Series = []
    while time.monotonic() < deadline:
        found = [one for url in agents() for one in parsed(httpx.get(url, trust_env=False).text)]
        if {name for name in wanted if not OF_GPUS.match(name)} <= {name for name, _, _ in found}:
            break
        time.sleep(0.5)
    return found


def total(series: Series, name: str, **labels: str) -> float:
    return sum(value for one, has, value in series if one == name and labels.items() <= has.items())


def test_a_stages_figures_are_its_counts(scraped: tuple[str, Series]) -> None:
    """40 rows: 4 multiples of ten and one that raises are rejected; one death is one batch begun again."""
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
    # 5 batches; what a worker that was killed had not sent yet is lost.
    assert 1 <= total(series, "ray_gve_stage_batch_seconds_count", **tags) <= 5


def test_a_steps_figures(scraped: tuple[str, Series]) -> None:
    series, tags = scraped[1], {"gve_job": "train", "run": "another"}
    assert total(series, "ray_gve_training_loss", task="uvrd-T2V", **tags) == 1.5
    expected = {"step": 3, "steps": 12, "epoch": 1, "learning_rate": 3e-5, "gradient_norm": 2,
                "pairs_per_second": 64, "tokens_per_second": 5000, "data_wait_share": 0.25}  # fmt: skip
    found = {name: total(series, f"ray_gve_training_{name}", **tags) for name in expected}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("expression", sorted(expressions()))
def test_what_the_dashboard_asks_for_is_published(expression: str, scraped: tuple[str, Series]) -> None:
    published = {name for name, _, _ in scraped[1]}
    wanted = {name for name in names_of(expression) if not SERVED.match(name)}
    if missing := {name for name in wanted - published if OF_GPUS.match(name)}:
        # No GPU here: what Ray's agent registers for one.
        from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

        assert {name.removeprefix("ray_") for name in missing} <= set(METRICS_GAUGES)
        wanted -= missing
    assert names_of(expression)
    assert wanted <= published


@pytest.mark.parametrize(("title", "target"), TARGETS, ids=lambda one: one if isinstance(one, str) else "")
def test_labels_that_the_dashboard_uses_are_published(
    title: str, target: Mapping[str, str], scraped: tuple[str, Series]
) -> None:
    """Matchers, `by` and legends of what this cluster publishes; no label is one that Prometheus overwrites."""
    expression = target["expr"]
    of_all = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        of_all |= set(re.findall(r"\w+", group))
    for name, matchers in re.findall(r"\b(ray_\w+)(\{[^}]*\})?", expression):
        used = of_all | set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers))
        assert not used & {"job", "instance"}
        if not SERVED.match(name) and not OF_GPUS.match(name):
            has = {label for one, labels, _ in scraped[1] if one == name for label in labels}
            assert used <= has, (title, name)


def test_legends_are_of_labels_that_are_left() -> None:
    for title, target in TARGETS:
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        groups = re.findall(r"by \(([^)]*)\)", target["expr"])
        for group in groups:
            assert legend <= set(re.findall(r"\w+", group)) - {"le"}, title


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
    assert len({panel["title"] for panel in panels if panel["type"] == "row"}) == 4


def test_panels_are_whole() -> None:
    variables = {one["name"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "gve_job", "run"}
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat", "bargauge")
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
    for expression in expressions():
        assert set(re.findall(r"\$(\w+)", expression)) <= variables | {"__rate_interval"}
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing)


def test_all_that_we_publish_of_a_run_is_drawn(scraped: tuple[str, Series]) -> None:
    drawn = {name for one in expressions() for name in names_of(one)}
    published = {re.sub("_(bucket|sum|count)$", "", name) for name, _, _ in scraped[1]
                 if name.startswith(("ray_gve_stage_", "ray_gve_training_"))}  # fmt: skip
    assert published <= {re.sub("_(bucket|sum|count)$", "", name) for name in drawn}
