import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, sys, threading
from gve_ray.job import limit_malloc_arenas
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
if sys.argv[2] == "limited":
    limit_malloc_arenas()
all_started = threading.Barrier(8)
def work():
    bytes(100_000)
    all_started.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def test_threads_share_malloc_arenas(tmp_path: Path) -> None:
    arenas = {}
    for setting in ("limited", "default"):
        path = tmp_path / setting
        subprocess.run([sys.executable, "-c", PROGRAM, str(path), setting], check=True)
        arenas[setting] = path.read_text().count("<heap nr=")
    assert arenas["default"] >= 8, "an arena for each thread"
    assert arenas["limited"] <= 2, "one for the main thread; imports may have made another before the limit"
