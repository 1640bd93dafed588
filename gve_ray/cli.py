"""The `gve` command: `gve VERB --config x.yaml --a.b value` runs a job without a job server.

Connects to the Ray cluster that RAY_ADDRESS names or that runs on this machine, or starts a local one.
Exit status: 0 done, 1 the job failed, 2 wrong arguments or something needed is missing, 130 interrupted.
"""

import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gve_ray.registry import JOBS

USAGE = """From a folder of raw videos to video search.

usage: gve VERB --config FILE [--section.option VALUE ...]
       gve evaluate --config FILE --check
       gve search [TEXT] [--image FILE] [--video FILE] [--top_k N] [--filter JSON] [--url URL]
       gve diagnose [results.csv ...] [--models a,b] [--baselines] [--json]
       gve doctor [VERB --config FILE [--section.option VALUE ...]] [--json] [--timeout SECONDS]

verbs:
  synthesize   make assets, annotations and training pairs from raw videos with noisy captions
  train        train a LoRA adapter that makes a base model an embedder
  evaluate     score models on retrieval data sets; --check only checks the data sets,
               --sweep.frames [8,16] --sweep.max_pixels [156800] scores at several settings
  index        index the moments of a folder of videos; run again, it processes only what has changed
  serve        serve models and indexes over HTTP, with a search page
  search       query a running service; set GVE_API_KEY if the service has a key
  diagnose     compare result tables: abilities, their correlations, which of the paper's findings hold
  doctor       show what the cluster has, what VERB needs, what is missing, and where nodes differ

examples:
  gve index --config demo.yaml --input VIDEOS --output INDEX --model.adapter package://demo/tiny_vl/adapter
  gve serve --models '[{{name: mine, index: INDEX}}]'
  gve search "a red ball rolls to the left" --top_k 5
  gve synthesize --config gve-3b.yaml --input VIDEOS --output RUN --captioner.model Qwen/Qwen2.5-VL-7B-Instruct
  gve train --config gve-3b.yaml --data '[{{name: uvrd, uri: RUN/uvrd}}]' --assets RUN/assets.lance --output ADAPTER

FILE is a YAML file or the name of a recipe for the verb: {recipes}.
`gve VERB --help` lists a verb's options; `gve VERB --config FILE --print_config` shows the whole config."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    verbs: dict[str, Callable[[list[str]], int]] = {
        **{name: partial(run, name) for name in JOBS},
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
    """Return the help text, with the names of the packaged recipes."""
    recipes = sorted({path.name for path in (Path(__file__).parent / "recipes").glob("*/*.yaml")})
    return USAGE.format(recipes=", ".join(recipes))


def run(job: str, args: Sequence[str]) -> int:
    """Run a job, as the script of its name in jobs/ does, and return the exit status."""
    return JOBS[job].main(args, prog=f"gve {job}", connect=connect)


def search(args: Sequence[str]) -> int:
    """Query a running service and print its hits, as text or as JSON."""
    import argparse
    import json

    from gve_ray.serving.client import URL, Client, ServiceError, as_text

    parser = argparse.ArgumentParser(
        prog="gve search", description="Find moments of the indexed videos, best first."
    )
    parser.add_argument("text", nargs="?", metavar="TEXT")
    parser.add_argument("--image", type=_local, metavar="FILE")
    parser.add_argument("--video", type=_local, metavar="FILE")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--filter", type=json.loads, help='e.g. \'{"duration": {"gte": 10}}\'')
    parser.add_argument("--instruction", help="a sentence that says what should match")
    parser.add_argument("--model", help="name of a served model; the default is the first one with an index")
    parser.add_argument("--url", default=URL, help=f"address of the service (default {URL})")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    query = vars(parser.parse_args(args))
    url, as_json = query.pop("url"), query.pop("json")
    try:
        hits = Client(url, key=os.environ.get("GVE_API_KEY")).search(**query)
    except (ServiceError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(hits, indent=1) if as_json else as_text(hits))
    return 0


def diagnose(args: Sequence[str]) -> int:
    """Print a diagnosis of result tables, or of the paper's own table, as text or as JSON."""
    import argparse
    import json

    from gve_ray.evaluation.paper.diagnosis import diagnose as work

    parser = argparse.ArgumentParser(
        prog="gve diagnose", description="Derive abilities, correlations and findings from result tables."
    )
    parser.add_argument("tables", nargs="*", type=_local, metavar="results.csv", help="one row per model")
    parser.add_argument("--models", help="names of the models to show, with commas between them")
    parser.add_argument("--baselines", action="store_true", help="add the paper's models")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(args)
    models = [name.strip() for name in options.models.split(",")] if options.models else None
    try:
        diagnosis = work(options.tables, models, baselines=options.baselines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(diagnosis.to_dict(), indent=2) if options.json else diagnosis)
    return 0


def doctor(args: Sequence[str]) -> int:
    """Print a report on the cluster, and on what a job lacks there. Returns 1 if something is missing."""
    import argparse

    from gve_ray.job import PreflightError
    from gve_ray.preflight import SECONDS, check_address
    from gve_ray.preflight import doctor as diagnose_cluster

    parser = argparse.ArgumentParser(
        prog="gve doctor",
        description="Show what the cluster has, what a job needs, what is missing, and where nodes differ.",
        epilog="After VERB come its own --config FILE and options, as in `gve VERB`.",
        allow_abbrev=False,
    )
    parser.add_argument("verb", nargs="?", metavar="VERB", choices=tuple(JOBS), help=", ".join(JOBS))
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--timeout", type=float, default=SECONDS, help="seconds for a node to answer (default %(default)g)"
    )
    options, rest = parser.parse_known_args(args)
    if options.timeout <= 0:
        parser.error(f"--timeout {options.timeout:g}: use positive seconds")
    if options.verb is None and rest:
        parser.error(f"{' '.join(rest)}: name the VERB first")
    needs = None
    if options.verb:
        job = JOBS[options.verb]
        config = job.read_config(rest, prog=f"gve doctor {job.name}")
        try:
            needs = job.needs_of(config)
        except PreflightError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        check_address(address, options.timeout)
        connect()
    except Exception as error:  # noqa: BLE001 - Ray raises all kinds of errors if it cannot connect
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(
            f"error: cannot connect to the cluster at {address or 'this machine'}: {reason}", file=sys.stderr
        )
        print("check RAY_ADDRESS, and RAY_AUTH_MODE and RAY_AUTH_TOKEN", file=sys.stderr)
        return 1
    report = diagnose_cluster(needs, seconds=options.timeout)
    print(report.to_json() if options.json else report)
    return 0 if report.is_enough else 1


def _local(path: str) -> Path:
    """A file that an argument names; shells leave the `~` of `--image=~/a.jpg` as it is."""
    from gve_ray.config import expand_home

    return Path(expand_home(path))


def connect() -> None:
    """Connect to the running cluster, or start Ray on this machine, on the loopback interface only."""
    running = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    if os.environ.get("RAY_ADDRESS", "local") == "local" and not running.is_file():
        # Set before Ray is imported. Otherwise it listens on all interfaces and keeps a token in the home folder.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not ray.is_initialized():
        # Ray Train asks the dashboard's server, on the loopback, which of its actors are still alive.
        ray.init(include_dashboard=True, logging_level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
