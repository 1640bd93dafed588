"""A process killed with SIGKILL leaves no descendants behind."""

import contextlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

OWNER = """
import subprocess, sys, time
from gve_ray.synthesis.orphan_reaper import start_orphan_reaper
pipe = start_orphan_reaper()
# A child process that has a child itself, like an engine with workers; neither watches its parent.
code = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
print(pipe.pid, child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""


# Another process holds the pipe, too, so that the reaper does not see it close.
HELD_OPEN = OWNER.replace(
    "stdout=subprocess.PIPE, text=True)",
    "stdout=subprocess.PIPE, text=True, pass_fds=[pipe.stdin.fileno()])",
    1,
)


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(OWNER, id=""),
        pytest.param(HELD_OPEN, id="the pipe is still open", marks=pytest.mark.slow),
    ],
)
def test_descendants_of_a_killed_process_end(program):
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    reaper, *descendants = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    try:
        wait_for_a_look(reaper)
        assert all(process.is_running() for process in descendants)
        owner.send_signal(signal.SIGKILL)
        # An orphan that is not reaped becomes a zombie, which counts as ended.
        deadline = time.monotonic() + 60
        while any(alive(process) for process in (reaper, *descendants)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        for process in (owner, *descendants):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        owner.wait()


def wait_for_a_look(reaper: psutil.Process) -> None:
    """Wait until the reaper has looked for descendants: it sleeps before and after each look.

    It gives up the processor once or twice more when its second thread starts.
    """
    while reaper.num_threads() < 2:
        time.sleep(0.1)
    looks = reaper.num_ctx_switches().voluntary + 5
    while reaper.num_ctx_switches().voluntary < looks:
        time.sleep(0.1)


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
