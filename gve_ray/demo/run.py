"""`gve demo`: render videos, run all jobs on them on this machine, and score the results.

run_demo(DemoConfig(folder="runs/demo"), connect=connect)
"""

import json
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from textwrap import shorten
from typing import Any

import yaml

from gve_ray.config import config_of, recipe_path
from gve_ray.console import is_quiet, lines_printed, print_result, show_only
from gve_ray.demo.benchmark import write_benchmark
from gve_ray.demo.config import DemoConfig
from gve_ray.demo.corpus import write_corpus
from gve_ray.demo.described import write_described
from gve_ray.demo.retrieval import format_training, score_training, write_heldout
from gve_ray.demo.score import format_summary, score_synthesis
from gve_ray.demo.search import Query, format_serving, score_serving, write_queries
from gve_ray.demo.tiny_vl import MODEL
from gve_ray.embedder import Embedder
from gve_ray.evaluation.run import read_result
from gve_ray.job import PreflightError, connect_to_ray
from gve_ray.progress import Progress, is_displayed
from gve_ray.registry import JOBS
from gve_ray.serving.client import Client
from gve_ray.serving.config import ServeConfig
from gve_ray.serving.needs import resolve
from gve_ray.serving.run import running
from gve_ray.store.runfolder import filesystem, write_atomically

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 30.0  # between two lines of progress, where there is no live line
MIN_CPUS = 2  # training has two ranks
_RECIPE_FOLDER = "runs/demo"  # in the jobs' recipes
# Steps, with their shares of the time on two cores.
_SHARES = {"render": 0.13, "synthesize": 0.24, "train": 0.35, "evaluate": 0.14, "index": 0.06, "search": 0.08}
_EXAMPLES = ("text", "image", "composed")  # kinds of the searches that are printed


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The content of summary.json, and the folder that holds it."""

    folder: Path
    summary: dict[str, Any]

    def __str__(self) -> str:
        """The scores, and where to look further."""
        folder, parts = self.folder, self.summary
        return f"""
{format_summary(parts["synthesis"])}

{format_training(parts["training"])}

{format_serving(parts["serving"])}

reports  {folder}/synthesis/report.html
         {folder}/evaluation/report.html
adapter  {folder}/training/adapter
summary  {folder}/summary.json, after {parts["seconds_total"]:.0f} s
search   gve serve --index {folder}/index  (a page and an HTTP API)"""


def run_demo(config: DemoConfig, *, connect: Callable[..., object]) -> DemoResult:
    """Run the whole chain on a private Ray, and write the scores to `folder`/summary.json.

    connect: `gve_ray.cli.connect`, which starts Ray. SIGTERM ends the demo as Ctrl-C does.

    `folder` receives raw/ (the raw corpus), synthesis/ (pairs and their report), described/ (videos
    with descriptions), training/ (the adapter), heldout/ (the videos that score the adapter and are
    searched), uvrb/ (the miniature benchmark), evaluation/, index/, queries/ and summary.json.
    What an earlier call has finished is not repeated. Raises PreflightError if `folder` holds files
    that were made with other sizes or another seed, and what the jobs raise.
    """
    demo = _Demo(config)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with show_only(__name__, seconds=PROGRESS_SECONDS):
        with demo.step("render"):
            try:
                demo.render()
            except ValueError as error:
                raise PreflightError(str(error)) from error
        with local_ray(connect):
            for name in list(_SHARES)[1:]:
                with demo.step(name):
                    getattr(demo, name)()
    result = DemoResult(folder=demo.folder, summary=demo.summary)
    if is_quiet():
        demo.record(lines=lines_printed() + len(str(result).splitlines()))
    return result


class _Demo:
    """The steps of one demo. Each adds its scores to summary.json."""

    def __init__(self, config: DemoConfig) -> None:
        self._config = config
        self.folder = Path(config.folder).expanduser().resolve()
        self._cores = len(os.sched_getaffinity(0))
        self._file = self.folder / "summary.json"
        self.summary: dict[str, Any] = {}
        if self._file.exists():
            self.summary = json.loads(self._file.read_text(encoding="utf-8"))
        self._seconds_before = self.summary.get("seconds_total", 0.0)
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say that a step of _SHARES begins, and when the demo will end.

        A time of day stays right while the step runs, which the time left would not.
        """
        names = list(_SHARES)
        number = names.index(name)
        before = sum(_SHARES[earlier] for earlier in names[:number])
        text = f"step {number + 1} of {len(names)}, {name}"
        if number:
            left = self._seconds / before * (1 - before)
            text += f"; the demo ends at about {datetime.now() + timedelta(seconds=left):%H:%M}"
        log.info("%s", text)
        whole = Progress("demo", 100, unit="%", done=round(100 * before))
        if is_displayed():
            whole.wait_for(text)
        try:
            yield
        finally:
            whole.close()

    @property
    def _seconds(self) -> float:
        """Seconds of this run and of earlier ones that it continues."""
        return self._seconds_before + time.monotonic() - self._started

    def render(self) -> None:
        """Render all videos that do not exist yet."""
        config, folder = self._config, self.folder
        seed, workers = config.seed, self._cores
        write_corpus(folder / "raw", n=config.videos, seed=seed, workers=workers)
        write_described(folder / "described", n=config.described, seed=seed, workers=workers)
        self._heldout = write_heldout(folder / "heldout", n=config.heldout, seed=seed, workers=workers)
        write_benchmark(folder / "uvrb", scale=config.benchmark_scale, seed=seed, workers=workers)
        self._queries = write_queries(
            folder / "queries", folder / "heldout", seed=seed, n=config.queries, workers=workers
        )

    def synthesize(self) -> None:
        """Make training pairs from the raw corpus."""
        self._run("synthesize", seed=self._config.seed)
        synthesis = score_synthesis(self.folder / "synthesis", self.folder / "raw")
        self.record(synthesis=synthesis)

    def train(self) -> None:
        """Train an adapter, and search the held-out videos without and with it."""
        config = self._config
        options: dict[str, Any] = {
            "loop": {"seed": config.seed, "steps": config.steps},
            "prober": {"pairs": config.prober_pairs},
        }
        if config.batch_size is not None:
            data = job_config("train", self.folder).data
            options["data"] = [asdict(replace(dataset, batch_size=config.batch_size)) for dataset in data]
        self._run("train", **options)
        training = score_training(self.folder / "training", self._heldout)
        self.record(training=training)

    def evaluate(self) -> None:
        """Score the model without and with the adapter on the miniature of UVRB."""
        self._run("evaluate")
        self.record(evaluation=_summarise_evaluation(self.folder / "evaluation"))

    def index(self) -> None:
        """Index the held-out videos."""
        self._run("index", model={"adapter": f"{self.folder}/training/adapter"})

    def search(self) -> None:
        """Serve the index, send queries over HTTP, and print some of the answers."""
        config = job_config("serve", self.folder, port=0)  # a free one
        assert isinstance(config, ServeConfig)
        started = time.monotonic()
        embedder = Embedder.from_pretrained(MODEL, self.folder / "training" / "adapter")
        with running(resolve(config)) as url:
            serving = score_serving(url, self._queries, embedder)
            examples = [_example(Client(url), self._queries[kind][0]) for kind in _EXAMPLES]
        self.record(serving={"seconds": round(time.monotonic() - started, 1), **serving})
        print_result("\n".join(examples))

    def _run(self, job: str, **options: Any) -> None:
        resolve_name(JOBS[job].run)(job_config(job, self.folder, **options))

    def record(self, **scores: Any) -> None:
        """Write the scores of a step to summary.json; those of other steps stay in it."""
        self.summary |= {**scores, "seconds_total": round(self._seconds, 1)}
        write_atomically(*filesystem(str(self._file)), (json.dumps(self.summary, indent=1) + "\n").encode())


def job_config(job: str, folder: Path, **options: Any) -> Any:
    """Return the config of a job's demo recipe, with `folder` in its paths and other options.

    options: by name; a mapping is merged into the section of that name.
    """
    recipe = Path(recipe_path("demo.yaml", job)).read_text(encoding="utf-8")
    values = yaml.safe_load(recipe.replace(_RECIPE_FOLDER, str(folder)))
    for name, value in options.items():
        values[name] = {**values[name], **value} if isinstance(value, Mapping) else value
    return config_of(resolve_name(JOBS[job].config), values)


@contextmanager
def local_ray(connect: Callable[..., object]) -> Iterator[None]:
    """Run Ray on this machine during the block, on the loopback interface only.

    It neither uses nor disturbs another Ray that runs here, because it has its own temporary folder.
    The folder is kept if the block fails, because it holds Ray's logs.
    """
    # The path is short because Ray creates Unix sockets below it, whose paths are limited to 107 bytes.
    folder = tempfile.mkdtemp(prefix="gve-")
    os.environ |= {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder}
    try:
        connect_to_ray(partial(connect, num_cpus=max(MIN_CPUS, len(os.sched_getaffinity(0)))))
        # Ray has installed a handler that ends the program at once.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            import ray

            ray.shutdown()
    except Exception:
        log.error("Ray's own logs are kept in %s", folder)
        raise
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _example(client: Client, query: Query) -> str:
    """Search for a query, and describe it with its first three hits."""
    hits = client.search(query.text, image=query.image, video=query.video, top_k=3)
    parts = [
        f"image {query.image.name}" if query.image else "",
        f'"{shorten(query.text, 80, placeholder=" ...")}"' if query.text else "",
    ]
    lines = [f"query  {' + '.join(part for part in parts if part)}"]
    for rank, hit in enumerate(hits, 1):
        name = Path(hit["uri"]).name
        lines.append(f"  {rank}. {name}  {hit['score']:.3f}" + ("  right" if name == query.target else ""))
    return "\n".join(lines)


def _summarise_evaluation(output: Path) -> dict[str, Any]:
    """Return the `evaluation` part of summary.json: scores by model, data set and ability, and the
    seconds.
    """
    run = read_result(output)
    models = {
        name: {
            "datasets": {key: dataset["score"] for key, dataset in scores["datasets"].items()},
            **{key: scores[key] for key in ("abilities", "average_datasets", "average_abilities")},
        }
        for name, scores in run.results["models"].items()
    }
    return {"seconds": round(run.seconds, 1), **models}
