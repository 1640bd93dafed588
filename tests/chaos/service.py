"""Run `gve serve` on an index of rendered videos, and a command against it.

    python -m tests.chaos.service schemathesis run {url}/openapi.json --checks all --max-time 300

`{url}` and `{pid}` in the command are replaced by the address and the process of the service. Prints how many
tracebacks the service has logged. The exit status is that of the command.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from gve_ray.demo.retrieval import Benchmark, write_heldout
from tests.serving.conftest import INDEX, environment, gve, wait_for_url

VIDEOS = 12
OPTIONS = ("--gateway.replicas.num_cpus", "0.3", "--port", "0")
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service.

    videos: the indexed files and queries. folder: contains the videos, the index and the log. driver: the process of
    `gve serve`, whose children are all other processes.
    """

    url: str
    videos: Benchmark
    folder: Path
    driver: psutil.Process

    def tracebacks(self) -> int:
        """Count the tracebacks in the log file that a running `gve serve` names in its first line."""
        log = _log(self.folder).read_text().split(maxsplit=2)[1]
        return Path(log).read_text(errors="replace").count("Traceback (most recent call last)")

    def toggle_video(self) -> str | None:
        """Add a video to the index, or remove it again; return what `gve index` has printed if it failed."""
        shown = self.folder / "videos" / "extra.mp4"
        hidden = shown.with_suffix(".hidden")
        if shown.exists():
            shown.rename(hidden)
        elif hidden.exists():
            hidden.rename(shown)
        else:
            more = write_heldout(self.folder / "more", n=2, seed=12, workers=1)
            shutil.copy(more.videos[0], shown)
        done = index(self.folder)
        return None if done.returncode == 0 else done.stderr[-1000:]


def _log(folder: Path) -> Path:
    return folder / "serve.log"


def index(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = gve("index", "--input", str(folder / "videos"), "--output", str(folder / "index"), *INDEX)
    with tempfile.TemporaryDirectory(prefix="gve-", ignore_cleanup_errors=True) as ray_folder:
        return subprocess.run(
            command, env=environment(Path(ray_folder)), capture_output=True, text=True, check=False
        )


@contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """Index rendered videos and serve them during the block."""
    videos = write_heldout(folder / "videos", n=VIDEOS, seed=11, workers=1)
    indexed = index(folder)
    assert indexed.returncode == 0, indexed.stderr[-3000:]
    models = f'[{{"name": "demo", "index": "{folder / "index"}", "replicas": {{"num_cpus": 0.5}}}}]'
    command = gve("serve", "--models", models, *OPTIONS)
    with tempfile.TemporaryDirectory(prefix="gve-", ignore_cleanup_errors=True) as ray_folder:
        with _log(folder).open("wb") as out:
            process = subprocess.Popen(
                command, env=environment(Path(ray_folder)), stdout=out, stderr=subprocess.STDOUT
            )
        try:
            url = wait_for_url(process, _log(folder))
            yield Service(url=url, videos=videos, folder=folder, driver=psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(timeout=120)


def main() -> int:
    with (
        tempfile.TemporaryDirectory(prefix="gve-service-") as folder,
        running_service(Path(folder)) as service,
    ):
        values = {"{url}": service.url, "{pid}": str(service.driver.pid)}
        command = [re.sub("{url}|{pid}", lambda name: values[name[0]], word) for word in sys.argv[1:]]
        code = subprocess.run(command, check=False).returncode
        print(f"tracebacks in the log of the service: {service.tracebacks()}")
    return code


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    sys.exit(main())
