"""Kill the child processes of a process that has died; vLLM's engine processes do not exit by themselves.

An orphaned engine process keeps its GPU memory and waits indefinitely for requests, so the actor that
replaces the killed one cannot load the model. `start_orphan_reaper()` starts a small process that
holds one end of a pipe. When the owner ends for any reason, the pipe closes and the small process
kills the owner's descendants.
"""

import os
import subprocess
import sys
import threading

_POLL_SECONDS = 1.0


def start_orphan_reaper() -> "subprocess.Popen[bytes]":
    """Kill this process's descendants when it ends for any reason. Keep the result: it holds the pipe."""
    # By path: the interpreter need not find our package, and importing it would take a second.
    command = [sys.executable, os.path.abspath(__file__), str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def main(owner_pid: int) -> None:
    """Watch the owner's descendants until standard input ends; then kill those that were seen last."""
    import psutil

    owner, me = psutil.Process(owner_pid), os.getpid()
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    seen: list[psutil.Process] = []
    while not ended.wait(_POLL_SECONDS):
        try:
            # psutil knows a process by its start time too, so that a pid used again is not killed.
            children = [child for child in owner.children(recursive=True) if child.pid != me]
        except psutil.NoSuchProcess:
            break
        # The death of the owner gives all its children another parent, this process among them. The pipe may
        # close later, so a list that was read meanwhile can lack them.
        if os.getppid() != owner_pid:
            break
        seen = children
    for child in seen:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.buffer.read()
    ended.set()


if __name__ == "__main__":
    main(int(sys.argv[1]))
