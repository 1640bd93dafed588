"""Start a private Ray head on the loopback interface, and submit jobs to it.

    with LocalHead(num_cpus=2) as head:
        head.submit(["python", "jobs/synthesize.py", "--config", "demo.yaml"], working_dir=repository)

The head has its own token, uses free ports, and keeps its session in a temporary folder, so it does
not interfere with another Ray on the machine. At the end, only the processes that it started are
stopped; `ray stop` would stop all.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

START_SECONDS = 240.0  # 5 s on an idle machine
JOB_STOP_SECONDS = 60.0  # for a job to shut down after a stop request; 5 s on an idle machine
STOP_SECONDS = 45.0  # 2 s on an idle machine
LOOPBACK = "127.0.0.1"
NEVER_UPLOADED = ("runs", ".venv", ".git", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


class HeadError(RuntimeError):
    """The Ray head did not start, or a job on it failed."""


class LocalHead:
    """Context manager for a `ray start --head`, which ends when the block is left, also after
    Ctrl-C.
    """

    def __init__(self, *, num_cpus: int, object_store_bytes: int = 512 * 2**20) -> None:
        self.num_cpus = num_cpus
        self.object_store_bytes = object_store_bytes
        self.address = ""  # of the job server: http://127.0.0.1:port
        self.gcs_address = ""  # for other nodes to join: 127.0.0.1:port
        self.agent_port = 0
        self.token = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "LocalHead":
        # The path is short because Ray creates Unix sockets below it, whose paths are limited to
        # 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="gve-"))
        self.log_path = self.folder / "ray_start.log"
        ports = _free_ports()
        self.address = f"http://{LOOPBACK}:{ports['dashboard']}"
        self.gcs_address = f"{LOOPBACK}:{ports['gcs']}"
        self.agent_port = ports["agent"]
        self.env = self._environment(ports)
        command = [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block", "--disable-usage-stats"),
            f"--port={ports['gcs']}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={ports['dashboard']}",
            f"--dashboard-agent-listen-port={ports['agent']}",
            f"--ray-client-server-port={ports['client']}",
            f"--num-cpus={self.num_cpus}",
            f"--object-store-memory={self.object_store_bytes}",
            f"--temp-dir={self.folder}",
        ]
        with self.log_path.open("wb") as log:
            # In a separate session, Ctrl-C reaches this program only, which then shuts the head
            # down.
            self._process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if kind is None or issubclass(kind, KeyboardInterrupt):
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"Ray's own logs are kept in {self.folder}/session_latest/logs", file=sys.stderr)

    def _environment(self, ports: Mapping[str, int]) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
        return env | {
            # Set for the head and for clients; without it Ray's mode depends on whether
            # ~/.ray/auth_token exists.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            # On Linux, Ray uses the external address of the machine and listens on all interfaces,
            # even with --node-ip-address. This switch, meant for other systems, keeps it on
            # 127.0.0.1.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
            "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
            "RAY_TMPDIR": str(self.folder),
            # Actors of a finished job delay Ray's shutdown by the full 30 s of the drain, which is
            # not needed here.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # By default a job is killed 3 s after a stop request, which is too soon for a service
            # to shut down.
            "RAY_JOB_STOP_WAIT_TIME_S": str(int(JOB_STOP_SECONDS)),
            # Makes `python` in a job the interpreter that runs this program.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}",
        }

    def _wait_until_up(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                self.get("/api/version")
                # The agent, which runs jobs, starts later than the job server.
                socket.create_connection((LOOPBACK, self.agent_port), timeout=30).close()
                return
            except OSError:  # connections are refused until both listen
                time.sleep(0.2)
        ended = self._process.poll() is not None
        problem = "exited unexpectedly" if ended else f"did not answer within {START_SECONDS:g} s"
        raise HeadError(f"the Ray head {problem} ({self.address}):\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-2000:]

    def get(self, path: str) -> dict[str, Any]:
        """Send a GET request to the job server and return its JSON object. Raises OSError if it
        does not answer.
        """
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            body: dict[str, Any] = json.load(response)
        return body

    def submit(self, entrypoint: Sequence[str], *, working_dir: Path) -> None:
        """Run a job with `ray job submit`, which prints its log. Raises HeadError unless the job
        succeeds.
        """
        name, code = self._call_submit([], entrypoint, working_dir)
        # The client also exits with 0 for a job that was stopped, so the state has to be checked as
        # well.
        state = self.state(name)
        if code != 0 or state != "SUCCEEDED":
            raise HeadError(f"job {name}: {state}, `ray job submit` exited with {code}; see its log above")

    def start(self, entrypoint: Sequence[str], *, working_dir: Path) -> str:
        """Submit a job without waiting for it, and return its name. Raises HeadError if the
        submission fails.
        """
        name, code = self._call_submit(["--no-wait"], entrypoint, working_dir)
        if code != 0:
            raise HeadError(f"job {name}: `ray job submit` exited with {code}; see its output above")
        return name

    @contextmanager
    def running(self, entrypoint: Sequence[str], *, working_dir: Path) -> Iterator[str]:
        """Context manager for a job that runs until the end of the block; yields the name of the
        job.

        Raises HeadError if the job cannot be submitted or does not stop.
        """
        name = self.start(entrypoint, working_dir=working_dir)
        try:
            yield name
        finally:
            command = [*self._ray_job("stop"), name]
            subprocess.run(command, env=self.env, check=False, stdout=subprocess.DEVNULL)
            deadline = time.monotonic() + JOB_STOP_SECONDS
            while self.state(name) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
                time.sleep(0.2)
        if (state := self.state(name)) != "STOPPED":
            raise HeadError(f"job {name}: {state} after a stop request")

    def state(self, name: str) -> str:
        """Return the state of a job: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.

        Raises HeadError if the head has exited.
        """
        assert self._process is not None
        if self._process.poll() is not None:
            raise HeadError(f"job {name}: the Ray head exited unexpectedly:\n{self._log_tail()}")
        return str(self.get(f"/api/jobs/{name}").get("status"))

    def log_of(self, name: str) -> str:
        """Return what a job has printed so far."""
        return str(self.get(f"/api/jobs/{name}/logs").get("logs"))

    def _ray_job(self, verb: str) -> list[str]:
        return [str(Path(sys.executable).with_name("ray")), "job", verb, "--address", self.address]

    def _call_submit(
        self, options: Sequence[str], entrypoint: Sequence[str], working_dir: Path
    ) -> tuple[str, int]:
        """Run `ray job submit`, and return the name of the job and the exit status of the client."""
        name = f"{Path(entrypoint[1]).stem}-{secrets.token_hex(4)}"
        command = [
            *self._ray_job("submit"),
            *("--submission-id", name, "--working-dir", str(working_dir)),
            *("--runtime-env-json", json.dumps({"excludes": list(NEVER_UPLOADED)})),
            *(*options, "--", *entrypoint),
        ]
        return name, subprocess.run(command, env=self.env, check=False).returncode

    def processes(self) -> "list[psutil.Process]":
        """Return all running processes that the head started, including those of jobs."""
        import psutil

        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _stop(self) -> None:
        """Shut the head down, then kill those of its processes that are still running."""
        import psutil

        if self._process is None:
            return
        family = self.processes()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        # The drivers of jobs and the subprocesses of engines run in separate sessions. psutil
        # compares the start time before it signals a process, so it does not hit a reused process
        # id.
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()
        self._process = None


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as unbound:
        unbound.bind((LOOPBACK, 0))
        return int(unbound.getsockname()[1])


def _free_ports() -> dict[str, int]:
    """Return free ports by the name of the service that will use them."""
    names = ("gcs", "dashboard", "agent", "client", "autoscaler_metrics", "dashboard_metrics")
    sockets = [socket.socket() for _ in names]
    try:
        for reserved in sockets:
            reserved.bind((LOOPBACK, 0))
        return {name: s.getsockname()[1] for name, s in zip(names, sockets, strict=True)}
    finally:
        for reserved in sockets:
            reserved.close()
