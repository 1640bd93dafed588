"""A Ray head of our own: loopback only, its own token, ports and folder, and jobs submitted to it.

    with LocalHead(num_cpus=2) as head:
        head.submit(["python", "jobs/synthesize.py", "--config", "demo.yaml"], working_dir=repository)

It neither sees nor touches another Ray on the machine: ports are free ones, the session lives in its own
temporary folder, and at the end only the processes below its own are stopped (`ray stop` would stop all).
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
ENDING_SECONDS = 60.0  # for a job to end in order when told to stop; 5 s on an idle machine
STOP_SECONDS = 45.0  # 2 s on an idle machine
LOOPBACK = "127.0.0.1"
NEVER_UPLOADED = ("runs", ".venv", ".git", "**/__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


class HeadError(RuntimeError):
    """The Ray head did not start, or a job on it did not succeed."""


class LocalHead:
    """Context manager: a `ray start --head` that is gone when the block is left, Ctrl-C included."""

    def __init__(self, *, num_cpus: int, object_store_bytes: int = 512 * 2**20) -> None:
        self.num_cpus = num_cpus
        self.object_store_bytes = object_store_bytes
        self.address = ""  # of the job server, http://127.0.0.1:port
        self.gcs_address = ""  # that other nodes join, 127.0.0.1:port
        self.token = secrets.token_hex(32)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "LocalHead":
        # A short path: Ray puts Unix sockets below it, whose paths may have 107 bytes at most.
        self.folder = Path(tempfile.mkdtemp(prefix="gve-"))
        self.log_path = self.folder / "ray_start.log"
        ports = _free_ports()
        self.address = f"http://{LOOPBACK}:{ports['dashboard']}"
        self.gcs_address = f"{LOOPBACK}:{ports['gcs']}"
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
            # Its own session: Ctrl-C reaches this program first, which then stops the head in order.
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
            # Both sides say it: otherwise Ray decides by whether ~/.ray/auth_token happens to exist.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            # On Linux Ray takes the machine's outer address for its node and listens on all interfaces,
            # whatever --node-ip-address says; this switch, made for other systems, keeps it on 127.0.0.1.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "AUTOSCALER_METRIC_PORT": str(ports["autoscaler_metrics"]),
            "DASHBOARD_METRIC_PORT": str(ports["dashboard_metrics"]),
            "RAY_TMPDIR": str(self.folder),
            # A finished job's actors hold Ray's drain up for its full 30 s, and nothing is served here.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # Told to stop, a job has 3 s before it is killed, and a service needs more to end in order.
            "RAY_JOB_STOP_WAIT_TIME_S": str(int(ENDING_SECONDS)),
            # The job's `python` is the one that runs this.
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
                return
            except OSError:  # refused until the server listens, or slow
                time.sleep(0.2)
        how = (
            "ended by itself"
            if self._process.poll() is not None
            else f"gave no answer in {START_SECONDS:g} s"
        )
        raise HeadError(f"the Ray head {how} ({self.address}):\n{self._log_tail()}")

    def _log_tail(self) -> str:
        return self.log_path.read_text(errors="replace")[-2000:]

    def get(self, path: str) -> dict[str, Any]:
        """What the job server answers to GET, a JSON object. Raises OSError while it does not."""
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def submit(self, entrypoint: Sequence[str], *, working_dir: Path) -> None:
        """Run one job by `ray job submit`, its log on our stdout. Raises HeadError unless it SUCCEEDED."""
        name, code = self._call_submit([], entrypoint, working_dir)
        # The client exits 0 for a job that was stopped, so its exit code is not the answer.
        state = self.state(name)
        if code != 0 or state != "SUCCEEDED":
            raise HeadError(f"job {name}: {state}, `ray job submit` exited with {code}; see its log above")

    def start(self, entrypoint: Sequence[str], *, working_dir: Path) -> str:
        """Submit one job and do not wait for it; gives its name, for `state`. Raises HeadError."""
        name, code = self._call_submit(["--no-wait"], entrypoint, working_dir)
        if code != 0:
            raise HeadError(f"job {name}: `ray job submit` exited with {code}; see its words above")
        return name

    @contextmanager
    def running(self, entrypoint: Sequence[str], *, working_dir: Path) -> Iterator[str]:
        """A job that goes on until it is stopped, at the end of the block; gives its name, for `state`.

        Raises HeadError when it cannot be submitted, or does not stop.
        """
        name = self.start(entrypoint, working_dir=working_dir)
        try:
            yield name
        finally:
            command = [*self._ray_job("stop"), name]
            subprocess.run(command, env=self.env, check=False, stdout=subprocess.DEVNULL)
            deadline = time.monotonic() + ENDING_SECONDS
            while self.state(name) in ("PENDING", "RUNNING") and time.monotonic() < deadline:
                time.sleep(0.2)
        if (state := self.state(name)) != "STOPPED":
            raise HeadError(f"job {name}: {state} after it was told to stop")

    def state(self, name: str) -> str:
        """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise HeadError(f"job {name}: the Ray head has ended by itself:\n{self._log_tail()}")
        return str(self.get(f"/api/jobs/{name}").get("status"))

    def log_of(self, name: str) -> str:
        """What a job has written so far."""
        return str(self.get(f"/api/jobs/{name}/logs").get("logs"))

    def _ray_job(self, verb: str) -> list[str]:
        return [str(Path(sys.executable).with_name("ray")), "job", verb, "--address", self.address]

    def _call_submit(
        self, options: Sequence[str], entrypoint: Sequence[str], working_dir: Path
    ) -> tuple[str, int]:
        """(name of the job, exit status of the client)."""
        name = f"{Path(entrypoint[1]).stem}-{secrets.token_hex(4)}"
        command = [
            *self._ray_job("submit"),
            *("--submission-id", name, "--working-dir", str(working_dir)),
            *("--runtime-env-json", json.dumps({"excludes": list(NEVER_UPLOADED)})),
            *(*options, "--", *entrypoint),
        ]
        return name, subprocess.run(command, env=self.env, check=False).returncode

    def processes(self) -> "list[psutil.Process]":
        """Everything that the head has started and that still runs, jobs and their children too."""
        import psutil

        assert self._process is not None
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _stop(self) -> None:
        """Stop the head in its own order, then whatever it started that is still there."""
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
        # A job's driver and an engine's subprocesses have sessions of their own; psutil checks a
        # process's start time before it signals, so a reused process id is never hit.
        _, alive = psutil.wait_procs(family, timeout=5)
        for process in alive:
            process.kill()
        self._process = None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind((LOOPBACK, 0))
        return int(one.getsockname()[1])


def _free_ports() -> dict[str, int]:
    """Ports that nobody listens on now, by the name of what will."""
    names = ("gcs", "dashboard", "agent", "client", "autoscaler_metrics", "dashboard_metrics")
    sockets = [socket.socket() for _ in names]
    try:
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    finally:
        for one in sockets:
            one.close()
