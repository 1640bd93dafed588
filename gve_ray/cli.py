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
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from gve_ray.registry import JOBS

if TYPE_CHECKING:
    import argparse

    from gve_ray.preflight import Needs, Report

USAGE = """From a folder of raw videos to video search.

usage: gve VERB [--config FILE] [--verbose] [--section.option VALUE ...]
       gve demo [--config FILE] [--verbose] [--folder FOLDER]
       gve synthesize --output RUN --thresholds [--json] [--section.option VALUE ...]
       gve evaluate --config FILE --check
       gve train --config FILE --plan [--json]
       gve search [TEXT] [--image FILE] [--video FILE] [--like ID] [--without TEXT] [--top_k N] [--only URI]
                  [--after TIME] [--before TIME] [--filter JSON] [--group_by video] [--open [N]]
                  [--save N FILE] [--url URL]
       gve mcp [--url URL]
       gve export RUN --form webdataset|datasets --output FOLDER [--tasks T2V,V2V] [--shard_pairs N]
       gve diagnose [results.csv ...] [--models a,b] [--baselines] [--json]
       gve leaderboard RUN [RUN ...] [--baselines] --output FILE.html|FILE.csv|FILE.json
       gve uvrb prepare FOLDER [--json]
       gve models [--json]
       gve doctor [VERB --config FILE [--section.option VALUE ...]] [--json] [--timeout SECONDS]

verbs:
  demo         run all jobs in miniature on rendered videos, and score the results
  synthesize   make assets, annotations and training pairs from raw videos with noisy captions;
               --thresholds only shows what other thresholds would keep of the videos of a run
  train        train a LoRA adapter that makes a base model an embedder; --plan only shows the
               steps, passes and learning rate that each task would get
  evaluate     score models on retrieval data sets; --check only checks the data sets,
               --sweep.frames [8,16] --sweep.max_pixels [156800] scores at several settings
  index        index the moments of a folder of videos; run again, it processes only what has changed
  serve        serve models and indexes over HTTP, with a search page
  search       query a running service; set GVE_API_KEY if the service has a key
  mcp          offer a running service to assistants, as tools of the Model Context Protocol
  export       write the pairs of a synthesis run with their frames, as WebDataset archives or as
               Parquet files for Hugging Face's datasets
  uvrb         prepare: unpack a downloaded UVRB, count it, and show what is missing
  diagnose     compare result tables: abilities, their correlations, which of the paper's findings hold
  leaderboard  put the results of several evaluations side by side, the best model first
  models       list the published models that a config can name as `convention: NAME`
  doctor       show which recipes this machine or cluster can run, and how fast it would index;
               with a VERB: what it needs, what is missing, and where nodes differ

examples:
  gve index --config demo.yaml --input VIDEOS --output INDEX
  gve serve --index INDEX
  gve search "a red ball rolls to the left" --top_k 5
  gve synthesize --config gve-3b.yaml --input VIDEOS --output RUN --captioner.model Qwen/Qwen2.5-VL-7B-Instruct
  gve train --config gve-3b.yaml --data '[{{name: uvrd, uri: RUN/uvrd}}]' --assets RUN/assets.lance --output ADAPTER

FILE is a YAML file or the name of a recipe for the verb: {recipes}.
The output of Ray, vLLM and other libraries goes to OUTPUT/logs; --verbose shows it instead.
`gve VERB --help` lists a verb's options; `gve VERB --config FILE --print_config` shows the whole config."""

_DOCTOR_HINT = """`gve demo` runs all jobs on rendered videos. `gve doctor VERB --config RECIPE` shows in detail what
a job needs and what is missing."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    verbs: dict[str, Callable[[list[str]], int]] = {
        **{name: partial(run, name) for name in JOBS},
        "demo": demo,
        "search": search,
        "mcp": mcp,
        "export": export,
        "diagnose": diagnose,
        "leaderboard": leaderboard,
        "uvrb": uvrb,
        "models": models,
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
    return JOBS[job].main(args, prog=f"gve {job}", connect=partial(connect, dashboard=job == "train"))


def demo(args: Sequence[str]) -> int:
    """Run all jobs on rendered videos on this machine, and score the results."""
    from gve_ray.config import load_config
    from gve_ray.demo.config import DemoConfig
    from gve_ray.job import VERBOSE, run_job

    config = load_config(DemoConfig, [arg for arg in args if arg != VERBOSE], prog="gve demo")
    work = resolve_name("gve_ray.demo.run:run_demo")
    connect_for_all = partial(connect, dashboard=True)  # for training
    return run_job("demo", lambda: work(config, connect=connect_for_all), verbose=VERBOSE in args)


def search(args: Sequence[str]) -> int:
    """Query a running service and print its hits; on request, play one in the browser, or save it."""
    import json
    import webbrowser
    from urllib.parse import urlencode

    from gve_ray.serving.client import Client, ServiceError
    from gve_ray.serving.hits import as_csv, as_edl, as_text, confident

    parser = _search_parser()
    query = vars(parser.parse_args(args))
    query["text"] = " ".join(query["text"]) or None
    if query["save"] and not query["save"][0].isdecimal():
        parser.error(f"--save {query['save'][0]}: begin with the number of a hit, as in --save 1 moment.mp4")
    names = ("url", "json", "csv", "edl", "open", "save", "verbose")
    url, to_json, to_csv, to_edl, opened, saved, verbose = (query.pop(name) for name in names)
    _log_if(verbose)
    client = Client(url, key=os.environ.get("GVE_API_KEY"))
    try:
        hits = client.search(**query)
    except (ServiceError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not to_json:
        found, hits = len(hits), confident(hits)
        if weak := found - len(hits):
            none = "" if hits else "no confident match; "
            print(f"{none}weak hits left out: {weak}; --min_confidence 0 shows them", file=sys.stderr)
    write = as_csv if to_csv else as_edl if to_edl else as_text
    if output := json.dumps(hits, indent=1) if to_json else write(hits):
        print(output)
    for option, number in (("--open", opened), ("--save", saved and int(saved[0]))):
        if number is not None and not 1 <= number <= len(hits):
            print(f"error: {option} {number}: the number of hits is {len(hits)}", file=sys.stderr)
            return 1
    if opened:
        address = {"model": query["model"], "moment": hits[opened - 1]["id"]}
        given = {name: value for name, value in address.items() if value}
        webbrowser.open(f"{url.rstrip('/')}/?{urlencode(given)}")
    if saved:
        try:
            client.save(hits[int(saved[0]) - 1]["links"]["moment"], Path(saved[1]))
        except (ServiceError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _search_parser() -> "argparse.ArgumentParser":
    import argparse
    import json

    from gve_ray.serving.client import URL
    from gve_ray.serving.hits import MIN_CONFIDENCE

    parser = argparse.ArgumentParser(
        prog="gve search", description="Find moments of the indexed videos, best first."
    )
    parser.add_argument("text", nargs="*", metavar="TEXT")
    parser.add_argument("--image", type=_local, metavar="FILE")
    parser.add_argument("--video", type=_local, metavar="FILE")
    parser.add_argument("--top_k", "--top-k", type=int, default=10)
    parser.add_argument("--filter", type=json.loads, help='e.g. \'{"duration": {"gte": 10}}\'')
    parser.add_argument(
        "--like",
        action="append",
        default=[],
        metavar="ID",
        help="find what is similar to this hit (--json shows its id); repeat it for several",
    )
    parser.add_argument("--without", metavar="TEXT", help="what the moments should not show, such as 'a dog'")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="URI",
        help="search only in this video, as a hit names it; repeat it for several",
    )
    for name, limits in (("--after", "begin at or after"), ("--before", "end at or before")):
        parser.add_argument(
            name,
            type=_seconds,
            metavar="TIME",
            help=f"find only moments that {limits} this time of their video: seconds, 10:00 or 1:02:03",
        )
    parser.add_argument("--instruction", help="a sentence that says what should match")
    parser.add_argument("--model", help="name of a served model; the default is the first one with an index")
    parser.add_argument(
        "--overlapping", action="store_true", help="also find moments that overlap better ones of the video"
    )
    parser.add_argument(
        "--by",
        choices=("both", "picture", "words"),
        help="what is searched: pictures, words, or both (default)",
    )
    parser.add_argument(
        "--group_by",
        "--group-by",
        choices=("video",),
        help="video: show each video once, with its best moment",
    )
    parser.add_argument(
        "--min_confidence",
        "--min-confidence",
        type=float,
        help=f"leave out hits with less confidence, from 0 to 1 (default {MIN_CONFIDENCE}; 0 shows all)",
    )
    parser.add_argument(
        "--no_rerank", "--no-rerank", dest="rerank", action="store_false", help="do not rerank the best hits"
    )
    parser.add_argument("--url", default=URL, help=f"address of the service (default {URL})")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print everything as JSON")
    forms.add_argument("--csv", action="store_true", help="print a table for a spreadsheet")
    forms.add_argument("--edl", action="store_true", help="print an edit decision list for a video editor")
    parser.add_argument(
        "--open", type=int, nargs="?", const=1, metavar="N", help="also play hit N (default 1) in the browser"
    )
    parser.add_argument("--save", nargs=2, metavar=("N", "FILE"), help="also save hit N as an mp4 file")
    _add_verbose(parser)
    return parser


def mcp(args: Sequence[str]) -> int:
    """Offer a running service to the assistant that has started this program, until it ends."""
    import argparse
    from importlib.util import find_spec

    from gve_ray.serving.client import URL, Client
    from gve_ray.serving.mcp import run as run_server

    parser = argparse.ArgumentParser(
        prog="gve mcp",
        description="Serve tools that search videos, by the Model Context Protocol on standard input and output.",
    )
    parser.add_argument("--url", default=URL, help=f"address of the service (default {URL})")
    url = parser.parse_args(args).url
    if find_spec("mcp") is None:
        print("error: the package mcp is not installed; run pip install 'gve-ray[mcp]'", file=sys.stderr)
        return 2
    run_server(Client(url, key=os.environ.get("GVE_API_KEY")))
    return 0


def export(args: Sequence[str]) -> int:
    """Write the pairs of a synthesis run, with their frames, as files for other programs."""
    import argparse

    from gve_ray.config import expand_home
    from gve_ray.job import run_job
    from gve_ray.schema import UVRD_TASKS

    parser = argparse.ArgumentParser(
        prog="gve export",
        description="Write the pairs of `gve synthesize` with their frames. Started again, it continues.",
    )
    parser.add_argument("run", metavar="RUN", help="the output folder of `gve synthesize`")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="path or URI of a new folder")
    parser.add_argument(
        "--form",
        choices=("webdataset", "datasets"),
        required=True,
        help="webdataset: tar archives; datasets: Parquet files for Hugging Face's datasets",
    )
    parser.add_argument(
        "--tasks", help=f"with commas between them, of {', '.join(UVRD_TASKS)} (default: all)"
    )
    parser.add_argument(
        "--videos",
        choices=("frames", "files"),
        default="frames",
        help="the stored frames, or the source files (default %(default)s)",
    )
    parser.add_argument("--shard_pairs", type=int, default=1000, help="pairs per file (default %(default)s)")
    _add_verbose(parser)
    options = parser.parse_args(args)
    work = resolve_name("gve_ray.synthesis.export:export")
    tasks = [name.strip() for name in options.tasks.split(",")] if options.tasks else []
    return run_job(
        "export",
        lambda: work(
            expand_home(options.run),
            expand_home(options.output),
            form=options.form,
            videos=options.videos,
            tasks=tasks,
            shard_pairs=options.shard_pairs,
        ),
        verbose=options.verbose,
    )


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
    _add_verbose(parser)
    options = parser.parse_args(args)
    _log_if(options.verbose)
    models = [name.strip() for name in options.models.split(",")] if options.models else None
    try:
        diagnosis = work(options.tables, models, baselines=options.baselines)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(diagnosis.to_dict(), indent=2) if options.json else diagnosis)
    return 0


def leaderboard(args: Sequence[str]) -> int:
    """Write the results of several evaluation runs as one table, and print its averages."""
    import argparse

    from gve_ray.config import expand_home
    from gve_ray.evaluation.leaderboard import check_format
    from gve_ray.evaluation.leaderboard import leaderboard as work

    parser = argparse.ArgumentParser(
        prog="gve leaderboard", description="Put the results of evaluation runs side by side."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the output folder of a finished evaluation")
    parser.add_argument("--baselines", action="store_true", help="add the paper's models")
    parser.add_argument("--output", required=True, metavar="FILE", help="ends in .html, .csv or .json")
    _add_verbose(parser)
    options = parser.parse_args(args)
    _log_if(options.verbose)
    try:
        check_format(options.output)
        board = work([expand_home(run) for run in options.runs], baselines=options.baselines)
        board.write(expand_home(options.output))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{board}\n{options.output}")
    return 0


def uvrb(args: Sequence[str]) -> int:
    """Prepare a downloaded UVRB. Returns 1 if a data set is missing, incomplete or of another size."""
    import argparse

    from gve_ray.evaluation.data.prepare import prepare_uvrb

    parser = argparse.ArgumentParser(
        prog="gve uvrb",
        description="Unpack the archives below a folder, and compare its data sets with the paper's sizes.",
    )
    parser.add_argument("action", choices=["prepare"])
    parser.add_argument("folder", type=_local, metavar="FOLDER")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    _add_verbose(parser)
    options = parser.parse_args(args)
    _log_if(options.verbose)
    try:
        preparation = prepare_uvrb(str(options.folder))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(preparation.to_json() if options.json else preparation)
    return 0 if preparation.is_complete else 1


def models(args: Sequence[str]) -> int:
    """Print the conventions of published models, as text or as JSON."""
    import argparse
    import json
    from dataclasses import asdict

    from gve_ray.conventions import conventions, listing

    parser = argparse.ArgumentParser(
        prog="gve models",
        description="List the published models that `convention: NAME` runs as they must be run.",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(args)
    print(json.dumps([asdict(row) for row in conventions()], indent=2) if options.json else listing())
    return 0


def doctor(args: Sequence[str]) -> int:
    """Print a report on the cluster, and on what a job lacks there. Returns 1 if something is missing."""
    from gve_ray.job import JobError, PreflightError
    from gve_ray.preflight import Report, capacity_findings, local_nodes

    options, rest = _doctor_options(args)
    needs = None
    try:
        if options.verb:
            job = JOBS[options.verb]
            needs = job.needs_of(job.read_config(rest, prog=f"gve doctor {job.name}"))
        if needs is None and not has_cluster():
            findings = list(capacity_findings(all_needs(), local_nodes()))
            report = Report(address="", job=None, findings=findings)
            text = f"{report.brief()}\n\n{_DOCTOR_HINT}"
        else:
            report, text = _examine_cluster(needs, seconds=options.timeout, verbose=options.verbose)
    except (PreflightError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, PreflightError) else 1
    print(report.to_json() if options.json else text)
    return 0 if report.is_enough else 1


def _doctor_options(args: Sequence[str]) -> "tuple[argparse.Namespace, list[str]]":
    """Parse the arguments of the doctor; return its options, and the arguments of the verb."""
    import argparse

    from gve_ray.preflight import SECONDS

    parser = argparse.ArgumentParser(
        prog="gve doctor",
        description="Show which recipes the cluster can run or, with a VERB, what it needs and what is missing.",
        epilog="After VERB come its own --config FILE and options, as in `gve VERB`.",
        allow_abbrev=False,
    )
    parser.add_argument("verb", nargs="?", metavar="VERB", choices=tuple(JOBS), help=", ".join(JOBS))
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--timeout", type=float, default=SECONDS, help="seconds for a node to answer (default %(default)g)"
    )
    _add_verbose(parser)
    options, rest = parser.parse_known_args(args)
    _log_if(options.verbose)
    if options.timeout <= 0:
        parser.error(f"--timeout {options.timeout:g}: use positive seconds")
    if options.verb is None and rest:
        parser.error(f"{' '.join(rest)}: name the VERB first")
    return options, rest


def _examine_cluster(needs: "Needs | None", *, seconds: float, verbose: bool) -> "tuple[Report, str]":
    """Connect to the cluster; return a report on it, and the report as text.

    needs: of a job; without a job, the report also says which recipes fit. seconds: for a node to
    answer. Raises JobError if there is no connection.
    """
    from dataclasses import replace

    from gve_ray.job import connect_to_ray, output_of
    from gve_ray.preflight import capacity_findings, check_address, live_nodes, spare_nodes
    from gve_ray.preflight import doctor as diagnose_cluster

    def connect_in_time() -> None:
        check_address(os.environ.get("RAY_ADDRESS", ""), seconds)
        connect()

    with output_of("doctor", verbose=verbose):
        connect_to_ray(connect_in_time)
        report = diagnose_cluster(needs, seconds=seconds)
        if needs is not None:
            return report, str(report)
        capacity = list(capacity_findings(all_needs(), live_nodes(), spare_nodes()))
    text = f"{replace(report, findings=capacity).brief()}\n\nthe cluster at {report.address}\n{report}"
    return replace(report, findings=[*report.findings, *capacity]), text


def all_needs() -> dict[str, dict[str, Any]]:
    """Return the needs of every packaged recipe, by job and by the recipe's name."""
    recipes = Path(__file__).parent / "recipes"
    return {
        name: {
            path.name: job.needs_of(job.read_config(["--config", str(path)], prog="gve doctor"))
            for path in sorted((recipes / name).glob("*.yaml"))
        }
        for name, job in JOBS.items()
    }


def _add_verbose(parser: "argparse.ArgumentParser") -> None:
    parser.add_argument("--verbose", action="store_true", help="show the log of all libraries")


def _log_if(verbose: bool) -> None:
    if verbose:
        logging.basicConfig(level=logging.INFO)


def _local(path: str) -> Path:
    """A file that an argument names; shells leave the `~` of `--image=~/a.jpg` as it is."""
    from gve_ray.config import expand_home

    return Path(expand_home(path))


def _seconds(time: str) -> float:
    """Return the seconds of a time, an argument, that is written as s, m:ss or h:mm:ss."""
    import argparse

    try:
        parts = [float(part) for part in time.split(":")]
    except ValueError:
        parts = [-1.0]
    if len(parts) > 3 or not all(0 <= part < float("inf") for part in parts):
        raise argparse.ArgumentTypeError(f"{time!r} is not a time; write seconds, 10:00 or 1:02:03")
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))


def has_cluster() -> bool:
    """Return whether there is a cluster to connect to: one that RAY_ADDRESS names, or on this machine."""
    running = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    return os.environ.get("RAY_ADDRESS", "local") != "local" or running.is_file()


def connect(num_cpus: int | None = None, *, dashboard: bool = False) -> None:
    """Connect to the running cluster, or start Ray on this machine, on the loopback interface only.

    num_cpus: of a Ray that is started; None: all of this machine. dashboard: whether it has Ray's dashboard, whose
    server Ray Train asks which of its actors are still alive. Its ten processes take seconds of CPU to start.
    """
    if not has_cluster():
        # Set before Ray is imported. Otherwise it listens on all interfaces and keeps a token in the home folder.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        # Large data does not go through Ray's object store, and models need the memory.
        os.environ.setdefault("RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION", "0.1")
        # The logs of workers; Ray's default is 6 files of 512 MB for each worker.
        os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(64 * 2**20))
        os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "3")
        # On a busy machine a worker may need longer than Ray's 60 s to start, and Ray would give it up.
        os.environ.setdefault("RAY_worker_register_timeout_seconds", "300")
    import ray

    if not ray.is_initialized():
        ray.init(num_cpus=num_cpus, include_dashboard=dashboard, logging_level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
