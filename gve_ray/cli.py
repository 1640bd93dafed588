"""`gve VERB --config x.yaml --a.b value`: the functions of jobs/, without a job server.

Connects to the Ray cluster that RAY_ADDRESS or this machine offers, and starts a local one when there is
none. Exit status: 0 done, 1 the run failed, 2 wrong arguments or nothing to start with, 130 interrupted.
"""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gve_ray.doctor import Needs

USAGE = """usage: gve VERB --config FILE [--section.option VALUE ...]
       gve evaluate --config FILE --check
       gve search [TEXT] [--image FILE] [--video FILE] [--top_k N] [--filter JSON] [--url URL]
       gve diagnose [results.csv ...] [--models a,b] [--baselines] [--json]
       gve doctor [VERB --config FILE [--section.option VALUE ...]] [--json] [--timeout SECONDS]

verbs:
  synthesize   raw videos with noisy captions -> assets, annotations and training pairs
  train        pairs and a base model -> a LoRA adapter that makes it an embedder
  evaluate     retrieval data sets and models -> scores; --check tells what is wrong with the data sets,
               --sweep.frames [8,16] --sweep.max_pixels [156800] scores at several settings
  index        a folder of videos -> an index of their moments; again: only what has changed since
  serve        models and indexes -> an HTTP service with a search page
  search       ask a running service; the key, where it has one, is in GVE_API_KEY
  diagnose     result tables -> abilities, how they correlate, which of the paper's findings hold
  doctor       what the cluster has, what VERB needs, what is missing, and whether all nodes see the same

FILE is a YAML file or the name of one of the verb's recipes: {recipes}.
`gve VERB --help` lists a verb's options; `gve VERB --config FILE --print_config` shows the whole config."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    verbs: dict[str, Callable[[list[str]], int]] = {
        "synthesize": synthesize,
        "train": train,
        "evaluate": evaluate,
        "index": index,
        "serve": serve,
        "search": search,
        "diagnose": diagnose,
        "doctor": doctor,
    }
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        from gve_ray import __version__

        print(f"gve {__version__}")
        return 0
    if args[0] not in verbs:
        print(f"{usage()}\n\nerror: verb {args[0]!r}: unknown; use {', '.join(verbs)}", file=sys.stderr)
        return 2
    return verbs[args[0]](args[1:])


def usage() -> str:
    """The help text, with the recipes of the installed package."""
    recipes = sorted({path.name for path in (Path(__file__).parent / "recipes").glob("*/*.yaml")})
    return USAGE.format(recipes=", ".join(recipes))


def synthesize(args: Sequence[str], *, prog: str = "gve synthesize") -> int:
    """`gve synthesize`: the same as jobs/synthesize.py."""
    from gve_ray.config import SynthesisConfig, load_config
    from gve_ray.job import run_job
    from gve_ray.synthesis.pipeline import synthesize as work

    config = load_config(SynthesisConfig, args, prog=prog)
    return run_job(lambda: work(config, connect=connect))


def train(args: Sequence[str], *, prog: str = "gve train") -> int:
    """`gve train`: the same as jobs/train.py."""
    from gve_ray.config import load_config
    from gve_ray.job import run_job
    from gve_ray.training.config import TrainingJobConfig
    from gve_ray.training.run import train as work

    config = load_config(TrainingJobConfig, args, prog=prog)
    return run_job(lambda: work(config, connect=connect))


def evaluate(args: Sequence[str], *, prog: str = "gve evaluate") -> int:
    """`gve evaluate`: the same as jobs/evaluate.py. `--check` reads the data sets and embeds nothing."""
    from gve_ray.config import load_config
    from gve_ray.evaluation.config import EvaluationJobConfig
    from gve_ray.evaluation.data.eval_sets import check
    from gve_ray.evaluation.sweep import run as work
    from gve_ray.job import run_job

    config = load_config(EvaluationJobConfig, [arg for arg in args if arg != "--check"], prog=prog)
    if "--check" in args:
        return run_job(lambda: check(config))
    return run_job(lambda: work(config, connect=connect))


def index(args: Sequence[str], *, prog: str = "gve index") -> int:
    """`gve index`: the same as jobs/index.py."""
    from gve_ray.config import load_config
    from gve_ray.indexing.config import IndexConfig
    from gve_ray.indexing.run import index as work
    from gve_ray.job import run_job

    config = load_config(IndexConfig, args, prog=prog)
    return run_job(lambda: work(config, connect=connect))


def serve(args: Sequence[str], *, prog: str = "gve serve") -> int:
    """`gve serve`: the same as jobs/serve.py."""
    from gve_ray.config import load_config
    from gve_ray.job import run_job
    from gve_ray.serving.config import ServeConfig
    from gve_ray.serving.run import serve as work

    config = load_config(ServeConfig, args, prog=prog)
    return run_job(lambda: work(config, connect=connect))


def search(args: Sequence[str]) -> int:
    """`gve search`: hits of a running service, a line or a JSON object each."""
    import argparse
    import json

    from gve_ray.serving.client import URL, Client, ServiceError, as_text

    parser = argparse.ArgumentParser(
        prog="gve search", description="Moments of the indexed videos, best first."
    )
    parser.add_argument("text", nargs="?", metavar="TEXT")
    parser.add_argument("--image", type=_local, metavar="FILE")
    parser.add_argument("--video", type=_local, metavar="FILE")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--filter", type=json.loads, help='e.g. \'{"duration": {"gte": 10}}\'')
    parser.add_argument("--instruction", help="what kind of match is wanted, in a sentence")
    parser.add_argument("--model", help="by its name there; the first with an index by default")
    parser.add_argument("--url", default=URL, help=f"of the service (default {URL})")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    asked = vars(parser.parse_args(args))
    url, as_json = asked.pop("url"), asked.pop("json")
    try:
        hits = Client(url, key=os.environ.get("GVE_API_KEY")).search(**asked)
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(hits, indent=1) if as_json else as_text(hits))
    return 0


def diagnose(args: Sequence[str]) -> int:
    """`gve diagnose`: result tables, or the paper's own without any, to a page or JSON on standard output."""
    import argparse
    import json

    from gve_ray.evaluation.paper.diagnosis import diagnose as work

    parser = argparse.ArgumentParser(
        prog="gve diagnose", description="Result tables -> abilities, correlations, findings."
    )
    parser.add_argument("tables", nargs="*", type=_local, metavar="results.csv", help="one row a model")
    parser.add_argument("--models", help="only these, by name, with commas between; the paper's are known")
    parser.add_argument("--baselines", action="store_true", help="add the paper's models")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(args)
    models = [name.strip() for name in options.models.split(",")] if options.models else None
    try:
        found = work(options.tables, models, baselines=options.baselines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0


def doctor(args: Sequence[str]) -> int:
    """`gve doctor`: findings on the cluster, and on what a job needs of it. 0: enough, 1: something is missing."""
    import argparse

    from gve_ray.doctor import SECONDS, check_address
    from gve_ray.doctor import doctor as work

    parser = argparse.ArgumentParser(
        prog="gve doctor",
        description="What the cluster has, what a job needs, what is missing, and whether all nodes see the same.",
        epilog="A VERB takes its own --config FILE and options, as in `gve VERB`.",
        allow_abbrev=False,
    )
    verbs = ("synthesize", "train", "evaluate", "index", "serve")
    parser.add_argument("verb", nargs="?", metavar="VERB", choices=verbs, help=", ".join(verbs))
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--timeout", type=float, default=SECONDS, help="seconds for a node to answer (default %(default)g)"
    )
    options, rest = parser.parse_known_args(args)
    if options.timeout <= 0:
        parser.error(f"--timeout {options.timeout:g}: use positive seconds")
    if options.verb is None and rest:
        parser.error(f"{' '.join(rest)}: name the VERB first")
    needs = _needs_of(options.verb, rest) if options.verb else None
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        check_address(address, options.timeout)
        connect()
    except Exception as error:  # noqa: BLE001 - Ray raises all kinds, bare ones too, when there is no way in
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"error: no way into the cluster at {address or 'this machine'}: {said}", file=sys.stderr)
        print("look at RAY_ADDRESS, and at RAY_AUTH_MODE and RAY_AUTH_TOKEN", file=sys.stderr)
        return 1
    report = work(needs, seconds=options.timeout)
    print(report.to_json() if options.json else report)
    return 0 if report.is_enough else 1


def _needs_of(verb: str, args: Sequence[str]) -> "Needs":
    """What a job with these arguments needs of the cluster."""
    from gve_ray.config import load_config

    prog = f"gve doctor {verb}"
    if verb == "synthesize":
        from gve_ray.config import SynthesisConfig
        from gve_ray.synthesis import preflight as synthesis

        return synthesis.needs_of(load_config(SynthesisConfig, args, prog=prog))
    if verb == "train":
        from gve_ray.training import preflight as training
        from gve_ray.training.config import TrainingJobConfig

        return training.needs_of(load_config(TrainingJobConfig, args, prog=prog))
    if verb == "evaluate":
        from gve_ray.evaluation import preflight as evaluation
        from gve_ray.evaluation.config import EvaluationJobConfig

        return evaluation.needs_of(load_config(EvaluationJobConfig, args, prog=prog))
    if verb == "index":
        from gve_ray.indexing import preflight as indexing
        from gve_ray.indexing.config import IndexConfig

        return indexing.needs_of(load_config(IndexConfig, args, prog=prog))
    from gve_ray.serving import preflight as serving
    from gve_ray.serving.config import ServeConfig

    return serving.needs_of(load_config(ServeConfig, args, prog=prog))


def _local(path: str) -> Path:
    """A file that an argument names; shells leave the `~` of `--image=~/a.jpg` as it is."""
    from gve_ray.config import expand_home

    return Path(expand_home(path))


def connect() -> None:
    """Connect to the cluster there is, or start Ray on this machine, on the loopback only."""
    known = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    if os.environ.get("RAY_ADDRESS", "local") == "local" and not known.is_file():
        # Before Ray is imported: it would listen on all interfaces, and keep a token in the home folder.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not ray.is_initialized():
        # Ray Train asks the dashboard's server, on the loopback, which of its own actors still live.
        ray.init(include_dashboard=True, logging_level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
