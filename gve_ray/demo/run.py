"""`make demo`: render videos, run the jobs on a private Ray head, and score their results."""

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from gve_ray.config import load_config, resolve_model
from gve_ray.demo.benchmark import write_benchmark
from gve_ray.demo.corpus import write_corpus
from gve_ray.demo.described import write_described
from gve_ray.demo.ray_head import LOOPBACK, HeadError, LocalHead, free_port
from gve_ray.demo.retrieval import format_training, score_training, write_heldout
from gve_ray.demo.score import format_summary, score_synthesis
from gve_ray.demo.search import format_serving, score_serving, write_queries
from gve_ray.embedder import Embedder, EmbedderSettings
from gve_ray.evaluation.config import EvaluationJobConfig
from gve_ray.evaluation.run import read_result
from gve_ray.search import read_library
from gve_ray.training.config import TrainingJobConfig

log = logging.getLogger(__name__)

READY_SECONDS = 600.0  # 20 s on an idle machine
MIN_CPUS = 2  # the actor pools of the demo recipes need two; other processes use the rest


def run_demo(repository: Path, folder: Path, *, videos: int, seed: int) -> dict[str, Any]:
    """Run the demo's jobs on `videos` rendered files, and return the content of summary.json.

    repository: the checkout, which is uploaded as the jobs' working directory. folder: receives
    `demo-raw/` (the raw corpus), `demo/` (the output of synthesis), `demo-described/` (videos with
    descriptions), `demo-train/` (the adapter), `demo-heldout/` (the videos that score the adapter
    and are searched), `demo-uvrb/` (the miniature benchmark), `demo-evaluation/`, `demo-index/` and
    `demo-queries/`. Raises HeadError if Ray does not start or a job fails, ValueError if `folder`
    holds a corpus that was made with other arguments.
    """
    raw, output, trained = folder / "demo-raw", folder / "demo", folder / "demo-train"
    described, uvrb, evaluated = folder / "demo-described", folder / "demo-uvrb", folder / "demo-evaluation"
    indexed = folder / "demo-index"
    cores = len(os.sched_getaffinity(0))
    manifest = write_corpus(raw, n=videos, seed=seed, workers=cores)
    write_described(described, seed=seed, workers=cores)
    heldout = write_heldout(folder / "demo-heldout", seed=seed, workers=cores)
    write_benchmark(uvrb, seed=seed, workers=cores)
    log.info("demo: %d videos in %s; starting Ray", videos, raw)
    with LocalHead(num_cpus=max(MIN_CPUS, cores)) as head:
        synthesize = ["python", "jobs/synthesize.py", "--config", "demo.yaml", "--seed", str(seed)]
        _submit(head, [*synthesize, "--input", str(manifest), "--output", str(output)], repository)
        synthesis = score_synthesis(output, raw)
        write_summary(output / "summary.json", synthesis=synthesis)
        print(format_summary(synthesis), flush=True)
        train = ["python", "jobs/train.py", "--config", "demo.yaml", "--loop.seed", str(seed)]
        train += ["--data", _mixture(folder), "--assets", str(output / "assets.lance")]
        _submit(head, [*train, "--output", str(trained)], repository)
        evaluate = [
            "python",
            "jobs/evaluate.py",
            "--config",
            "demo.yaml",
            "--models",
            _models(trained / "adapter"),
        ]
        evaluate += ["--root", str(uvrb), "--contamination.training", str(output / "assets.lance")]
        evaluate += ["--cache", str(folder / "demo-embeddings"), "--output", str(evaluated)]
        _submit(head, evaluate, repository)
        serving = _serve(head, repository, folder, indexed, adapter=trained / "adapter", seed=seed)
    training = score_training(trained, heldout)
    evaluation = summarise_evaluation(evaluated)
    write_summary(output / "summary.json", training=training, evaluation=evaluation, serving=serving)
    print(f"{format_training(training)}\n\n{format_serving(serving)}\n")
    print(f"reports  {output / 'report.html'}\n         {evaluated / 'report.html'}")
    print(f"curves   {trained / 'training.png'}\nadapter  {trained / 'adapter'}")
    print(f"index    {indexed}: search it with `make serve`")
    print(f"summary  {output / 'summary.json'}")
    return {"synthesis": synthesis, "training": training, "evaluation": evaluation, "serving": serving}


def _serve(
    head: LocalHead, repository: Path, folder: Path, indexed: Path, *, adapter: Path, seed: int
) -> dict[str, Any]:
    """Index and serve the held-out videos, query them over HTTP, and return the `serving` part of
    summary.json.
    """
    begun = time.monotonic()
    index = ["python", "jobs/index.py", "--config", "demo.yaml", "--model.adapter", str(adapter)]
    index += ["--input", str(folder / "demo-heldout" / "manifest.jsonl"), "--output", str(indexed)]
    _submit(head, index, repository)
    queries = write_queries(folder / "demo-queries", folder / "demo-heldout", seed=seed)
    facts = read_library(indexed)
    embedder = Embedder.from_pretrained(
        resolve_model(facts.model_config.model), adapter, settings=EmbedderSettings(**facts.settings)
    )
    url = f"http://{LOOPBACK}:{free_port()}"
    serve = ["python", "jobs/serve.py", "--config", "demo.yaml", "--port", url.rpartition(":")[2]]
    serve += ["--models", json.dumps([{"name": "demo", "index": str(indexed)}])]
    with head.running(serve, working_dir=repository) as job:
        _wait_until_ready(head, job, url)
        scores = score_serving(url, queries, embedder)
    return {"seconds": round(time.monotonic() - begun, 1), **scores}


def _wait_until_ready(head: LocalHead, job: str, url: str) -> None:
    """Wait until the service answers. Raises HeadError if its job ends first, or after
    `READY_SECONDS`.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if (state := head.state(job)) not in ("PENDING", "RUNNING"):
            raise HeadError(f"job {job}: {state}\n{head.log_of(job)[-3000:]}")
        try:
            if httpx.get(f"{url}/readyz", timeout=10, trust_env=False).is_success:
                return
        except httpx.TransportError:  # connections are refused until the service listens
            pass
        time.sleep(0.5)
    raise HeadError(f"job {job}: no answer at {url} after {READY_SECONDS:g} s\n{head.log_of(job)[-3000:]}")


def _mixture(folder: Path) -> str:
    """Return the recipe's data sets as JSON, with `folder` in place of runs/ in their paths."""
    recipe = load_config(TrainingJobConfig, ["--config", "demo.yaml"])
    data = [
        {name: _moved(value, folder) for name, value in asdict(dataset).items()} for dataset in recipe.data
    ]
    return json.dumps(data)


def _models(adapter: Path) -> str:
    """Return the recipe's models as JSON, with `adapter` as the adapter of the trained model."""
    recipe = load_config(EvaluationJobConfig, ["--config", "demo.yaml"])
    return json.dumps(
        [{**asdict(model), **({"adapter": str(adapter)} if model.adapter else {})} for model in recipe.models]
    )


def _moved(value: Any, folder: Path) -> Any:
    return str(folder / value.removeprefix("runs/")) if str(value).startswith("runs/") else value


def summarise_evaluation(output: Path) -> dict[str, Any]:
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


def _submit(head: LocalHead, entrypoint: list[str], repository: Path) -> None:
    begun = time.monotonic()
    head.submit(entrypoint, working_dir=repository)
    log.info("demo: %s took %.0f s", entrypoint[1], time.monotonic() - begun)


def write_summary(path: Path, **parts: Any) -> None:
    """Add the results of some jobs to summary.json atomically; those of other jobs stay in it."""
    summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**summary, **parts}, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
