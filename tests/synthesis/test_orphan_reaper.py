"""A process killed with SIGKILL leaves no descendants behind."""

import contextlib
import signal
import subprocess
import sys
import time

import psutil

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


def test_descendants_of_a_killed_process_end():
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    reaper, *descendants = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    try:
        time.sleep(3)  # the reaper checks once a second
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


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
