"""The jobs: for each name the class of its config, the function that declares its needs, and the one that runs it.

    JOBS["train"].main(["--config", "demo.yaml"], prog="gve train", connect=connect)     # exit status

`gve`, `gve doctor` and the scripts in jobs/ take their jobs from here. Functions are given as
"module:name" and imported when they are used, so that `gve --help` does not load torch and Ray.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Job:
    """One kind of job.

    config: the class of its config. needs: a function from a config to `preflight.Needs`. run: a
    function from a config and `connect`, which connects to Ray, to a printable result. alone: by flag,
    such as `--check`, a function from a config to a printable result, which runs instead of the job
    and needs no Ray. as_json: those of these flags whose result has `to_json`, for `--json`. of_run: those that
    look at the run in the folder `--output`, whose config holds for all options that are not given.
    """

    name: str
    config: str
    needs: str
    run: str
    alone: Mapping[str, str] = field(default_factory=dict)
    as_json: tuple[str, ...] = ()
    of_run: tuple[str, ...] = ()

    def read_config(self, args: Sequence[str], *, prog: str) -> Any:
        """Return the config that the arguments give. Exits with status 2 where they are wrong."""
        from gve_ray.config import load_config

        return load_config(resolve_name(self.config), args, prog=prog)

    def needs_of(self, config: Any) -> Any:
        """Return the `preflight.Needs` of a config. May raise PreflightError."""
        return resolve_name(self.needs)(config)

    def main(self, args: Sequence[str], *, prog: str, connect: Callable[[], object]) -> int:
        """Run the job and return its exit status.

        connect: called once the checks that need no cluster have passed. The arguments may contain
        `--verbose`, which shows all output of Ray and other libraries.
        """
        from gve_ray.job import VERBOSE, connect_to_ray, run_job

        run = partial(run_job, self.name, verbose=VERBOSE in args)
        args = [arg for arg in args if arg != VERBOSE]
        if flag := next((arg for arg in args if arg in self.alone), None):
            work = resolve_name(self.alone[flag])
            is_json = flag in self.as_json and "--json" in args
            ours = {flag, "--json"} if is_json else {flag}
            args = [arg for arg in args if arg not in ours]
            with TemporaryDirectory(prefix="gve-") as folder:
                earlier = _config_of_run(args, folder) if flag in self.of_run else []
                config = self.read_config([*earlier, *args], prog=prog)
            return run(lambda: work(config).to_json() if is_json else work(config))
        config = self.read_config(args, prog=prog)
        return run(lambda: resolve_name(self.run)(config, connect=partial(connect_to_ray, connect)))


def _config_of_run(args: Sequence[str], folder: str) -> list[str]:
    """Return the arguments that give the config of the run in the folder that `--output` names.

    folder: the config is written there. Exits with status 2 if there is no run.
    """
    from gve_ray.config import expand_home
    from gve_ray.store.runfolder import RUN_FILE, filesystem

    output = next((value for name, value in pairwise(args) if name == "--output"), None)
    output = output or next((arg.partition("=")[2] for arg in args if arg.startswith("--output=")), None)
    if not output:
        return []
    files, root = filesystem(expand_home(output))
    try:
        with files.open_input_stream(f"{root}/{RUN_FILE}") as stream:
            config = json.loads(stream.read())["config"]
    except FileNotFoundError:
        print(
            f"error: output={output!r}: no {RUN_FILE} in it; name the output folder of a run", file=sys.stderr
        )
        sys.exit(2)
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(config))
    return ["--config", str(path)]


JOBS = {
    job.name: job
    for job in (
        Job(
            name="synthesize",
            config="gve_ray.synthesis.config:SynthesisConfig",
            needs="gve_ray.synthesis.needs:needs_of",
            run="gve_ray.synthesis.job:synthesize",
            alone={"--thresholds": "gve_ray.synthesis.thresholds:judge_thresholds"},
            as_json=("--thresholds",),
            of_run=("--thresholds",),
        ),
        Job(
            name="train",
            config="gve_ray.training.config:TrainingJobConfig",
            needs="gve_ray.training.needs:needs_of",
            run="gve_ray.training.run:train",
            alone={"--plan": "gve_ray.training.plan:plan_run"},
            as_json=("--plan",),
        ),
        Job(
            name="evaluate",
            config="gve_ray.evaluation.config:EvaluationJobConfig",
            needs="gve_ray.evaluation.needs:needs_of",
            run="gve_ray.evaluation.sweep:run",
            alone={"--check": "gve_ray.evaluation.data.eval_sets:check"},
        ),
        Job(
            name="index",
            config="gve_ray.indexing.config:IndexConfig",
            needs="gve_ray.indexing.needs:needs_of",
            run="gve_ray.indexing.run:run",
        ),
        Job(
            name="serve",
            config="gve_ray.serving.config:ServeConfig",
            needs="gve_ray.serving.needs:needs_of",
            run="gve_ray.serving.run:serve",
        ),
    )
}
